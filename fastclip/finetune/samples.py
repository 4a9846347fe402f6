"""Samples: the images that train, by number, in an order that belongs to the images and not to their shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, Shaped

from fastclip.data.shards.manifest import REJECTED, Shard
from fastclip.data.shards.reader import Images, read_images, read_records
from fastclip.data.shards.targets import Target
from fastclip.errors import UserError
from fastclip.features.read import check_labels
from fastclip.storage.folders import differs
from fastclip.threads import threads
from fastclip.transfer.folds import Place
from fastclip.transfer.splits import in_share

HELD_OUT = 0.1
"""The share of the images that choose the epoch and train nothing."""


class Source(NamedTuple):
    """A shard, and the dataset that it is of."""

    target: Target
    shard: Shard


@dataclass(frozen=True)
class Samples:
    """Images with labels, ordered by digest; equal bytes by label, dataset and domain, and then as in the index."""

    sources: tuple[Source, ...]
    source: Int32[np.ndarray, " images"]
    """The number of each image's shard in `sources`."""
    row: Int32[np.ndarray, " images"]
    """Its row in the shard's index."""
    labels: Int64[np.ndarray, " images"]
    digests: Shaped[np.ndarray, " images"]
    """SHA-256 as 64 hexadecimal bytes."""
    spans: Int64[np.ndarray, "images 2"]
    """Offset and size of its bytes in the tar."""
    shapes: Int64[np.ndarray, "images 2"]
    """Height and width in pixels, as stored."""

    def __len__(self) -> int:
        return len(self.digests)

    def take(self, which: Bool[np.ndarray, " images"] | Int64[np.ndarray, " taken"]) -> Samples:
        """Some of the images: a mark for each, or their numbers."""
        names = ("source", "row", "labels", "digests", "spans", "shapes")
        return replace(self, **{name: getattr(self, name)[which] for name in names})

    def named(self, number: int) -> str:
        """The dataset, domain, key and path of an image, for people. It reads the shard's index."""
        target, shard = self.sources[self.source[number]]
        (record,) = read_records(target.folder, shard, [int(self.row[number])])
        return f"{target.name}/{shard.domain} {record.key} ({record.path})"


def find_samples(targets: Sequence[Target], places: Sequence[Place]) -> Samples:
    """The images of some domains. Raises `UserError` for an empty domain.

    Their indexes are read in threads. Raises `IntegrityError` for one that is not the manifest's.
    """
    by_name = {target.name: target for target in targets}
    for place in places:
        target = by_name[place.dataset]
        if not any(shard.images for shard in target.manifest.shards_of(place.domain)):
            raise UserError(
                f"{place} has no image: sharding rejected all of them.",
                fix=f"{target.folder}/{REJECTED} says why. Leave it out, or shard the dataset again.",
            )
    sources = tuple(
        Source(by_name[place.dataset], shard)
        for place in places
        for shard in by_name[place.dataset].manifest.shards_of(place.domain)
    )
    with threads(8, "index") as pool:
        found = list(pool.map(_read, sources))
    samples = Samples(
        sources=sources,
        source=np.repeat(np.arange(len(found), dtype=np.int32), [len(each.labels) for each in found]),
        row=np.concatenate([np.arange(len(each.labels), dtype=np.int32) for each in found]),
        labels=np.concatenate([each.labels for each in found]),
        digests=np.array([each.encode() for each in chain(*(images.digests for images in found))], "S64"),
        spans=np.concatenate([each.spans for each in found]),
        shapes=np.concatenate([each.shapes for each in found]),
    )
    return samples.take(_order(samples))


def hold_out(samples: Samples) -> tuple[Samples, Samples]:
    """The images that train and those that choose the epoch, by hash. Equal bytes are never on both sides.

    Raises `UserError` where a side is empty, or one class is left to train.
    """
    trains = in_share(samples.digests, 1 - HELD_OUT, "finetune")
    if trains.all() or not trains.any():
        raise UserError(
            f"{len(samples)} images train: too few to hold out {HELD_OUT:.0%} of them by hash.",
            fix="Train on more images, or take the last epoch: --select last",
        )
    train = samples.take(trains)
    check_classes(train)
    return train, samples.take(~trains)


def copy_numbers(digests: Shaped[np.ndarray, " images"]) -> Int64[np.ndarray, " images"]:
    """For each image, how many before it have the same bytes."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    first = np.repeat(starts, np.diff([*starts, len(digests)]))
    numbers = np.empty(len(digests), np.int64)
    numbers[order] = np.arange(len(digests)) - first
    return numbers


def _read(source: Source) -> Images:
    target, shard = source
    images = read_images(target.folder, shard)
    check_labels(target, shard, images.labels)
    if len(images.spans) and (images.spans.min() < 0 or images.spans.sum(axis=1).max() > shard.bytes):
        raise differs(f"{target.folder}/{shard.index_name}", target.name, "an image lies outside the tar")
    return images


def _order(samples: Samples) -> Int64[np.ndarray, " images"]:
    """The numbers of the images in the order that `Samples` promises."""
    order = np.argsort(samples.digests, kind="stable")
    same = copy_numbers(samples.digests)[order]

    def place(number: int) -> tuple[int, str, str, int]:
        target, shard = samples.sources[samples.source[number]]
        return int(samples.labels[number]), target.name, shard.domain, number

    starts = np.flatnonzero(same == 0)
    for first, last in zip(starts, [*starts[1:], len(order)], strict=True):
        if last - first > 1:
            order[first:last] = sorted(order[first:last].tolist(), key=place)
    return order


def check_classes(samples: Samples) -> None:
    """Raise `UserError` if all images are of one class: there is nothing to learn."""
    labels = np.unique(samples.labels)
    if len(labels) == 1:
        name = samples.sources[0].target.manifest.classes[labels[0]]
        raise UserError(
            f"All {len(samples)} images that train are of one class, {name!r}.",
            fix="Train on domains that have images of two classes or more.",
        )
