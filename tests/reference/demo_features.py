"""Extracts features as mode `fe` of jindongwang/transferlearning's code/clip does, with OpenAI's own image tower.

    .venv-reference/bin/python tests/reference/demo_features.py WEIGHTS.safetensors DOMAIN OUT.csv

WEIGHTS are those of `tiny`; its text half is narrower than OpenAI's code builds, so only the image tower is made.
DOMAIN holds a folder of images a class. As in the original, batches are shuffled, rows are raw features with the label
in the last column, and numbers have four digits.
"""

import sys

import numpy as np
import torch
from clip.clip import _transform
from clip.model import ModifiedResNet
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

SIDE, WIDTH, DIM = 64, 16, 64


def image_tower(path: str) -> ModifiedResNet:
    """`tiny`'s image half."""
    tower = ModifiedResNet((1, 1, 1, 1), output_dim=DIM, heads=WIDTH * 32 // 64, input_resolution=SIDE, width=WIDTH)
    weights = {name.removeprefix("visual."): each for name, each in load_file(path).items() if "visual." in name}
    tower.load_state_dict(weights, strict=True)
    return tower.eval()


@torch.no_grad()
def main(weights: str, domain: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(42)
    tower, rows = image_tower(weights), []
    for images, labels in DataLoader(ImageFolder(domain, _transform(SIDE)), batch_size=32, shuffle=True):
        rows.append(torch.cat([tower(images), labels.view(-1, 1)], dim=1))
    np.savetxt(out, torch.cat(rows).numpy(), fmt="%.4f")


if __name__ == "__main__":
    main(*sys.argv[1:])
