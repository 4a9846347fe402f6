"""Writes a listing as tar shards with webdataset: original bytes, every image decoded once on the way in.

What goes into which shard is fixed before any image is read, so shards are written by any number of processes in any
order, and a run that was killed goes on with the shards that are missing.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import connection
from pathlib import Path
from typing import Any, BinaryIO

import webdataset

from fastclip.data.catalogue import DatasetCard
from fastclip.data.images import check_image, read_header
from fastclip.data.shards.fingerprint import find_variant, fingerprint
from fastclip.data.shards.manifest import (
    MANIFEST,
    REJECTED,
    VERSION,
    Domain,
    ImageRecord,
    Manifest,
    Rejected,
    Shard,
    json_lines,
    path_name,
    remove_stale_shards,
)
from fastclip.data.shards.reader import OpenShard
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.listing import Listing, SourceImage
from fastclip.data.sources.protocols import FULL
from fastclip.data.sources.seek_indexes import SeekIndex, adopt_seek_indexes, seek_indexes
from fastclip.data.sources.tars import list_tar
from fastclip.errors import FastclipError, IncompleteError, UserError
from fastclip.files import canonical_json, digest
from fastclip.machine import available_cores
from fastclip.storage.folders import Folder

OVERHEAD_BYTES = 2_600
"""Bytes that an image takes beside its own, at most: two tar headers, padding, the label's block, index rows."""

