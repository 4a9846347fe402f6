"""Images of classes that overlap, drawn for the heads."""

from __future__ import annotations

import numpy as np

from fastclip.heads.labelled import Labelled
from fastclip.heads.scores import classify


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw(
    seed: int, images: int, *, classes: int = 5, dim: int = 16, spread: float = 0.3, missing: tuple[int, ...] = ()
) -> Labelled:
    """Images of classes that overlap, in fp16 as they are stored. Any seed has the same classes."""
    centres = unit(np.random.default_rng(99).normal(size=(classes, dim)))
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.setdiff1d(np.arange(classes), missing), images)
    vectors = unit(centres[labels] + spread * rng.normal(size=(images, dim)))
    return Labelled(vectors.astype(np.float16), labels, classes)


def predicted(head, images: Labelled) -> np.ndarray:
    return classify(images.vectors, {"": head}, images.labels)[""].predicted


ONE_CLASS = Labelled(draw(0, 4).vectors, np.zeros(4, np.int64), 5)
PROTOTYPES = unit(np.random.default_rng(5).normal(size=(5, 16))).astype(np.float32)
