"""Reads shards through their index: mapped into memory, checked against the manifest, no copy."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped

from fastclip.data.shards.manifest import ImageRecord, Shard, images_sha256, rewrite
from fastclip.errors import UserError
from fastclip.faults import steadily
from fastclip.files import canonical_json, digest
from fastclip.storage.folders import Folder, Location, differs, open_folder


class OpenTar:
    """A tar whose bytes are what the manifest says, mapped into memory: they stay readable as long as a view lives."""

    def __init__(self, location: Location, shard: Shard, known: Proof | None = None) -> None:
        """Map a tar of the dataset at `location`. Raises `UserError` if missing, `IntegrityError` if it differs.

        One SHA-256 over the whole tar, 1–2 GB/s: truncated tars and flipped bits read without an error otherwise. It is
        not computed again where `known`, the `proof` of an earlier opening, is of this very file.
        """
        self.shard = shard
        folder = open_folder(location)
        self._dataset = folder.name
        try:
            self._file = (known and _same_file(known)) or self._proven(folder)
            # Private copy-on-write: the pages of a read-only map, and PyTorch takes it without a warning.
            self.bytes = memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY))
        except FileNotFoundError:
            raise UserError(
                f"{folder}/{shard.name} is missing; the manifest lists it.",
                fix=f"Write the shards again: {rewrite(folder)}",
            ) from None
        except ValueError:  # mmap of an empty file
            raise differs(f"{folder}/{shard.name}", folder.name, "the file is empty") from None
        self.proof = Proof(Path(self._file.name), _stamp(self._file))

    def _proven(self, folder: Folder) -> BinaryIO:
        shard = self.shard
        path = folder.local(shard.name, size=shard.bytes, sha256=shard.sha256)
        return steadily(lambda: path.open("rb"), path)

    def check_unchanged(self) -> None:
        """Raise `IntegrityError` if the file's bytes changed since it was checked: a map shows the new bytes."""
        stamp = _stamp(self._file)
        if stamp == self.proof.stamp:
            return
        if stamp[0] != self.shard.bytes or hashlib.sha256(self.bytes).hexdigest() != self.shard.sha256:
            raise differs(self._file.name, self._dataset, "it changed while it was read")


class OpenShard(OpenTar):
    """A shard whose bytes are what the manifest says. Its images stay readable as long as a view of them lives."""

    def __init__(self, location: Location, shard: Shard) -> None:
        """Map a shard of the dataset at `location`, and read its index. Raises as `OpenTar` does."""
        super().__init__(location, shard)
        folder = open_folder(location)
        self.records = read_index(folder, shard)
        if shard.images_sha256 and images_sha256(self.records) != shard.images_sha256:
            raise differs(f"{folder}/{shard.index_name}", folder.name, "its images are not those of the manifest")

    def image_bytes(self, row: int) -> memoryview:
        """The encoded image of `row`, as it was in the source: a view, not a copy."""
        record = self.records[row]
        return self.bytes[record.offset : record.offset + record.size]


class Proof(NamedTuple):
    """A file that had the bytes of the manifest when it was opened: where, and its stamp."""

    path: Path
    stamp: tuple[int, ...]


def _same_file(known: Proof) -> BinaryIO | None:
    """The file of an earlier opening; None if it is gone, or if anybody has touched it since."""
    try:
        file = known.path.open("rb")
    except FileNotFoundError:
        return None
    if _stamp(file) == known.stamp:
        return file
    file.close()
    return None


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    facts = os.fstat(file.fileno())
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_dev, facts.st_ino


def read_index(location: Location, shard: Shard) -> list[ImageRecord]:
    """The rows of a shard's index. Raises `IntegrityError` if their digest or number is not the manifest's."""
    folder = open_folder(location)
    path = f"{folder}/{shard.index_name}"
    records = []
    for number, row in enumerate(_index_rows(folder, shard), 1):
        try:
            records.append(_record(row, shard))
        except (ValueError, TypeError, RecursionError) as error:
            raise differs(path, folder.name, f"row {number} is not a row of an index, {error}") from error
    return records


