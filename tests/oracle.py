"""The independent answer: Pillow, open_clip and NumPy, one image at a time, from the source folder."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

TINY = Path(str(resources.files("fastclip.models") / "tiny"))


@torch.inference_mode()
def score(source: Path, prompts: list[list[str]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Paths, labels and cosines [images, classes] of `domain/class/image` under `prompts`, a list of them a class."""
    open_clip.add_model_config(TINY / "fastclip-tiny.json")
    model, _, preprocess = open_clip.create_model_and_transforms(
        "fastclip-tiny", pretrained=str(TINY / "tiny.safetensors")
    )
    model.eval()
    tokenizer = open_clip.get_tokenizer("fastclip-tiny")
    unit = lambda rows: rows / np.linalg.norm(rows, axis=-1, keepdims=True)  # noqa: E731
    texts = [unit(model.encode_text(tokenizer(of_class)).numpy()).mean(0) for of_class in prompts]
    files = sorted(path for path in source.glob("*/*/*"))
    classes = sorted({path.parent.name for path in files})
    # RGB first, as ImageFolder's loader does: resizing a palette image would take the nearest pixel.
    images = [preprocess(Image.open(path).convert("RGB")) for path in files]
    embeddings = np.concatenate([unit(model.encode_image(image[None]).numpy()) for image in images])
    labels = np.array([classes.index(path.parent.name) for path in files])
    return [path.relative_to(source).as_posix() for path in files], labels, embeddings @ unit(np.stack(texts)).T
