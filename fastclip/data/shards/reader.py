"""Reads shards through their index, from files that are checked against the manifest and stay open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped

from fastclip.data.shards.manifest import ImageRecord, Shard, images_sha256, rewrite
from fastclip.errors import UserError
from fastclip.files import canonical_json, digest
from fastclip.proven import Proof, ProvenFile
from fastclip.storage.folders import Folder, Location, differs, open_folder


class OpenTar:
    """A tar whose bytes are what the manifest says. Later reading goes to the very file that was hashed."""

    def __init__(self, location: Location, shard: Shard, known: Proof | None = None) -> None:
        """Open a tar of the dataset at `location`. Raises `UserError` if missing, `IntegrityError` if it differs.

        One SHA-256 over the whole tar, 1–2 GB/s: truncated tars and flipped bits read without an error otherwise. It is
        not computed again where `known`, the `proof` of an earlier opening, is of this very file.
        """
        self.shard = shard
        folder = open_folder(location)
        try:
            found = known and ProvenFile.again(known, partial(differs, str(known.path), folder.name))
            self._file = found or folder.open(shard.name, size=shard.bytes, sha256=shard.sha256)
        except FileNotFoundError:
            raise UserError(
                f"{folder}/{shard.name} is missing; the manifest lists it.",
                fix=f"Write the shards again: {rewrite(folder)}",
            ) from None
        self.proof = self._file.proof

    def read(self, offset: int, size: int) -> memoryview:
        """Bytes of the tar. Raises `IntegrityError` if it has become shorter, `MachineError` if it cannot be read."""
        return self._file.read(offset, size)

    def check_unchanged(self) -> None:
        """Raise `IntegrityError` if the file's bytes changed since it was opened."""
        self._file.check_unchanged()


class OpenShard(OpenTar):
    """A shard whose bytes are what the manifest says."""

    def __init__(self, location: Location, shard: Shard) -> None:
        """Open a shard of the dataset at `location`, and read its index. Raises as `OpenTar` does."""
        super().__init__(location, shard)
        folder = open_folder(location)
        self.records = read_index(folder, shard)
        if shard.images_sha256 and images_sha256(self.records) != shard.images_sha256:
            raise differs(f"{folder}/{shard.index_name}", folder.name, "its images are not those of the manifest")

    def image_bytes(self, row: int) -> memoryview:
        """The encoded image of `row`, as it was in the source. Raises as `read` does."""
        record = self.records[row]
        return self.read(record.offset, record.size)


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
        data = folder.read_proven(shard.index_name, shard.index_sha256)
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
