"""Fine-tune with OpenAI's own CLIP code by the recipe of transferlearning's code/clip, as the reference for ours.

    .venv-reference/bin/python tests/reference/finetune.py IN.safetensors OUT.safetensors

IN: `weights/<key of OpenAI's state dict>`, `pixels` (float32, normalised) and `tokens`, a batch a step, and, in the
metadata, `round_trip`: 1 to keep weights in fp16 between steps, as on a GPU, 0 not to, as on a CPU.
OUT: `losses` (one a step) and `weights/<key>` after the last step.
"""

import argparse
from pathlib import Path

import torch
from clip.model import convert_weights
from openai_clip import WEIGHTS, build_float32
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy


def train(weights: dict[str, Tensor], pixels: Tensor, tokens: Tensor, round_trip: bool) -> dict[str, Tensor]:
    """The tensors of an OUT file."""
    model = build_float32(weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
    losses = []
    for images, texts in zip(pixels, tokens, strict=True):
        per_image, per_text = model(images, texts)
        targets = torch.arange(len(images))
        loss = (cross_entropy(per_image, targets) + cross_entropy(per_text, targets)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if round_trip:
            convert_weights(model)
            for parameter in model.parameters():
                parameter.data, parameter.grad = parameter.data.float(), None
        losses.append(loss.item())
    state = {f"{WEIGHTS}{key}": tensor.contiguous() for key, tensor in model.state_dict().items()}
    return {"losses": torch.tensor(losses, dtype=torch.float64), **state}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, metavar="IN.safetensors")
    parser.add_argument("output", type=Path, metavar="OUT.safetensors")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tensors = load_file(arguments.input)
    weights = {key.removeprefix(WEIGHTS): tensor for key, tensor in tensors.items() if key.startswith(WEIGHTS)}
    with safe_open(arguments.input, framework="pt") as file:
        round_trip = file.metadata()["round_trip"] == "1"
    save_file(train(weights, tensors["pixels"], tensors["tokens"], round_trip), arguments.output)


if __name__ == "__main__":
    main()
