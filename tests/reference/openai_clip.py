"""Encode images and texts with OpenAI's own CLIP code, as the reference for ours.

    .venv-reference/bin/python tests/reference/openai_clip.py IN.safetensors OUT.safetensors

IN: `weights/<key of OpenAI's state dict>`, `pixels` (float32, normalised) and, in the metadata, `texts` (a JSON list).
OUT: `images` and `texts` (float32, one row each, not normalised) and `parameters` (int64, how many the model has).
"""

import argparse
import json
from pathlib import Path

import clip
import torch
from clip.model import CLIP, build_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS = "weights/"


def read_input(path: Path) -> tuple[dict[str, Tensor], Tensor, list[str]]:
    """The state dict, the pixels and the texts of an IN file."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        texts = json.loads(file.metadata()["texts"])
    weights = {key.removeprefix(WEIGHTS): tensor for key, tensor in tensors.items() if key.startswith(WEIGHTS)}
    return weights, tensors["pixels"], texts


def build_float32(weights: dict[str, Tensor]) -> CLIP:
    """OpenAI's model with these very weights in float32. Its shape is read from the tensors; a head is 64 wide."""
    # build_model rounds most weights to float16, so they are loaded once more; it also deletes keys of its argument.
    model = build_model(dict(weights)).float()
    model.load_state_dict(weights, strict=True)
    return model.eval()


@torch.inference_mode()
def encode(model: CLIP, pixels: Tensor, texts: list[str]) -> dict[str, Tensor]:
    """The tensors of an OUT file."""
    tokens = clip.tokenize(texts, context_length=model.context_length)
    return {
        "images": model.encode_image(pixels),
        "texts": model.encode_text(tokens),
        "parameters": torch.tensor(sum(parameter.numel() for parameter in model.parameters())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, metavar="IN.safetensors")
    parser.add_argument("output", type=Path, metavar="OUT.safetensors")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    weights, pixels, texts = read_input(arguments.input)
    save_file(encode(build_float32(weights), pixels, texts), arguments.output)


if __name__ == "__main__":
    main()
