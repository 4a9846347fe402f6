"""Which images each of many prototypes' sets classifies correctly, a bit an image and set, by exact scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, Shaped, UInt8

from fastclip.data.shards.manifest import Shard
from fastclip.data.shards.targets import Target
from fastclip.features.read import lost, read_shard, read_shard_rows
from fastclip.heads.scores import check_finite, exact
from fastclip.store.recipes import Recipe
from fastclip.store.store import Store
from fastclip.threads import threads

ROWS = 1024
"""Images a block."""
SCORES = 1 << 22
"""Scores at once: 32 MB a thread."""


@dataclass(frozen=True)
class Source:
    """A dataset's embeddings by one backbone, read a shard at a time."""

    target: Target
    recipe: Recipe
    store: Store

    def read(self, shard: Shard) -> ShardImages:
        """The readable images of a shard. Raises `IncompleteError` if its part is missing or damaged."""
        labels, digests = read_shard_rows(self.target, shard)
        found = read_shard(self.store, self.recipe, self.target, shard, labels)
        if found is None:
            raise lost(self.target, shard, self.recipe)
        return ShardImages(found.vectors, found.labels, digests[found.rows], len(found.unreadable))


@dataclass(frozen=True)
class ShardImages:
    """The readable images of one shard, in its order."""

    vectors: Float[np.ndarray, "images dim"]
    labels: Int64[np.ndarray, " images"]
    digests: Shaped[np.ndarray, " images"]
    unreadable: int


@dataclass(frozen=True)
class ShardBits:
    """The answers for one shard: bits of eight images in a byte, the last byte filled with zeros."""

    domain: str
    images: int
    unreadable: int
    bits: UInt8[np.ndarray, "packed sets"]
    digests: Shaped[np.ndarray, " images"]

    def right(self) -> Bool[np.ndarray, "images sets"]:
        """Whether a set is right on an image."""
        return np.unpackbits(self.bits, axis=0, count=self.images).astype(bool)


def score_sets(
    source: Source,
    prototypes: Float32[np.ndarray, "sets classes dim"],
    cores: int,
    on_images: Callable[[int], object] = lambda images: None,
) -> list[ShardBits]:
    """The answers of every set of prototypes to every image, shard by shard in the manifest's order."""
    # Classes first: the scores of one class under all sets lie side by side.
    by_class = np.ascontiguousarray(prototypes.transpose(1, 0, 2))
    check_finite(by_class.astype(np.float64, copy=False))
    shards = list(source.target.shards)
    with threads(cores, "prompts") as pool:
        return list(pool.map(partial(_score_shard, source, by_class, on_images), shards))


def _score_shard(
    source: Source,
    by_class: Float32[np.ndarray, "classes sets dim"],
    on_images: Callable[[int], object],
    shard: Shard,
) -> ShardBits:
    images = source.read(shard)
    right = right_sets(images.vectors, images.labels, by_class)
    on_images(shard.images)
    return ShardBits(shard.domain, len(right), images.unreadable, np.packbits(right, axis=0), images.digests)


def right_sets(
    vectors: Float[np.ndarray, "images dim"],
    labels: Int64[np.ndarray, " images"],
    by_class: Float32[np.ndarray, "classes sets dim"],
) -> Bool[np.ndarray, "images sets"]:
    """Whether the true class has the best score; of equal ones the lower class index is better, as in `classify`."""
    classes, sets, dim = by_class.shape
    order = np.argsort(labels, kind="stable")
    right = np.empty((len(labels), sets), bool)
    for rows in (order[first : first + ROWS] for first in range(0, len(order), ROWS)):
        block = exact(vectors[rows])
        check_finite(block)
        for first, last in chunks(sets, classes):
            factors = exact(by_class[:, first:last].reshape(-1, dim))
            scores = (block @ factors.T).reshape(len(rows), classes, -1)
            right[rows, first:last] = is_best(scores, labels[rows])
    return right


def chunks(sets: int, classes: int) -> Iterator[tuple[int, int]]:
    """The sets whose scores of a block are computed at once, as pairs of first and last."""
    size = max(1, SCORES // (ROWS * classes))
    return ((first, min(first + size, sets)) for first in range(0, sets, size))


def is_best(
    scores: Float[np.ndarray, "rows classes sets"], labels: Int64[np.ndarray, " rows"]
) -> Bool[np.ndarray, "rows sets"]:
    """Whether the true class is first. `labels` are sorted, so that rows of a class lie together."""
    best = np.empty((len(scores), scores.shape[2]), bool)
    for label, first, last in runs(labels):
        of_class = scores[first:last]
        true = of_class[:, label]
        found = true >= of_class[:, label:].max(axis=1)
        if label:
            found &= true > of_class[:, :label].max(axis=1)
        best[first:last] = found
    return best


def runs(labels: Int64[np.ndarray, " rows"]) -> list[tuple[int, int, int]]:
    """Each label with the first row of it and the row after its last."""
    found, starts = np.unique(labels, return_index=True)
    ends = [*starts[1:].tolist(), len(labels)]
    return list(zip(found.tolist(), starts.tolist(), ends, strict=True))
