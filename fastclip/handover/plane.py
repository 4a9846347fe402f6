"""The plane in which embeddings differ most: principal components, from sums that are added block by block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64


@dataclass(frozen=True, eq=False)
class Plane:
    """Two directions, and the point from which places are counted."""

    mean: Float64[np.ndarray, " dim"]
    axes: Float64[np.ndarray, "dim two"]
    shares: tuple[float, float]
    """Of the variance, that along each axis."""

    def places(self, vectors: Float[np.ndarray, "images dim"]) -> Float64[np.ndarray, "images two"]:
        """Where `vectors` lie in the plane."""
        return (vectors.astype(np.float64) - self.mean) @ self.axes


def find_plane(blocks: Iterable[Float[np.ndarray, "images dim"]], dim: int) -> Plane:
    """The plane of the first two principal components of all rows of `blocks`, which are in memory one at a time.

    Of each axis the largest component is positive, so that no run mirrors the picture of another.
    """
    count, total, products = 0, np.zeros(dim), np.zeros((dim, dim))
    for block in blocks:
        rows = block.astype(np.float64)
        count += len(rows)
        total += rows.sum(axis=0)
        products += rows.T @ rows
    mean = total / max(1, count)
    variances, vectors = np.linalg.eigh(products / max(1, count) - np.outer(mean, mean))
    axes = np.zeros((dim, 2))
    axes[:, : min(2, dim)] = vectors[:, ::-1][:, :2]  # eigh sorts them upwards
    largest = np.abs(axes).argmax(axis=0)
    axes *= np.where(axes[largest, [0, 1]] < 0, -1.0, 1.0)
    along = np.maximum(np.r_[variances[::-1][:2], 0.0][:2], 0.0) / (np.maximum(variances, 0.0).sum() or 1.0)
    return Plane(mean, axes, (float(along[0]), float(along[1])))
