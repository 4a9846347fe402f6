"""Features: stored embeddings with their norms, labels and keys. Reading them needs no weights, no device, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64, Shaped

from fastclip.data.shards.manifest import REJECTED, ImageRecord, Shard, Unreadable, rewrite
from fastclip.data.shards.reader import read_index, read_labels_and_digests
from fastclip.data.shards.targets import Target
from fastclip.errors import IncompleteError, IntegrityError, UserError
from fastclip.store.parts import Part, part_name
from fastclip.store.recipes import Recipe
from fastclip.store.store import Store


@dataclass(frozen=True)
class ShardFeatures:
    """The features of one shard: a row a readable image, in manifest order."""

    target: Target
    shard: Shard
    rows: Int64[np.ndarray, " images"]
    """Their rows in the shard's index."""
    vectors: Float[np.ndarray, "images dim"]
    """Unit vectors, as they are stored (fp16, or fp32 for a recipe in fp32)."""
    norms: Float32[np.ndarray, " images"]
    """The length of each vector before it was made a unit vector."""
    labels: Int64[np.ndarray, " images"]
    unreadable: tuple[Unreadable, ...]
    """Rows of the index that have no features."""

    def records(self) -> list[ImageRecord]:
        """The index rows of the images that have features: keys, paths, digests."""
        index = read_index(self.target.folder, self.shard)
        return [index[row] for row in self.rows]

    def raw(self) -> Float32[np.ndarray, "images dim"]:
        """The tower's output before it was made a unit vector, to the rounding of what is stored: 2⁻¹¹ in fp16."""
        return self.vectors.astype(np.float32) * self.norms[:, None]


@dataclass(frozen=True)
class Features:
    """The features of a target under one recipe. May be read as often as needed: nothing is kept in memory."""

    target: Target
    recipe: Recipe
    store: Store

    @property
    def dim(self) -> int:
        """Numbers a vector has. Raises `UserError` for a target of which no image is in a shard."""
        first = next(iter(self), None)
        if first is None:
            raise UserError(
                f"{self.target.name}/{', '.join(self.target.domains)} has no image: sharding rejected all of them.",
                fix=f"{self.target.folder}/{REJECTED} says why. Leave it out, or shard the dataset again.",
            )
        return first.vectors.shape[1]

    def __iter__(self) -> Iterator[ShardFeatures]:
        """The shards in manifest order. Raises `IncompleteError` at one whose part is missing or damaged."""
        return map(self.of, self.target.shards)

    def of(self, shard: Shard) -> ShardFeatures:
        """Those of one shard of the target. Raises `IncompleteError` if its part is missing or damaged."""
        labels = read_shard_labels(self.target, shard)
        features = read_shard(self.store, self.recipe, self.target, shard, labels)
        if features is None:
            raise lost(self.target, shard, self.recipe)
        return features


def lost(target: Target, shard: Shard, recipe: Recipe) -> IncompleteError:
    """The error for a shard whose part is missing, or damaged and now moved aside."""
    return IncompleteError(
        f"The embeddings of {target.name}/{shard.name} by {recipe.backbone} are missing or were damaged.",
        fix=f"fastclip eval {target.name} -b {recipe.backbone} --recipe {recipe.id[:12]} makes them again",
    )


def read_shard(
    store: Store, recipe: Recipe, target: Target, shard: Shard, labels: Int64[np.ndarray, " rows"]
) -> ShardFeatures | None:
    """The features of one shard; None if its part is missing, or damaged and now moved aside.

    `labels` are of every row of the index, from `read_shard_labels`.
    """
    part = store.read(recipe.id, part_name(shard))
    if part is None:
        return None
    _check(part, store, recipe, shard)
    rows = part.readable_rows()
    return ShardFeatures(target, shard, rows, part.embeddings[rows], part.norms[rows], labels[rows], part.unreadable)


def read_shard_labels(target: Target, shard: Shard) -> Int64[np.ndarray, " rows"]:
    """The label of every row of a shard's index. Raises `IntegrityError` for one that is no class."""
    return read_shard_rows(target, shard)[0]


def read_shard_rows(target: Target, shard: Shard) -> tuple[Int64[np.ndarray, " rows"], Shaped[np.ndarray, " rows"]]:
    """The label and the SHA-256 of every row of a shard's index. Raises as `read_shard_labels` does."""
    labels, digests = read_labels_and_digests(target.folder, shard)
    check_labels(target, shard, labels)
    return labels, digests


def check_labels(target: Target, shard: Shard, labels: Int64[np.ndarray, " rows"]) -> None:
    """Raise `IntegrityError` if a label of a shard's index is no class."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(target.manifest.classes):
        raise IntegrityError(
            f"{target.folder}/{shard.index_name} has labels from {labels.min()} to {labels.max()}; "
            f"there are {len(target.manifest.classes)} classes.",
            fix=f"Write the shards again: {rewrite(target.folder)}",
        )


def _check(part: Part, store: Store, recipe: Recipe, shard: Shard) -> None:
    if len(part.embeddings) != shard.images:
        raise IntegrityError(
            f"{shard.name} has {shard.images} images, its part {len(part.embeddings)} embeddings.",
            fix=f"Delete {store.path(recipe.id, part_name(shard))}; the next run makes it again.",
        )
