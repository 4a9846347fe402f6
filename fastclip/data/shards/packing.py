"""Writes one planned shard with webdataset: its tar of original bytes, its index, and a receipt that it is done."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

import webdataset

from fastclip.data.images import check_image, read_header
from fastclip.data.shards.manifest import VERSION, ImageRecord, Rejected, Shard, json_lines, path_name
from fastclip.data.shards.publish import shard_row
from fastclip.data.shards.reader import OpenShard
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.listing import SourceImage
from fastclip.data.sources.tars import list_tar
from fastclip.errors import FastclipError
from fastclip.faults import named
from fastclip.files import canonical_json, digest, storing, temporary_path
from fastclip.storage.folders import Folder

OnProgress = Callable[[int, int], None]
"""A function that is called with numbers of images that were read and of their bytes."""


@dataclass(frozen=True)
class PlannedShard:
    """The images of one shard, chosen before any is read. Unreadable ones will not be in it."""

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
        """Path of the file that shows that the shard is done. It is removed when the manifest is written."""
        return f"{path_name(self.domain)}/.{self.number}.receipt.json"

    def digest(self, verify: bool) -> str:
        """A digest of everything that a finished shard was made from, as far as it shows without reading images."""
        images = [[i.label, i.path, i.found_at, i.blob.size, i.blob.mtime_ns, i.blob.offset] for i in self.images]
        return digest(canonical_json([VERSION, self.domain, self.number, self.first, verify, images]))


@dataclass(frozen=True)
class WrittenShard:
    """A planned shard after it was written."""

    plan: PlannedShard
    shard: Shard | None
    """None if none of its images can be used."""
    records: Sequence[ImageRecord]
    rejected: Sequence[Rejected]
    index_bytes: int
    """The size of its index, 0 without one."""


def write_shard(
    folder: Folder, plan: PlannedShard, reader: BlobReader, on_progress: OnProgress, *, verify: bool
) -> WrittenShard:
    """Write one shard, its index and then its receipt. Every file appears whole or not at all.

    Raises `MachineError` for an image that the machine cannot read, `IntegrityError` for one that changed meanwhile.
    """
    shard, index = None, b""
    file = _new_file(folder, plan)
    temporary = Path(file.name)
    try:
        with storing(Path(f"{folder}/{plan.name}")), file:
            stream = _HashingFile(file)
            records, rejected = _write_tar(stream, plan, reader, on_progress, verify)
            reader.check_unchanged()
            file.flush()
            os.fsync(file.fileno())
        if records:
            records = _with_offsets(temporary, records)
            size, sha256 = stream.bytes, stream.sha256.hexdigest()
            shard = shard_row(plan.name, plan.domain, records, size=size, sha256=sha256)
            index = json_lines(records)
            folder.write(shard.index_name, index)
            folder.put(plan.name, temporary)
    finally:
        temporary.unlink(missing_ok=True)
    written = WrittenShard(plan, shard, records, rejected, len(index))
    folder.write(plan.receipt_name, _receipt(written, verify))
    return written


def _new_file(folder: Folder, plan: PlannedShard) -> BinaryIO:
    """An unfinished tar that no reader takes. Only one that leaves this machine is for its owner's eyes alone."""
    if (staging := folder.staging()) is None:
        return cast(BinaryIO, tempfile.NamedTemporaryFile(prefix="fastclip-", suffix=".tmp", delete=False))
    return temporary_path(staging / f"{plan.number}.tar").open("xb")


def finished_shard(folder: Folder, plan: PlannedShard, *, verify: bool) -> WrittenShard | None:
    """The shard as an interrupted run left it; None unless it was made from the same images and is whole."""
    try:
        receipt = json.loads(folder.read(plan.receipt_name))
        if receipt["plan"] != plan.digest(verify):
            return None
        rejected = [Rejected(**row) for row in receipt["rejected"]]
        if receipt["shard"] is None:
            return WrittenShard(plan, None, [], rejected, 0)
        shard = Shard(**receipt["shard"])
        records = OpenShard(folder, shard).records
    except (OSError, ValueError, KeyError, TypeError, FastclipError):
        return None  # written again
    same = shard == shard_row(plan.name, plan.domain, records, size=shard.bytes, sha256=shard.sha256)
    return WrittenShard(plan, shard, records, rejected, len(json_lines(records))) if same else None


def _receipt(written: WrittenShard, verify: bool) -> bytes:
    shard = asdict(written.shard) if written.shard else None
    rejected = [asdict(row) for row in written.rejected]
    return canonical_json({"plan": written.plan.digest(verify), "shard": shard, "rejected": rejected})


def _write_tar(
    stream: _HashingFile, plan: PlannedShard, reader: BlobReader, on_progress: OnProgress, verify: bool
) -> tuple[list[ImageRecord], list[Rejected]]:
    """Write the images that can be used, each with its label; return their rows, without offsets, and the others."""
    records, rejected = [], []
    # A fixed owner, mode and time: the same images give the same bytes.
    with webdataset.TarWriter(stream, encoder=False, mtime=0, user="fastclip", group="fastclip") as tar:
        for row, image in enumerate(plan.images):
            checked = _check(image, reader, verify)
            on_progress(1, image.blob.size)
            if isinstance(checked, Rejected):
                rejected.append(checked)
                continue
            data, extension, height, width = checked
            key = f"{path_name(plan.domain)}/{plan.first + row:08d}"
            tar.write({"__key__": key, extension: data, "cls": str(image.label).encode()})
            record = ImageRecord(
                key=key,
                label=image.label,
                path=image.path,
                offset=0,
                size=len(data),
                height=height,
                width=width,
                sha256=digest(data),
            )
            records.append(record)
    return records, rejected


def _check(image: SourceImage, reader: BlobReader, verify: bool) -> tuple[bytes, str, int, int] | Rejected:
    """The image's bytes, extension, height and width; or why it cannot be used."""
    try:
        with named(image.blob.container):
            data = reader.read(image.blob)
            return data, *(check_image(data) if verify else read_header(data))
    except (ValueError, OSError) as error:  # of a link to nowhere
        # Not the error's own path: the same reason wherever the source lies.
        reason = (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
        return Rejected(path=image.found_at, reason=reason, domain=image.domain, label=image.label)


def _with_offsets(path: Path, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The records with the offsets of their images in the tar."""
    members = list_tar(path)
    offsets = {member.name.rpartition(".")[0]: member.offset for member in members if member.name[-4:] != ".cls"}
    return [replace(record, offset=offsets[record.key]) for record in records]


class _HashingFile:
    """A file for a tar that counts and hashes the bytes on their way."""

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
