"""Zero-shot accuracy by a plain loop: ImageFolder, CLIP's own preprocessing with Pillow, DataLoader, batch by batch.

    .venv/bin/python benchmarks/plain_loop.py --images DIR --architecture ViT-B-32-quickgelu --weights FILE.safetensors

The loop that everybody writes first, to compare with. Prints a line of JSON: images and right answers.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext

import open_clip
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a folder with a folder for each class")
    parser.add_argument("--architecture", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--workers", type=int, default=0, help="loading processes")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    model, _, preprocess = open_clip.create_model_and_transforms(arguments.architecture, pretrained=arguments.weights)
    model = model.to(arguments.device).eval()
    if arguments.channels_last:
        model = model.to(memory_format=torch.channels_last)
    dataset = ImageFolder(arguments.images, preprocess)
    pin = arguments.device != "cpu"
    loader = DataLoader(dataset, batch_size=arguments.batch_size, num_workers=arguments.workers, pin_memory=pin)
    tokens = open_clip.get_tokenizer(arguments.architecture)([f"a photo of a {name}." for name in dataset.classes])
    classes = model.encode_text(tokens.to(arguments.device), normalize=True).float()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(arguments.precision)
    right = 0
    for images, labels in loader:
        images = images.to(arguments.device, non_blocking=pin)
        if arguments.channels_last:
            images = images.to(memory_format=torch.channels_last)
        with torch.autocast(arguments.device, dtype) if dtype else nullcontext():
            features = model.encode_image(images, normalize=True)
        right += int(((features.float() @ classes.T).argmax(dim=1).cpu() == labels).sum())
    print(json.dumps({"images": len(dataset), "right": right}))


if __name__ == "__main__":
    main()
