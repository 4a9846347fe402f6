"""Tars and WebDataset shards for tests, made by hand with the standard library."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

Members = Iterable[tuple[str, bytes]]


def tar_bytes(members: Members, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of regular files as Python, GNU tar and webdataset write it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, data in members:
            tar.addfile(member(name, len(data)), io.BytesIO(data))
    return file.getvalue()


def member(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def header(name: str, size: int = 0, **fields: object) -> bytes:
    """The header blocks of one member."""
    return member(name, size, **fields).tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def with_checksum(block: bytes, spelling: bytes = b"%06o\0 ") -> bytes:
    """A header block whose checksum is right again."""
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + spelling % sum(blank) + block[156:]


END = bytes(1024)


def write_shard(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)
