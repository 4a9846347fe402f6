"""Lists WebDataset shards as a source: fastclip's own, CLIP_benchmark's exports, and img2dataset's with labels.

    ours            manifest.json, DOMAIN/0.tar        labels and paths from the index
    CLIP_benchmark  classnames.txt, SPLIT/0.tar        KEY.jpg + KEY.cls; every split is a domain
    img2dataset     00000.tar, or DOMAIN/00000.tar     KEY.jpg + KEY.json with `label`, `cls` or `class`; or KEY.cls

Labels are numbers that classnames.txt gives names, or names of classes. With a card, classes and domains are found on
it by name, and so get its labels, whatever their order was.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from fastclip.data.catalogue import DatasetCard, same_name
from fastclip.data.classes import Classes, class_path
from fastclip.data.shards.manifest import (
    FORMAT,
    MANIFEST,
    ImageRecord,
    Manifest,
    Rejected,
    Shard,
    read_manifest,
    read_rejected,
)
from fastclip.data.shards.reader import read_index
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.labelled import read_labelled
from fastclip.data.sources.listing import (
    ONLY_DOMAIN,
    Listing,
    SourceImage,
    checked,
    in_order,
    other_files,
    with_distinct_paths,
)
from fastclip.data.sources.samples import OURS, find_shards, pairs
from fastclip.data.sources.walk import is_file
from fastclip.data.twins import check_twins
from fastclip.errors import UserError
from fastclip.faults import steadily
from fastclip.files import digest_file
from fastclip.storage.folders import differs


def list_webdataset(source: Path, card: DatasetCard | None) -> Listing | None:
    """The images in the WebDataset shards of `source`; None if it holds no tar that pairs an image with a label.

    Raises `UserError` for shards whose images, labels and classes do not fit together, `IntegrityError` for damage.
    """
    if _is_ours(source):
        return _list_ours(source, card)
    shards = find_shards(source)
    if not any(map(pairs, shards)):
        return None
    labelled = read_labelled(source, shards, card)
    found = Classes.make(labelled.names, card, str(source))
    used = {split for split, samples in zip(labelled.splits, labelled.samples, strict=True) if samples}
    domain_of = _domains(sorted(used), card, source)
    images = [
        SourceImage(
            domain_of[split],
            label := found.labels[number],
            class_path(found.classes[label], sample.image.name),
            f"{shard.name}/{sample.image.name}",
            shard.blob(sample.image),
        )
        for shard, split, samples, numbers in zip(
            shards, labelled.splits, labelled.samples, labelled.labels, strict=True
        )
        if split in domain_of
        for sample, number in zip(samples, numbers, strict=True)
    ]
    unasked = [
        Rejected(path=shard.name, reason=f"its split {split!r} is not asked for")
        for shard, split in zip(shards, labelled.splits, strict=True)
        if split in used and split not in domain_of
    ]
    domains = _in_card_order(set(domain_of.values()), card)
    others = other_files(source, {shard.path for shard in shards}, "not a shard")
    listing = checked(
        Listing(
            layout="WebDataset shards",
            classes=found.classes,
            names=found.names,
            domains=domains,
            images=in_order(with_distinct_paths(images), domains),
            rejected=(*unasked, *labelled.rejected, *(row for row in others if not _beside_shards(row.path))),
        )
    )
    if card is None and not labelled.listed:
        check_twins(listing)
    return listing


def _domains(splits: Sequence[str], card: DatasetCard | None, source: Path) -> dict[str, str]:
    """Split → domain. Raises `UserError` if the card does not know one, or cannot say which one it is."""
    if card is None:
        return {split: split or ONLY_DOMAIN for split in splits}
    known = card.domain_of
    if len(card.domains) == 1 and (only := card.only_domain(splits)):
        return {only: card.domains[0].name}
    found: dict[str, str] = {}
    for split in splits:
        domain = known.get(same_name(split))
        if domain is None:
            raise UserError(
                f"{source} holds {split or 'shards without a folder'}, which is no domain of {card.title} "
                f"({', '.join(domain.name for domain in card.domains)}).",
                fix="Name the folders of shards after the domains, or shard under another NAME.",
            )
        if domain in found.values():
            raise UserError(f"{source} holds two folders of {card.title}'s {domain}.", fix="Move one of them away.")
        found[split] = domain
    return found


def _in_card_order(domains: set[str], card: DatasetCard | None) -> tuple[str, ...]:
    return tuple(domain.name for domain in card.domains if domain.name in domains) if card else tuple(sorted(domains))


def _beside_shards(path: str) -> bool:
    """Whether a file beside shards describes them. Such a file is not listed."""
    return posixpath.basename(path) in OURS or path.endswith((".index.jsonl", ".idx"))


def _is_ours(source: Path) -> bool:
    manifest = source / MANIFEST
    try:
        return bool(json.loads(steadily(manifest.read_bytes, manifest))["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _list_ours(source: Path, card: DatasetCard | None) -> Listing:
    """A dataset that fastclip sharded: every tar must be the manifest's, and its index says what is in it."""
    manifest = read_manifest(source)
    found = Classes.make(manifest.classes, card, str(source))
    domain_of = _domains([domain.name for domain in manifest.domains], card, source)
    domains = tuple(domain_of[domain.name] for domain in manifest.domains)
    if card:
        domains = _in_card_order(set(domains), card)
    images = [
        SourceImage(
            domain_of[shard.domain],
            label := found.labels[row.label],
            row.path if card is None else class_path(found.classes[label], row.path.partition("/")[2]),
            f"{shard.name}/{row.path}",
            blob,
        )
        for shard, row, blob in _our_images(source, manifest)
    ]
    rejected = [
        Rejected(
            path=row.path,
            reason=row.reason,
            domain=domain_of[row.domain] if row.domain is not None else None,
            label=found.labels[row.label] if row.label is not None else None,
        )
        for row in read_rejected(source, manifest)
    ]
    return checked(
        Listing(
            layout="fastclip shards",
            classes=found.classes,
            names=found.names if card else manifest.names,
            protocol=manifest.protocol,
            domains=domains,
            images=in_order(images, domains),
            rejected=tuple(rejected),
        )
    )


def _our_images(source: Path, manifest: Manifest) -> Iterator[tuple[Shard, ImageRecord, Blob]]:
    for shard in manifest.shards:
        path = source / shard.name
        if not is_file(path):
            raise UserError(f"{path} is missing; the manifest lists it.", fix="Copy it from where shards were made.")
        facts = steadily(path.stat, path)
        if facts.st_size != shard.bytes or steadily(partial(digest_file, path), path) != shard.sha256:
            raise differs(str(path), source.name, "its size or SHA-256 is not the manifest's")
        for row in read_index(source, shard):
            yield shard, row, Blob("tar", path, row.size, facts.st_mtime_ns, row.offset, ctime_ns=facts.st_ctime_ns)