TEMPORARY_PREFIX = ".shard-"
"""How unfinished files begin: a leading dot, so that no reader takes one."""


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How shards are written. Their bytes depend on all but `processes`."""

    shard_images: int = 1000
    shard_bytes: int = 1 << 30
    """A shard is closed before it exceeds this many bytes of images; one larger image has its own."""
    verify: bool = True
    """Decode every image. Without it only headers are read, and what does not decode is found by `eval`."""
    processes: int | None = None
    """None: one a core, or this process alone if there is little to write."""

    def __post_init__(self) -> None:
        for name in ("shard_images", "shard_bytes", "processes"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {number}.", fix="Leave it out.")


@dataclass(frozen=True)
class PlannedShard:
    """What goes into one shard, decided before any image is read: images that turn out unreadable stay out of it."""

    number: int
    domain: str
    first: int
    """Number of its first image in the domain."""
    images: tuple[SourceImage, ...]

    @property
    def name(self) -> str:
        return f"{path_name(self.domain)}/{self.number}.tar"

    @property
    def receipt_name(self) -> str:
        """Path of the file that says, until the manifest is there, that the shard is done."""
        return f"{path_name(self.domain)}/.{self.number}.receipt.json"


@dataclass(frozen=True)
class WrittenShard:
    """What became of a planned shard."""

    plan: PlannedShard
    shard: Shard | None
    """None if none of its images can be used."""
    records: Sequence[ImageRecord]
    rejected: Sequence[Rejected]


@dataclass
class Written:
    """A dataset that was written, and what its images showed."""

    manifest: Manifest
    rejected: list[Rejected]
    images: list[tuple[str, int, str, bytes]] = field(default_factory=list)
    """(domain, label, path, SHA-256) of every image in a shard."""


def plan_shards(listing: Listing, options: WriteOptions) -> list[PlannedShard]:
    """Which images go into which shard: a pure function of the listing and the options."""
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
    on_progress: Callable[[int, int], None] = lambda images, size: None,
) -> Written:
    """Write the images of `listing` into `folder` and publish its manifest last.

    `on_progress` is called with numbers of images and of their bytes. Raises `UserError` if no image can be used,
    `IncompleteError` if the disk is too small or a process was lost: the same command goes on.
    """
    options = options or WriteOptions()
    plans = plan_shards(listing, options)
    done = {plan.name: written for plan in plans if (written := _finished(folder, plan, options))}
    todo = [plan for plan in plans if plan.name not in done]
    _check_space(folder, todo, options)
    folder.remove(MANIFEST)  # without it a dataset is none, until the new one is whole
    for written in done.values():
        on_progress(len(written.plan.images), sum(image.blob.size for image in written.plan.images))
    for written in _write_all(folder, todo, options, on_progress):
        done[written.plan.name] = written
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
            f"The shards need {need / 1e9:,.1f} GB more, {place} has {free / 1e9:,.1f} GB free.",
            fix="Free space there or choose another --out (or TMPDIR); shards that are finished are kept.",
        )


def _write_all(
    folder: Folder,
    plans: Sequence[PlannedShard],
    options: WriteOptions,
    on_progress: Callable[[int, int], None],
) -> Iterator[WrittenShard]:
    """Write the planned shards, in this process or in several, and yield each when it is done."""
    images = sum(len(plan.images) for plan in plans)
    # Two seconds go by until a process has imported what it needs.
    wanted = options.processes or (1 if images < 2_000 else available_cores())
    if (processes := min(wanted, len(plans))) <= 1:
        reader = BlobReader()
        for plan in plans:
            yield write_shard(folder, plan, options, reader, on_progress)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastclip.data.shards.writer"])
    counts = context.Array("q", 2)
    stop = context.Event()
    with ProcessPoolExecutor(processes, context, _start_worker, (counts, stop, seek_indexes())) as pool:
        waiting = {pool.submit(_write_in_worker, folder, plan, options) for plan in plans}
        seen = (0, 0)
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                now = (counts[0], counts[1])
                on_progress(now[0] - seen[0], now[1] - seen[1])
                seen = now
                yield from map(_result, finished)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _result(future: Future[WrittenShard]) -> WrittenShard:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise IncompleteError(
            "A process that wrote shards was killed.", fix="Run the same command again; finished shards are kept."
        ) from error


class _Worker:
    """What one writing process has of its own."""

    reader = BlobReader()
    counts: Any = None
    stop: Any = None


def _start_worker(counts: Any, stop: Any, indexes: Mapping[Path, SeekIndex]) -> None:
    adopt_seek_indexes(indexes)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process, which stops the others
    _Worker.counts, _Worker.stop = counts, stop
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"

    def leave_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _write_in_worker(folder: Folder, plan: PlannedShard, options: WriteOptions) -> WrittenShard:
    def count(images: int, size: int) -> None:
        if _Worker.stop.is_set():
            raise IncompleteError("Stopped.", fix="Run the same command again.")
        with _Worker.counts.get_lock():
            _Worker.counts[0] += images
            _Worker.counts[1] += size

    return write_shard(folder, plan, options, _Worker.reader, count)


def write_shard(
    folder: Folder,
    plan: PlannedShard,
    options: WriteOptions,
    reader: BlobReader,
    on_progress: Callable[[int, int], None],
) -> WrittenShard:
    """Write one shard, its indexes and then its receipt. Every file appears whole or not at all."""
    records: list[ImageRecord] = []
    rejected: list[Rejected] = []
    handle, path = tempfile.mkstemp(".tmp", TEMPORARY_PREFIX, folder.staging())
    temporary = Path(path)
    try:
        with os.fdopen(handle, "wb") as file:
            stream = _HashingFile(file)
            # A fixed owner, mode and time: the same images give the same bytes.
            with webdataset.TarWriter(stream, encoder=False, mtime=0, user="fastclip", group="fastclip") as tar:
                for row, image in enumerate(plan.images):
                    checked = _check(image, reader, verify=options.verify)
                    on_progress(1, image.blob.size)
                    if isinstance(checked, Rejected):
                        rejected.append(checked)
                        continue
                    data, extension, height, width = checked
                    key = f"{path_name(plan.domain)}/{plan.first + row:08d}"
                    tar.write({"__key__": key, extension: data, "cls": str(image.label).encode()})
                    sha256 = digest(data)
                    record = ImageRecord(
                        key=key,
                        label=image.label,
                        path=image.path,
                        offset=0,
                        size=len(data),
                        height=height,
                        width=width,
                        sha256=sha256,
                    )
                    records.append(record)
            file.flush()
            os.fsync(file.fileno())
        shard = None
        if records:
            records = _with_offsets(temporary, records)
            index = json_lines(records)
            shard = Shard(
                name=plan.name,
                domain=plan.domain,
                images=len(records),
                bytes=stream.bytes,
                sha256=stream.sha256.hexdigest(),
                index_sha256=digest(index),
            )
            folder.write(shard.index_name, index)
            folder.put(plan.name, temporary)
    finally:
        temporary.unlink(missing_ok=True)
    receipt = {
        "plan": _plan_digest(plan, options),
        "shard": asdict(shard) if shard else None,
        "rejected": [asdict(row) for row in rejected],
    }
    folder.write(plan.receipt_name, canonical_json(receipt))
    return WrittenShard(plan, shard, records, rejected)


def _check(image: SourceImage, reader: BlobReader, *, verify: bool) -> tuple[bytes, str, int, int] | Rejected:
    """The image's bytes, extension, height and width; or why it cannot be used."""
    try:
        data = reader.read(image.blob)
        return data, *(check_image(data) if verify else read_header(data))
    except (ValueError, OSError) as error:
        # Not the error's own path: the same reason wherever the source lies.
        reason = (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
        return Rejected(path=image.found_at, reason=reason, domain=image.domain, label=image.label)


class _HashingFile:
    """What a tar is written to: a file, its SHA-256 and its length in one pass."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._file.flush()


def _with_offsets(path: Path, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The records with the offsets of their images in the tar."""
    members = list_tar(path)
    offsets = {member.name.rpartition(".")[0]: member.offset for member in members if member.name[-4:] != ".cls"}
    return [replace(record, offset=offsets[record.key]) for record in records]


def _plan_digest(plan: PlannedShard, options: WriteOptions) -> str:
    """What a finished shard was made from, as far as it can be seen without reading it."""
    images = [[i.label, i.path, i.found_at, i.blob.size, i.blob.mtime_ns, i.blob.offset] for i in plan.images]
    return digest(canonical_json([VERSION, plan.domain, plan.number, plan.first, options.verify, images]))


def _finished(folder: Folder, plan: PlannedShard, options: WriteOptions) -> WrittenShard | None:
    """The shard as an interrupted run left it, if it was made from the same images and is whole."""
    try:
        receipt = json.loads(folder.read(plan.receipt_name))
        if receipt["plan"] != _plan_digest(plan, options):
            return None
        rejected = [Rejected(**row) for row in receipt["rejected"]]
        if receipt["shard"] is None:
            return WrittenShard(plan, None, [], rejected)
        shard = Shard(**receipt["shard"])
        records = OpenShard(folder, shard).records
    except (FileNotFoundError, ValueError, KeyError, TypeError, FastclipError):
        return None  # written again
    return WrittenShard(plan, shard, records, rejected)


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
    domains = tuple(_domain(name, listing, written, rejected) for name in listing.domains)
    manifest = Manifest(
        dataset=dataset,
        title=card.title if card else dataset,
        variant=find_variant(domains, card) if protocol == FULL else None,
        protocol=protocol,
        verified=options.verify,
        classes=listing.classes,
        names=listing.names,
        domains=domains,
        shards=tuple(shards),
        rejected_sha256=digest(json_lines(rejected)),
    )
    for domain in domains:
        count = len(manifest.shards_of(domain.name))
        folder.write(f"{path_name(domain.name)}/nshards.txt", f"{count}\n".encode())
    folder.write("classnames.txt", "".join(f"{name}\n" for name in manifest.names).encode())
    folder.write(REJECTED, json_lines(rejected))
    remove_stale_shards(folder, manifest)
    for name in [*folder.list(".*.tmp"), *folder.list("*/.*.tmp")]:
        folder.remove(name)  # of a run that was killed
    folder.write(MANIFEST, manifest.to_json())
    images = [
        (each.plan.domain, record.label, record.path, bytes.fromhex(record.sha256))
        for each in written
        for record in each.records
    ]
    return Written(manifest, rejected, images)


def _numbered(folder: Folder, domain: str, written: Sequence[WrittenShard]) -> Iterator[Shard]:
    """A domain's shards, numbered without gaps: other programs count from 0 to the last.

    Only a shard whose images were all unusable leaves a gap. A run killed while it closes one writes the moved shards
    again.
    """
    found = [each.shard for each in written if each.plan.domain == domain and each.shard]
    for number, shard in enumerate(found):
        moved = replace(shard, name=f"{path_name(domain)}/{number}.tar")
        if moved.name != shard.name:
            folder.rename(shard.index_name, moved.index_name)
            folder.rename(shard.name, moved.name)
        yield moved


def _domain(name: str, listing: Listing, written: Sequence[WrittenShard], rejected: Sequence[Rejected]) -> Domain:
    records = [record for each in written if each.plan.domain == name for record in each.records]
    labels = Counter(record.label for record in records)
    return Domain(
        name=name,
        images=len(records),
        unreadable=sum(row.domain == name for row in rejected),
        class_images=tuple(labels[label] for label in range(len(listing.classes))),
        fingerprint=fingerprint(bytes.fromhex(record.sha256) for record in records),
    )
