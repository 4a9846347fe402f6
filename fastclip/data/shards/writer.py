"""Writes a listing as tar shards: original bytes, every image decoded once on the way in.

The images of each shard are fixed before any is read. So any number of processes writes shards in any order, and a run
that was killed goes on with the shards that are missing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from fastclip.data.catalogue import DatasetCard
from fastclip.data.shards.manifest import (
    MANIFEST,
    ImageRecord,
    Manifest,
    Rejected,
    Shard,
    check_folder_is_free,
    path_name,
)
from fastclip.data.shards.packing import OnProgress, PlannedShard, WrittenShard, finished_shard, write_shard
from fastclip.data.shards.presence import (
    check_domains_apart,
    publish_manifest,
    remove_abandoned,
    remove_stale_shards,
)
from fastclip.data.shards.processes import write_in_processes
from fastclip.data.shards.publish import make_manifest, write_beside_shards
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.listing import Listing
from fastclip.errors import IncompleteError, UserError, in_bytes
from fastclip.machine import available_cores
from fastclip.storage.alone import alone_in
from fastclip.storage.folders import Folder
from fastclip.storage.presence import check_presence

OVERHEAD_BYTES = 2_600
"""Bytes that an image takes beside its own, at most: two tar headers, padding, the label's block, index rows."""


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How shards are written. Their bytes depend on all but `processes`."""

    shard_images: int = 1000
    shard_bytes: int = 1 << 30
    """A shard is closed before it exceeds this many bytes of images; one larger image has its own."""
    verify: bool = True
    """Decode every image. Without it only headers are read, and `eval` finds the images that do not decode."""
    processes: int | None = None
    """None: one a core, or this process alone if there is little to write."""

    def __post_init__(self) -> None:
        for name in ("shard_images", "shard_bytes", "processes"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {number}.", fix="Leave it out.")


@dataclass
class Written:
    """A dataset that was written."""

    manifest: Manifest
    rejected: list[Rejected]
    images: list[tuple[str, int, str, bytes]] = field(default_factory=list)
    """(domain, label, path, SHA-256) of every image in a shard."""


def plan_shards(listing: Listing, options: WriteOptions) -> list[PlannedShard]:
    """The shards and their images: a pure function of the listing and the options."""
    plans = []
    for domain in listing.domains:
        images = [image for image in listing.images if image.domain == domain]
        starts, room = [0], options.shard_bytes
        for row, image in enumerate(images):
            if row > starts[-1] and (row - starts[-1] == options.shard_images or image.blob.size > room):
                starts.append(row)
                room = options.shard_bytes
            room -= image.blob.size
        ends = [*starts[1:], len(images)]
        plans += [
            PlannedShard(number, domain, first, tuple(images[first:end]))
            for number, (first, end) in enumerate(zip(starts, ends, strict=True))
            if end > first
        ]
    return plans


def write_shards(
    listing: Listing,
    folder: Folder,
    *,
    dataset: str,
    card: DatasetCard | None = None,
    protocol: str = "full",
    options: WriteOptions | None = None,
    overwrite: bool = True,
    on_progress: OnProgress = lambda images, size: None,
) -> Written:
    """Write the images of `listing` into `folder`, the manifest last.

    `on_progress` is called with numbers of images and of their bytes. Raises `UserError` if no image can be used,
    `IncompleteError` if the disk is too small, a process was lost or another one writes there: the same command, run
    later, goes on.
    """
    options = options or WriteOptions()
    plans = plan_shards(listing, options)
    check_folder_is_free(folder, overwrite=overwrite)
    with alone_in(folder) as alone:
        check_folder_is_free(folder, overwrite=overwrite)
        check_domains_apart(folder, listing.domains)
        found = [finished_shard(folder, plan, verify=options.verify) for plan in plans]
        done = {written.plan.name: written for written in found if written}
        todo = [plan for plan in plans if plan.name not in done]
        _check_space(folder, todo, options)
        folder.remove(MANIFEST)  # nobody reads the folder as a dataset until the new one is whole
        for written in done.values():
            on_progress(len(written.plan.images), sum(image.blob.size for image in written.plan.images))
        for written in _write_all(folder, todo, options, on_progress):
            done[written.plan.name] = written
        alone.check()
        return _publish(folder, listing, [done[plan.name] for plan in plans], dataset, card, protocol, options)


def _check_space(folder: Folder, plans: Sequence[PlannedShard], options: WriteOptions) -> None:
    sizes = [sum(image.blob.size + OVERHEAD_BYTES for image in plan.images) for plan in plans]
    place, need, free = str(folder), sum(sizes), folder.free_bytes()
    if free is None:  # elsewhere: each process has one shard at a time here before it goes there
        processes = options.processes or available_cores()
        place, need = tempfile.gettempdir(), sum(sorted(sizes)[-processes:])
        free = shutil.disk_usage(place).free
    if free is not None and need > free:
        raise IncompleteError(
            f"The shards need {in_bytes(need)} more, {place} has {in_bytes(free)} free.",
            fix="Free space there or choose another --out (or TMPDIR); shards that are finished are kept.",
        )


def _write_all(
    folder: Folder, plans: Sequence[PlannedShard], options: WriteOptions, on_progress: OnProgress
) -> Iterator[WrittenShard]:
    """Write the planned shards, in this process or in several, and yield each when it is done."""
    images = sum(len(plan.images) for plan in plans)
    # A process takes two seconds to import its libraries.
    wanted = options.processes or (1 if images < 2_000 else available_cores())
    if (processes := min(wanted, len(plans))) > 1:
        yield from write_in_processes(folder, plans, processes, on_progress, verify=options.verify)
        return
    reader = BlobReader()
    for plan in plans:
        yield write_shard(folder, plan, reader, on_progress, verify=options.verify)


def _publish(
    folder: Folder,
    listing: Listing,
    written: Sequence[WrittenShard],
    dataset: str,
    card: DatasetCard | None,
    protocol: str,
    options: WriteOptions,
) -> Written:
    """Write the manifest and what stands beside it; remove the receipts and what an earlier run left."""
    rejected = [*listing.rejected, *(row for each in written for row in each.rejected)]
    shards = [shard for domain in listing.domains for shard in _numbered(folder, domain, written)]
    if not shards:
        first = next((row.reason for row in rejected if row.label is not None), "there is none")
        raise UserError(
            f"None of the {len(listing.images):,} images can be used; the first: {first}.",
            fix="Give JPEG, PNG or WebP files that open in an image viewer.",
        )
    records: dict[str, list[ImageRecord]] = {domain: [] for domain in listing.domains}
    for each in written:
        records[each.plan.domain].extend(each.records)
    manifest = make_manifest(
        dataset,
        card,
        protocol=protocol,
        verified=options.verify,
        classes=listing.classes,
        names=listing.names,
        shards=shards,
        records=records,
        rejected=rejected,
    )
    sizes = {shard.name: shard.bytes for shard in shards} | write_beside_shards(folder, manifest, rejected)
    in_order = [each for domain in listing.domains for each in written if each.plan.domain == domain and each.shard]
    sizes |= {shard.index_name: each.index_bytes for shard, each in zip(shards, in_order, strict=True)}
    check_presence(folder, sizes)  # as long as there are receipts: the same command then writes only what is missing
    remove_stale_shards(folder, manifest)
    remove_abandoned(folder)
    publish_manifest(folder, manifest, sizes)
    images = [(name, row.label, row.path, bytes.fromhex(row.sha256)) for name, rows in records.items() for row in rows]
    return Written(manifest, rejected, images)


def _numbered(folder: Folder, domain: str, written: Sequence[WrittenShard]) -> Iterator[Shard]:
    """A domain's shards, numbered without gaps: other programs count from 0 to the last.

    Only a shard whose images were all unusable leaves a gap. A run that is killed while it closes one writes the moved
    shards again.
    """
    found = [each.shard for each in written if each.plan.domain == domain and each.shard]
    for number, shard in enumerate(found):
        moved = replace(shard, name=f"{path_name(domain)}/{number}.tar")
        if moved.name != shard.name:
            folder.rename(shard.index_name, moved.index_name)
            folder.rename(shard.name, moved.name)
        yield moved
