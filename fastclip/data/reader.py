"""Reads shards through their index: mapped into memory, checked against the manifest, no copy."""

from __future__ import annotations

import hashlib
import json
import mmap
from pathlib import Path

from fastclip.data.manifest import ImageRecord, Shard, rewrite
from fastclip.errors import FastclipError, IntegrityError, UserError
from fastclip.files import digest


class OpenShard:
    """A shard whose bytes are what the manifest says. Its images stay readable as long as a view of them lives."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        """Map `folder`/`shard.name` and check it. Raises `UserError` if it is missing, `IntegrityError` if it differs.

        One SHA-256 over the whole tar, 1–2 GB/s: truncated tars and flipped bits read without an error otherwise.
        """
        self.shard = shard
        path = folder / shard.name
        try:
            with path.open("rb") as file:
                # Private copy-on-write: the pages of a read-only map, and PyTorch takes it without a warning.
                self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        except FileNotFoundError:
            raise UserError(
                f"{path} is missing; the manifest lists it.", fix=f"Write the shards again: {rewrite(folder)}"
            ) from None
        except ValueError:  # mmap of an empty file
            raise _differs(path, folder, "the file is empty") from None
        if len(self._bytes) != shard.bytes:
            raise _differs(path, folder, f"it has {len(self._bytes):,} bytes, the manifest says {shard.bytes:,}")
        if hashlib.sha256(self._bytes).hexdigest() != shard.sha256:
            raise _differs(path, folder, "its SHA-256 is not the manifest's")
        self.records = read_index(folder, shard)

    def image_bytes(self, row: int) -> memoryview:
        """The encoded image of `row`, as it was in the source: a view, not a copy."""
        record = self.records[row]
        return self._bytes[record.offset : record.offset + record.size]


def read_index(folder: Path, shard: Shard) -> list[ImageRecord]:
    """The rows of a shard's index. Raises `IntegrityError` unless they are the bytes and the number of the manifest."""
    path = folder / shard.index_name
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; it stands beside {shard.name}.", fix=f"Write the shards again: {rewrite(folder)}"
        ) from None
    if digest(data) != shard.index_sha256:
        raise _differs(path, folder, "its SHA-256 is not the manifest's")
    records = [ImageRecord(**json.loads(line)) for line in data.splitlines()]
    if len(records) != shard.images:
        raise _differs(path, folder, f"it has {len(records)} rows, the manifest says {shard.images}")
    return records


def _differs(path: Path, folder: Path, how: str) -> FastclipError:
    return IntegrityError(
        f"{path} is not the file that was sharded: {how}.",
        fix=f"Copy it again from where the shards were made, or write them again: {rewrite(folder)}",
    )
