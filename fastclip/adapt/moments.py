"""Means and covariances in fp64, gathered by blocks of rows: no matrix here has a side as long as the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from fastclip.heads.blocks import blocks_of, over_blocks, sum_over_blocks
from fastclip.heads.scores import check_finite


@dataclass(frozen=True)
class Moments:
    """How many images there are, their mean, and their covariance around it (divided by their number)."""

    images: int
    mean: Float64[np.ndarray, " dim"]
    covariance: Float64[np.ndarray, "dim dim"]


def moments_of(vectors: Float[np.ndarray, "images dim"], cores: int) -> Moments:
    """The moments of `vectors`, the same bits for any `cores`. Raises `IntegrityError` for a vector not finite."""
    blocks = blocks_of(len(vectors))
    mean = sum_over_blocks(lambda rows: vectors[rows].sum(axis=0, dtype=np.float64), blocks, cores) / len(vectors)
    check_finite(mean)

    def scatter(rows: slice) -> Float64[np.ndarray, "dim dim"]:
        centred = vectors[rows] - mean
        return centred.T @ centred

    return Moments(len(vectors), mean, sum_over_blocks(scatter, blocks, cores) / len(vectors))


def pooled(first: Moments, second: Moments) -> tuple[Float64[np.ndarray, " dim"], Float64[np.ndarray, "dim dim"]]:
    """The mean of two sets of images together, and their scatter around it: the covariance times the images."""
    images = first.images + second.images
    mean = (first.images * first.mean + second.images * second.mean) / images
    gap = first.mean - second.mean
    scatter = first.images * first.covariance + second.images * second.covariance
    return mean, scatter + first.images * second.images / images * np.outer(gap, gap)


def class_sums(
    vectors: Float[np.ndarray, "images dim"], labels: Int64[np.ndarray, " images"], classes: int, cores: int
) -> Float64[np.ndarray, "classes dim"]:
    """The sum of each class's vectors; zeros for a class without an image."""

    def work(rows: slice) -> Float64[np.ndarray, "classes dim"]:
        sums = np.zeros((classes, vectors.shape[1]))
        order = np.argsort(labels[rows], kind="stable")
        present, first = np.unique(labels[rows][order], return_index=True)
        sums[present] = np.add.reduceat(vectors[rows][order].astype(np.float64), first)
        return sums

    return sum_over_blocks(work, blocks_of(len(vectors)), cores)


def mapped(
    vectors: Float[np.ndarray, "images dim"],
    centre: Float64[np.ndarray, " dim"],
    matrix: Float64[np.ndarray, "dim columns"],
    cores: int,
) -> Float64[np.ndarray, "images columns"]:
    """`(vectors - centre) @ matrix`."""
    found = np.empty((len(vectors), matrix.shape[1]))

    def work(rows: slice) -> None:
        found[rows] = (vectors[rows] - centre) @ matrix

    list(over_blocks(work, blocks_of(len(vectors)), cores))
    return found
