"""Reads the bytes of source images from files, archives and tables, in place: nothing is ever extracted."""

from __future__ import annotations

import stat
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeAlias, runtime_checkable

from fastclip.data.sources.blobs import MAX_BYTES, Blob, changed
from fastclip.data.sources.seek_indexes import open_seekable, reading
from fastclip.data.sources.tars import is_gzip
from fastclip.data.sources.zips import ZipContainer
from fastclip.faults import MachineError, facts_of, open_steadily, steadily

MOST_OPEN = 64
"""Containers that are open at once: a source may have more tars than a process may have files."""

Stamp: TypeAlias = tuple[int, int, int]
"""Size, and in nanoseconds the times of the last writing and of the last change of anything."""


class BlobReader:
    """Reads blobs, keeping the containers open. One for each process and thread.

    All reading raises `MachineError` where the machine fails, and `IntegrityError` where a file is no longer the one
    that was listed.
    """

    def __init__(self) -> None:
        self._open: dict[Path, _Opened] = {}  # the oldest first

    def read(self, blob: Blob) -> bytes:
        """The bytes of `blob`. Raises `OSError` or `ValueError` with the reason if it can be no image."""
        if blob.size > MAX_BYTES:
            raise ValueError(f"{blob.size:,} bytes, more than the {MAX_BYTES:,} that an image may have")
        if blob.kind == "file":
            return _read_file(blob)
        opened = self._opened(blob)
        try:
            data = opened.container.read(blob)
        except (ValueError, MachineError):  # a library that unpacks may take other bytes for either
            opened.check_unchanged()
            raise
        if len(data) != blob.size:
            opened.check_unchanged()
            raise ValueError(f"has {len(data):,} bytes, {blob.size:,} were listed")
        return data

    def head(self, blob: Blob, count: int = 64) -> bytes:
        """The first bytes of `blob`. Raises as `read` does."""
        if blob.kind != "file":
            return self.read(blob)[:count]
        with open_steadily(blob.container) as file:
            return file.read(count)

    def check_unchanged(self) -> None:
        """Raise `IntegrityError` if a container was written to since it was listed."""
        for opened in self._open.values():
            opened.check_unchanged()

    def _opened(self, blob: Blob) -> _Opened:
        if blob.container not in self._open:
            while len(self._open) >= MOST_OPEN:
                oldest = self._open.pop(next(iter(self._open)))
                oldest.check_unchanged()
                oldest.file.close()
            self._open[blob.container] = _open(blob)
        return self._open[blob.container]


@runtime_checkable  # the tests check annotations
class _Container(Protocol):
    def read(self, blob: Blob) -> bytes:
        """The bytes of `blob`. Raises `ValueError` with the reason if the archive is damaged there."""


class _Opened(NamedTuple):
    """An open container, and the stamp that it had when it was opened."""

    path: Path
    file: BinaryIO
    container: _Container
    stamp: Stamp

    def check_unchanged(self) -> None:
        if _stamp(self.file) != self.stamp:
            raise changed(self.path)


def _open(blob: Blob) -> _Opened:
    """The container of `blob`. Raises `IntegrityError` if it is another one than was listed."""
    path = blob.container
    try:
        file = open_steadily(path)
    except OSError:
        raise changed(path) from None
    stamp = _stamp(file)
    if blob.mtime_ns not in (0, stamp[1]) or blob.ctime_ns not in (0, stamp[2]):
        raise changed(path)
    container: _Container
    if blob.kind == "parquet":
        from fastclip.data.sources.parquet import ParquetContainer  # loads pyarrow

        container = ParquetContainer(file)
    else:
        container = ZipContainer(file) if blob.kind == "zip" else _Tar(path, file)
    return _Opened(path, file, container, stamp)


def _stamp(file: BinaryIO) -> Stamp:
    facts = facts_of(file)
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _read_file(blob: Blob) -> bytes:
    """The bytes of a file, which is as it was when it was listed, before it is read and afterwards."""
    path = blob.container
    try:
        mode = steadily(path.stat, path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError("a pipe, a socket or a device")  # whose bytes may never end
        before, data, after = steadily(partial(_whole, path), path)
    except OSError:
        if blob.size or blob.mtime_ns:
            raise changed(path) from None
        raise  # a link to nowhere
    listed = blob.size, blob.mtime_ns or before[1]
    if before[:2] != listed or after != before or len(data) != blob.size:
        raise changed(path)
    return data


def _whole(path: Path) -> tuple[Stamp, bytes, Stamp]:
    with path.open("rb", buffering=0) as file:
        return _stamp(file), file.readall(), _stamp(file)


class _Tar:
    """A tar or tar.gz. Its content says which; the name does not matter."""

    _file: Any = None

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = open_seekable(path, file) if is_gzip(path) else file

    def read(self, blob: Blob) -> bytes:
        with reading(self._path):
            self._file.seek(blob.offset)
            data: bytes = self._file.read(blob.size)
        if len(data) != blob.size:
            raise ValueError(f"cut off: the archive ends at byte {blob.offset + len(data):,}")
        return data

    def __del__(self) -> None:
        """Close the archive with its reader: Python warns of files that are left to it."""
        if self._file is not None:
            self._file.close()
