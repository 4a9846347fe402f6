"""Features of domains in memory, in an order that belongs to the images: what heads are fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float, Int64, Shaped

from fastclip.data.shards.manifest import Shard
from fastclip.data.shards.targets import Target
from fastclip.features.read import lost, read_shard, read_shard_rows
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.store.recipes import Recipe
from fastclip.store.store import Store


@dataclass(frozen=True)
class Images:
    """The readable images of some domains, without labels: unit vectors as stored, SHA-256 as hexadecimal bytes."""

    vectors: Float[np.ndarray, "images dim"]
    digests: Shaped[np.ndarray, " images"]

    def __len__(self) -> int:
        return len(self.digests)

    def unlabelled(self) -> Unlabelled:
        """The vectors, as methods take them."""
        return Unlabelled(self.vectors)


@dataclass(frozen=True)
class Sample(Images):
    """Images with their labels."""

    labels: Int64[np.ndarray, " images"]
    unreadable: int
    """Images that have no features: in no shard, or in a part as unreadable."""

    def take(self, rows: np.ndarray) -> Sample:
        """Some of the rows: their numbers, or a mark a row. Unreadable images are left out of the count."""
        return Sample(self.vectors[rows], self.digests[rows], self.labels[rows], 0)

    def labelled(self, classes: int) -> Labelled:
        """The vectors and labels, for a dataset of so many classes."""
        return Labelled(self.vectors, self.labels, classes)

    def without_labels(self) -> Images:
        """The same images for a method that must not see a label."""
        return Images(self.vectors, self.digests)


def read_domain(store: Store, recipe: Recipe, target: Target, domain: str, pool: ThreadPoolExecutor) -> Sample:
    """The images of one domain. Raises `IncompleteError` if a part is missing or damaged."""
    found = list(pool.map(partial(_read_shard, store, recipe, target), target.manifest.shards_of(domain)))
    rejected = next(each.unreadable for each in target.manifest.domains if each.name == domain)
    if not found:
        empty = np.zeros(0, np.int64)
        return Sample(np.zeros((0, 0), np.float32), np.zeros(0, "S64"), empty, rejected)
    return _in_order(found, rejected + sum(each.unreadable for each in found))


def joined(samples: Iterable[Sample]) -> Sample:
    """The images of several domains as one sample."""
    samples = list(samples)
    unreadable = sum(each.unreadable for each in samples)
    there = [each for each in samples if len(each)]
    if len(there) < 2:
        return replace((there or samples)[0], unreadable=unreadable)
    return _in_order(there, unreadable)


def _read_shard(store: Store, recipe: Recipe, target: Target, shard: Shard) -> Sample:
    labels, digests = read_shard_rows(target, shard)
    features = read_shard(store, recipe, target, shard, labels)
    if features is None:
        raise lost(target, shard, recipe)
    return Sample(features.vectors, digests[features.rows], features.labels, len(features.unreadable))


def _in_order(samples: Sequence[Sample], unreadable: int) -> Sample:
    """All rows by digest; those that share it in the order of their vectors' bytes, and only then of their labels."""
    labels = np.concatenate([each.labels for each in samples])
    digests = np.concatenate([each.digests for each in samples])
    offsets = np.cumsum([0, *map(len, samples)])

    def place(row: int) -> tuple[bytes, int]:
        number = int(np.searchsorted(offsets, row, "right")) - 1
        return samples[number].vectors[row - offsets[number]].tobytes(), int(labels[row])

    order = np.argsort(digests, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], digests[order][1:] != digests[order][:-1]]))
    for first, last in zip(starts, [*starts[1:], len(order)], strict=True):
        if last - first > 1:
            order[first:last] = sorted(order[first:last].tolist(), key=place)
    # Row by row into their places: joined and then sorted, the vectors would be there three times.
    vectors = np.empty((len(order), samples[0].vectors.shape[1]), samples[0].vectors.dtype)
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    for each, first, last in zip(samples, offsets, offsets[1:], strict=False):
        vectors[places[first:last]] = each.vectors
    return Sample(vectors, digests[order], labels[order], unreadable)
