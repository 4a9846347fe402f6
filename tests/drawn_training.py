"""Small backbones of OpenAI's two kinds, which OpenAI's own code builds too, and batches to train them on."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from pathlib import Path

import open_clip
import torch
from helpers import lively
from jaxtyping import Int64, UInt8
from torch import Tensor

from fastclip.finetune.model import TrainedModel
from fastclip.finetune.training_recipes import TrainingRecipe
from fastclip.models.backbones import TINY, Backbone
from fastclip.models.tower import build_model, load_model
from fastclip.models.weights import Weights, find_weights, random_weights

CPU = torch.device("cpu")
END = 63
"""The end token: the highest number."""

_TEXT = {"context_length": 12, "vocab_size": END + 1, "width": 64, "heads": 1, "layers": 2}
_VISION = {
    "small-vit": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8},
    "small-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
}


def _register() -> None:
    """Tell open_clip of the small architectures."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    for name, vision in _VISION.items():
        config = {"embed_dim": 64, "quick_gelu": True, "vision_cfg": vision, "text_cfg": _TEXT}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


_register()
SMALL_VIT = Backbone(name="small ViT", architecture="small-vit", side=32)
SMALL_RESNET = Backbone(name="small ResNet", architecture="small-resnet", side=64)
SMALL = {each.name: each for each in (SMALL_VIT, SMALL_RESNET)}


def trained(
    backbone: Backbone,
    recipe: TrainingRecipe,
    weights: Weights | None = None,
    *,
    precision: str = "fp32",
    checkpointing: bool = False,
) -> TrainedModel:
    """A model on the CPU, by default with random weights."""
    weights = weights or random_weights(backbone)
    return TrainedModel(backbone, weights, recipe, CPU, precision=precision, checkpointing=checkpointing)  # type: ignore[arg-type]


def draw_crops(side: int, count: int, seed: int = 0) -> UInt8[Tensor, "count 3 side side"]:
    """Images of a few coloured patches: noise would look the same to a tower."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randint(0, 256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)
    return torch.nn.functional.interpolate(patches, size=side, mode="nearest")


def draw_tokens(count: int, seed: int = 0) -> Int64[Tensor, "count length"]:
    """Made-up texts of two to six words for the small backbones: a start, words, the end, zeros."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(count, _TEXT["context_length"], dtype=torch.int64)
    for row in tokens:
        words = int(torch.randint(2, 7, (1,), generator=generator))
        row[0] = END - 1
        row[1 : 1 + words] = torch.randint(1, END - 1, (words,), generator=generator)
        row[1 + words] = END
    return tokens


def lively_tensors(backbone: Backbone) -> dict[str, Tensor]:
    """Weights under which drawn crops differ, by open_clip's names. They are random, but for the ResNet's image tower,
    which is that of `tiny`: in a random one, rounding grows from layer to layer.
    """
    pixels = draw_crops(backbone.side, 16, seed=5).float() / 128 - 1
    tensors = lively(build_model(backbone, drawn=True), pixels)
    if backbone is SMALL_RESNET:
        tiny = load_model(TINY, find_weights(TINY, None)).float().state_dict()
        tensors |= {name: each for name, each in tiny.items() if name.startswith("visual.")}
    return tensors