def read_records(location: Location, shard: Shard, rows: Sequence[int]) -> list[ImageRecord]:
    """Some rows of a shard's index: see `read_index`, which reads all and takes seconds for many shards."""
    folder = open_folder(location)
    texts = _index_rows(folder, shard)
    try:
        return [_record(texts[row], shard) for row in rows]
    except (ValueError, TypeError, RecursionError) as error:
        path = f"{folder}/{shard.index_name}"
        raise differs(path, folder.name, f"a row is not a row of an index, {error}") from error


class Images(NamedTuple):
    """The images of a shard, in the order of its index."""

    keys: list[str]
    paths: list[str]
    digests: list[str]
    labels: Int64[np.ndarray, " images"]
    spans: Int64[np.ndarray, "images 2"]
    """Offset and size of the bytes in the tar."""
    shapes: Int64[np.ndarray, "images 2"]
    """Height and width in pixels, as stored."""


def read_labels(location: Location, shard: Shard) -> Int64[np.ndarray, " images"]:
    """The labels of a shard's images, in the order of its index: see `read_images`."""
    return read_images(location, shard).labels


def read_labels_and_digests(
    location: Location, shard: Shard
) -> tuple[Int64[np.ndarray, " images"], Shaped[np.ndarray, " images"]]:
    """The labels of a shard's images and their SHA-256 as hexadecimal bytes: see `read_images`."""
    images = read_images(location, shard)
    return images.labels, np.array([each.encode() for each in images.digests], "S64")


def read_images(location: Location, shard: Shard) -> Images:
    """The images of a shard. Several times as fast as `read_index`.

    Raises `IntegrityError` unless the rows are of the images that `shard.images_sha256` names, in that order.
    """
    folder = open_folder(location)
    rows = _index_rows(folder, shard)
    try:
        values = json.loads(b"[" + b",".join(rows) + b"]")
        labels = [row["label"] for row in values]
        if len(labels) != shard.images or set(map(type, labels)) - {int}:
            raise ValueError("a label is not a number")
        texts = [[row[name] for row in values] for name in ("key", "path", "sha256")]
        if set(map(type, chain(*texts))) - {str}:
            raise ValueError("a key, a path or a digest is not a text")
        images = [[row["offset"], row["size"], row["height"], row["width"], row["sha256"]] for row in values]
        if shard.images_sha256 and digest(canonical_json(images)) != shard.images_sha256:
            raise ValueError("its images are not those of the manifest")
        keys, paths, digests = texts
        numbers = np.array([image[:4] for image in images], np.int64).reshape(-1, 4)
        return Images(keys, paths, digests, np.array(labels, np.int64), numbers[:, :2], numbers[:, 2:])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise differs(f"{folder}/{shard.index_name}", folder.name, f"its labels cannot be read, {error}") from error


def _index_rows(folder: Folder, shard: Shard) -> list[bytes]:
    path = f"{folder}/{shard.index_name}"
    try:
        index = folder.local(shard.index_name, size=None, sha256=shard.index_sha256)
        data = steadily(index.read_bytes, index)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; it stands beside {shard.name}.", fix=f"Write the shards again: {rewrite(folder)}"
        ) from None
    rows = data.splitlines()
    if len(rows) != shard.images:
        raise differs(path, folder.name, f"it has {len(rows)} rows, the manifest says {shard.images}")
    return rows


_FIELDS = {field.name: {"str": str, "int": int}[str(field.type)] for field in fields(ImageRecord)}


def _record(row: bytes, shard: Shard) -> ImageRecord:
    """A row of an index. Raises `ValueError` or `TypeError` if it is not one, or leads out of the tar.

    The digest in the manifest proves that the row is unchanged. It does not prove who wrote it.
    """
    values = json.loads(row)
    if not isinstance(values, dict) or {name: type(value) for name, value in values.items()} != _FIELDS:
        raise ValueError("it has other fields")
    record = ImageRecord(**values)
    if min(record.label, record.offset, record.size) < 0 or record.offset + record.size > shard.bytes:
        raise ValueError("its label or its place in the tar is impossible")
    return record
