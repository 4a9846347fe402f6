"""A small sample of the images, the same for everybody, as a dataset of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastclip.data.shards.manifest import ImageRecord, Shard
from fastclip.data.shards.reader import OpenShard, read_index
from fastclip.data.shards.targets import Target
from fastclip.data.shards.writer import WriteOptions, write_shards
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.listing import Listing, SourceImage, in_order
from fastclip.evaluate.options import EvalOptions
from fastclip.files import storing
from fastclip.storage.folders import LocalFolder

MOST_SHARDS = 16
"""Shards that the sample is taken from, spread over the domains: each is hashed whole, and fetched whole from afar."""

SAMPLE_SHARDS = 8
"""Shards that the sample is written as, if its domains do not make it more: three workers need some each, and a worker
must be caught between the first and the last. Each costs a padded batch a pass."""


@dataclass(frozen=True)
class Chosen:
    """An image of the sample, and where it lies."""

    target: Target
    shard: Shard
    row: int
    record: ImageRecord


def choose_images(targets: Sequence[Target], images: int) -> list[Chosen]:
    """At most `images`, from every domain and class in turn, in each by digest: the same ones for everybody."""
    domains = sum(len(target.domains) for target in targets)
    found = [
        Chosen(target, shard, row, record)
        for target in targets
        for domain in target.domains
        for shard in _spread(target.manifest.shards_of(domain), max(1, MOST_SHARDS // domains))
        for row, record in enumerate(read_index(target.folder, shard))
    ]
    found.sort(key=lambda each: each.record.sha256)
    taken: Counter[tuple[str, str, int]] = Counter()
    turns = []
    for each in found:
        group = (each.target.name, each.shard.domain, each.record.label)
        turns.append(taken[group])
        taken[group] += 1
    order = sorted(range(len(found)), key=turns.__getitem__)
    return [found[position] for position in order[:images]]


def _spread(shards: Sequence[Shard], most: int) -> list[Shard]:
    """At most `most` of `shards`, evenly spaced."""
    count = min(most, len(shards))
    return [shards[number * len(shards) // count] for number in range(count)]


def write_sample(chosen: Sequence[Chosen], folder: Path) -> None:
    """Write the images, byte for byte, as a dataset of the same name, classes and domains in `folder`/shards."""
    images = _copy_images(chosen, folder / "images")
    options = WriteOptions(shard_images=max(1, len(chosen) // SAMPLE_SHARDS), processes=1)
    for target in {each.target.name: each.target for each in chosen}.values():
        mine = images[target.name]
        domains = tuple(name for name in target.domains if any(image.domain == name for image in mine))
        listing = Listing(
            layout="a sample",
            classes=target.manifest.classes,
            names=target.manifest.names,
            domains=domains,
            images=in_order(mine, domains),
        )
        shards = LocalFolder(folder / "shards" / target.name)
        write_shards(listing, shards, dataset=target.name, protocol=f"a sample of {len(chosen)}", options=options)


def _copy_images(chosen: Sequence[Chosen], folder: Path) -> dict[str, list[SourceImage]]:
    """The images by dataset, copied into `folder`. Every shard is opened once."""
    folder.mkdir()
    by_shard: dict[tuple[str, str], list[Chosen]] = {}
    for each in chosen:
        by_shard.setdefault((each.target.name, each.shard.name), []).append(each)
    images: dict[str, list[SourceImage]] = {}
    for (dataset, _), from_shard in by_shard.items():
        opened = OpenShard(from_shard[0].target.folder, from_shard[0].shard)
        for each in from_shard:
            record = each.record
            path = folder / record.sha256
            with storing(path):
                path.write_bytes(opened.image_bytes(each.row))
            blob = Blob("file", path, record.size)
            image = SourceImage(each.shard.domain, record.label, record.path, record.path, blob)
            images.setdefault(dataset, []).append(image)
    return images


def sample_options(options: EvalOptions, folder: Path, store: Path) -> EvalOptions:
    """`options` for the sample in `folder`, with embeddings in `store`. Every other option stays as it was given."""
    return replace(options, targets=(), shards=folder / "shards", store=store, share=None, unreadable="exclude")
