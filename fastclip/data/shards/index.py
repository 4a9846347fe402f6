"""Writes indexes and a manifest beside WebDataset shards of other programs, so that they can be evaluated in place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from fastclip.data.catalogue import DatasetCard
from fastclip.data.classes import Classes, class_path
from fastclip.data.images import read_header
from fastclip.data.shards.manifest import MANIFEST, ImageRecord, Manifest, Rejected, Shard, json_lines, path_name
from fastclip.data.shards.presence import publish_manifest
from fastclip.data.shards.publish import make_manifest, shard_row, write_beside_shards
from fastclip.data.sources.labelled import LabelledShards, read_labelled
from fastclip.data.sources.listing import check_classes
from fastclip.data.sources.protocols import FULL
from fastclip.data.sources.samples import Sample, SourceShard, find_shards, pairs
from fastclip.data.sources.tars import is_gzip
from fastclip.errors import IntegrityError, UserError
from fastclip.files import digest
from fastclip.proven import ProvenFile
from fastclip.storage.alone import alone_in
from fastclip.storage.folders import LocalFolder


@dataclass(frozen=True)
class IndexPlan:
    """Shards that were found to fit together, before any image is read."""

    folder: Path
    labelled: LabelledShards
    classes: tuple[str, ...]
    """Class folders in label order."""

    @property
    def images(self) -> int:
        """How many images there are."""
        return sum(map(len, self.labelled.samples))


@dataclass(frozen=True)
class _IndexedShard:
    shard: Shard
    records: Sequence[ImageRecord]
    rejected: Sequence[Rejected]


def plan_index(folder: Path, card: DatasetCard | None, *, overwrite: bool = False) -> IndexPlan:
    """Find the shards SPLIT/N.tar in `folder` and read their labels.

    Raises `UserError` for what does not fit together, `IntegrityError` for damaged tars.
    """
    _check_folder(folder, overwrite)
    shards = find_shards(folder)
    _check_layout(folder, shards)
    labelled = read_labelled(folder, shards, card)
    check_classes(labelled.names)
    return IndexPlan(folder, labelled, _classes_in_order(labelled.names, card, folder))


def write_index(
    plan: IndexPlan, card: DatasetCard | None, *, workers: int, on_image: Callable[[], None] = lambda: None
) -> tuple[Manifest, list[Rejected]]:
    """Write indexes, rejected.jsonl and manifest.json beside the tars, which stay as they are.

    Only headers of images are read. An image whose header gives no size goes to rejected.jsonl with its label, and
    counts as unreadable. `fastclip eval` finds and counts those that do not decode. Raises `UserError` for a shard
    without a usable image.
    """
    found = zip(plan.labelled.shards, plan.labelled.samples, plan.labelled.labels, strict=True)
    labelled = [row for row in found if row[1]]
    with ThreadPoolExecutor(workers) as pool:
        index = partial(_index_shard, plan.classes, on_image)
        indexed = list(pool.map(index, *zip(*labelled, strict=True)))
    rejected = [*(row for each in indexed for row in each.rejected), *plan.labelled.rejected]
    records: dict[str, list[ImageRecord]] = {}
    for each in indexed:
        records.setdefault(each.shard.domain, []).extend(each.records)
    manifest = make_manifest(
        plan.folder.name,
        card,
        protocol=FULL,
        verified=False,
        classes=plan.classes,
        names=plan.labelled.names,
        shards=[each.shard for each in indexed],
        records=records,
        rejected=rejected,
    )
    folder = LocalFolder(plan.folder)
    with alone_in(folder):
        folder.remove(MANIFEST)
        sizes = {each.shard.name: each.shard.bytes for each in indexed}
        for each in indexed:
            rows = json_lines(each.records)
            folder.write(each.shard.index_name, rows)
            sizes[each.shard.index_name] = len(rows)
        sizes |= write_beside_shards(folder, manifest, rejected, overwrite=False)
        publish_manifest(folder, manifest, sizes)
    return manifest, rejected


def _check_folder(folder: Path, overwrite: bool) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.", fix="Put SPLIT/0.tar … and classnames.txt into shards/NAME.")
    if (folder / MANIFEST).exists() and not overwrite:
        raise UserError(
            f"{folder} has a manifest already.", fix=f"fastclip shards check {folder.name}, or add --overwrite."
        )
    if next(folder.glob("*/.*.receipt.json"), None):
        raise UserError(
            f"{folder} holds shards that `fastclip shard` has not finished.",
            fix=f"Run it again, and it goes on: fastclip shard {folder.name} --source DIR",
        )


def _check_layout(folder: Path, shards: Sequence[SourceShard]) -> None:
    if not any(map(pairs, shards)):
        raise UserError(
            f"{folder} holds no WebDataset shards: no SPLIT/N.tar with an image and its label under one key.",
            fix=f"Other layouts are read by: fastclip shard {folder.name} --source {folder}",
        )
    for shard in shards:
        if not re.fullmatch(r"[^/]+/[0-9]+\.tar", shard.name) or is_gzip(shard.path):
            raise UserError(
                f"{shard.name} cannot be read in place: they are called SPLIT/0.tar, SPLIT/1.tar … and are not packed.",
                fix=f"Rename or unpack it, or write new shards: fastclip shard NAME --source {folder}",
            )
        if len({member.offset for member in shard.members}) < len(shard.members):
            raise UserError(
                f"{shard.name} holds links, which many readers of shards pass over.",
                fix=f"Write new shards: fastclip shard NAME --source {folder}",
            )
        split = shard.path.parent.name
        if path_name(unquote(split)) != split:
            raise UserError(
                f"The folder {split!r} cannot be read in place: names of domains are percent-encoded.",
                fix=f"Rename it to {path_name(split)!r}.",
            )


def _classes_in_order(names: Sequence[str], card: DatasetCard | None, folder: Path) -> tuple[str, ...]:
    """Class folders in the order of `names`. Raises `UserError` if the card has other classes, or another order."""
    found = Classes.make(names, card, str(folder))
    if found.labels != tuple(range(len(found.classes))):
        raise UserError(
            f"{folder} numbers its classes otherwise than {folder.name}'s card, and the numbers stand in the tars.",
            fix=f"Write shards in the card's order: fastclip shard {folder.name} --source {folder} --out OTHER",
        )
    return found.classes


def _index_shard(
    classes: Sequence[str],
    on_image: Callable[[], None],
    shard: SourceShard,
    samples: Sequence[Sample],
    labels: Sequence[int],
) -> _IndexedShard:
    """The rows and the digest of one shard, and its images without a usable header."""
    domain = unquote(shard.path.parent.name)
    records, rejected = [], []
    tar = ProvenFile(shard.path, partial(_changed, shard.path))
    for (key, image, _), label in zip(samples, labels, strict=True):
        encoded = bytes(tar.read(image.offset, image.size))
        on_image()
        try:
            _, height, width = read_header(encoded)
        except ValueError as error:
            row = Rejected(path=f"{shard.name}/{image.name}", reason=str(error), domain=domain, label=label)
            rejected.append(row)
            continue
        record = ImageRecord(
            key=key,
            label=label,
            path=class_path(classes[label], image.name),
            offset=image.offset,
            size=image.size,
            height=height,
            width=width,
            sha256=digest(encoded),
        )
        records.append(record)
    if not records:
        raise UserError(
            f"None of the {len(rejected)} images in {shard.name} can be used; the first: {rejected[0].reason}.",
            fix="Get the shard again, or move it away.",
        )
    tar.check_unchanged()
    if tar.times_ns != (shard.mtime_ns, shard.ctime_ns):
        raise _changed(shard.path, "it is another one than was listed")
    row_of_shard = shard_row(shard.name, domain, records, size=tar.size, sha256=tar.sha256)
    return _IndexedShard(row_of_shard, records, rejected)


def _changed(path: Path, how: str) -> IntegrityError:
    return IntegrityError(f"{path} changed while it was read: {how}.", fix="Run the same command when it is whole.")
