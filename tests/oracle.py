"""The independent answer: Pillow, open_clip and NumPy, one image at a time, from the source folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

TINY = Path(str(resources.files("fastclip.models") / "tiny"))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@cache
def tiny() -> tuple[torch.nn.Module, Callable]:
    open_clip.add_model_config(TINY / "fastclip-tiny.json")
    model, _, preprocess = open_clip.create_model_and_transforms(
        "fastclip-tiny", pretrained=str(TINY / "tiny.safetensors")
    )
    return model.eval(), preprocess


@cache
@torch.inference_mode()
def embed(source: Path) -> tuple[list[Path], np.ndarray]:
    """The image files of `domain/class/image` and their unit vectors."""
    model, preprocess = tiny()
    files = sorted(path for path in source.glob("*/*/*"))
    # RGB first, as ImageFolder's loader does: resizing a palette image would take the nearest pixel.
    images = [preprocess(Image.open(path).convert("RGB")) for path in files]
    return files, np.concatenate([unit(model.encode_image(image[None]).numpy()) for image in images])


@torch.inference_mode()
def score(source: Path, prompts: list[list[str]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Paths, labels and cosines [images, classes] of `domain/class/image` under `prompts`, a list of them a class."""
    model, _ = tiny()
    tokenizer = open_clip.get_tokenizer("fastclip-tiny")
    texts = [unit(model.encode_text(tokenizer(of_class)).numpy()).mean(0) for of_class in prompts]
    files, embeddings = embed(source)
    classes = sorted({path.parent.name for path in files})
    labels = np.array([classes.index(path.parent.name) for path in files])
    return [path.relative_to(source).as_posix() for path in files], labels, embeddings @ unit(np.stack(texts)).T
