"""Directions of classes: sums of unit text vectors, and prototypes made of them, the same bits on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64


def class_sums(vectors: Float32[np.ndarray, "texts dim"], counts: Sequence[int]) -> Float64[np.ndarray, "classes dim"]:
    """The sums of the first `counts[0]` vectors, of the next `counts[1]`, and so on: added one after the other."""
    starts = np.cumsum([0, *counts])[:-1]
    return np.add.reduceat(vectors.astype(np.float64), starts, axis=0)


def unit_rows(sums: Float64[np.ndarray, "*rows dim"]) -> Float32[np.ndarray, "*rows dim"]:
    """Each row divided by its length. NumPy adds pairwise in one order everywhere; roots and quotients are rounded."""
    return (sums / np.sqrt((sums * sums).sum(axis=-1, keepdims=True))).astype(np.float32)
