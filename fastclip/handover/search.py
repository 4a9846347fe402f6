"""Finds the stored images that are nearest to a text or to one of them, by exact cosines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from fastclip.data.shards.manifest import ImageRecord, Shard
from fastclip.data.shards.reader import read_records
from fastclip.data.shards.targets import Target
from fastclip.features.read import Features, ShardFeatures
from fastclip.heads.scores import IMAGES_PER_BLOCK, check_finite, exact
from fastclip.threads import threads


@dataclass(frozen=True)
class Image:
    """One image of a shard."""

    target: Target
    shard: Shard
    row: int
    """Of the shard's index."""
    record: ImageRecord

    @property
    def place(self) -> str:
        """DATASET/DOMAIN."""
        return f"{self.target.name}/{self.shard.domain}"

    @property
    def class_name(self) -> str:
        """The readable name of its class."""
        return self.target.manifest.names[self.record.label]


class Hit(NamedTuple):
    """An image that was found, and its cosine to what was searched for."""

    cosine: float
    image: Image


@dataclass(frozen=True, kw_only=True)
class Found:
    """The images that are nearest, the nearest first, and of how many."""

    hits: tuple[Hit, ...]
    images: int
    """That have an embedding."""
    unreadable: int


class _Near(NamedTuple):
    """Rows of one shard, the nearest first, and how many it has."""

    cosines: list[float]
    rows: list[int]
    images: int
    unreadable: int


def search(
    features: Sequence[Features],
    query: Float[np.ndarray, " dim"],
    top: int,
    cores: int,
    *,
    without: Collection[Image] = (),
) -> Found:
    """The `top` images whose embeddings have the largest cosines to the unit vector `query`; none of those `without`.

    Cosines are exact, so that no machine orders them otherwise; of equal ones the first in the manifest is nearer.
    A shard is read, searched and forgotten.
    """
    direction = exact(query[None])[0]
    shards = [(each, shard) for each in features for shard in each.target.shards]
    passed: dict[tuple[str, str], list[int]] = {}
    for image in without:
        passed.setdefault((image.target.name, image.shard.name), []).append(image.row)

    def nearest_of(features: Features, shard: Shard) -> _Near:
        return _nearest(features.of(shard), direction, top, passed.get((features.target.name, shard.name), []))

    nearest: list[tuple[float, int, int]] = []
    images, unreadable = 0, sum(map(_rejected, features))
    with threads(cores, "search") as pool:
        found = pool.map(nearest_of, *zip(*shards, strict=True)) if shards else iter(())
        for number, near in enumerate(found):
            here = ((-cosine, number, row) for cosine, row in zip(near.cosines, near.rows, strict=True))
            nearest = sorted([*nearest, *here])[:top]
            images, unreadable = images + near.images, unreadable + near.unreadable
    return Found(hits=tuple(_hits(shards, nearest)), images=images, unreadable=unreadable)


def _rejected(features: Features) -> int:
    """Images that are in no shard, because they could not be read when it was written."""
    domains, target = features.target.manifest.domains, features.target
    return sum(each.unreadable for each in domains if each.name in target.domains)


def _nearest(shard: ShardFeatures, direction: Float64[np.ndarray, " dim"], top: int, passed: Sequence[int]) -> _Near:
    vectors, rows = shard.vectors, shard.rows
    blocks = [exact(vectors[first : first + IMAGES_PER_BLOCK]) for first in range(0, len(rows), IMAGES_PER_BLOCK)]
    cosines = np.concatenate([block @ direction for block in blocks]) if blocks else np.zeros(0)
    check_finite(cosines)
    order = np.argsort(-cosines, kind="stable")
    order = order[~np.isin(rows[order], passed)][:top]
    return _Near(cosines[order].tolist(), rows[order].tolist(), len(rows), len(shard.unreadable))


def _hits(shards: Sequence[tuple[Features, Shard]], nearest: Sequence[tuple[float, int, int]]) -> list[Hit]:
    """The hits, in their order, with the records of their images. Each shard's index is read once."""
    rows: dict[int, list[int]] = {}
    for _, number, row in nearest:
        rows.setdefault(number, []).append(row)
    records: dict[tuple[int, int], ImageRecord] = {}
    for number, wanted in rows.items():
        features, shard = shards[number]
        read = read_records(features.target.folder, shard, wanted)
        records |= {(number, row): record for row, record in zip(wanted, read, strict=True)}
    return [
        Hit(-negative, Image(shards[number][0].target, shards[number][1], row, records[number, row]))
        for negative, number, row in nearest
    ]
