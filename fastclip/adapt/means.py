"""Means of a domain and of its classes, and how well a source and a target can be told apart by them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from fastclip.adapt.moments import class_sums
from fastclip.heads.blocks import blocks_of, sum_over_blocks


@dataclass(frozen=True)
class Means:
    """Groups of images: all of a domain, then each of its classes. The mean of no images is zeros."""

    images: Int64[np.ndarray, " groups"]
    means: Float64[np.ndarray, "groups dim"]

    @classmethod
    def of(
        cls, vectors: Float[np.ndarray, "images dim"], labels: Int64[np.ndarray, " images"], classes: int, cores: int
    ) -> Means:
        """The means of images with these labels, which may be predictions."""
        sums = class_sums(vectors, labels, classes, cores)
        images = np.bincount(labels, minlength=classes)
        images, sums = np.append(len(vectors), images), np.vstack([sums.sum(axis=0), sums])
        return cls(images, sums / np.maximum(images, 1)[:, None])


def shared(source: Means, target: Means) -> Bool[np.ndarray, " groups"]:
    """The groups that have images in both domains."""
    return (source.images > 0) & (target.images > 0)


def told_apart(
    source: Means,
    target: Means,
    vectors: tuple[Float[np.ndarray, "sources dim"], Float[np.ndarray, "targets dim"]],
    labels: tuple[Int64[np.ndarray, " sources"], Int64[np.ndarray, " targets"]],
    matrix: Float64[np.ndarray, "dim columns"],
    cores: int,
) -> Float64[np.ndarray, " groups"]:
    """Each group's proxy A-distance, 2 - 4 · error, from 0 (alike) to 2; 0 for one that a domain does not have.

    The error is of the nearest of the two domains' means after `vectors @ matrix`, the mean of both domains' shares.
    """
    directions = (source.means - target.means) @ matrix @ matrix.T
    middles = np.einsum("gd,gd->g", directions, source.means + target.means) / 2
    error = np.zeros(len(source.images))
    for side, of_side, group, sign in zip((source, target), vectors, labels, (1, -1), strict=True):
        for groups in (np.zeros_like(group), group + 1):
            wrong = _count_wrong(of_side, groups, sign * directions, sign * middles, cores)
            error += wrong / np.maximum(side.images, 1) / 2
    return np.where(shared(source, target), np.maximum(0, 2 - 4 * error), 0.0)


def _count_wrong(
    vectors: Float[np.ndarray, "images dim"],
    groups: Int64[np.ndarray, " images"],
    directions: Float64[np.ndarray, "groups dim"],
    middles: Float64[np.ndarray, " groups"],
    cores: int,
) -> Float64[np.ndarray, " groups"]:
    """How many images of each group are nearer to the other domain's mean; one that is as near counts half."""

    def work(rows: slice) -> Float64[np.ndarray, " groups"]:
        of = groups[rows]
        side = np.einsum("id,id->i", vectors[rows], directions[of]) - middles[of]
        return np.bincount(of, weights=(1 - np.sign(side)) / 2, minlength=len(middles))

    return sum_over_blocks(work, blocks_of(len(vectors)), cores)
