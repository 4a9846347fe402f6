"""Reads the bytes of source images from files, archives and tables, in place: nothing is ever extracted."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fastclip.data.sources.blobs import MAX_BYTES, Blob
from fastclip.data.sources.seek_indexes import open_seekable
from fastclip.data.sources.tars import is_gzip
from fastclip.data.sources.zips import ZipContainer


class BlobReader:
    """Reads blobs, keeping the containers open. One for each process and thread."""

    def __init__(self) -> None:
        self._open: dict[Path, _Container] = {}

    def read(self, blob: Blob) -> bytes:
        """The bytes of `blob`. Raises `OSError` or `ValueError` with the reason if they cannot be read.

        Raises `IntegrityError` if an archive is another one than was listed.
        """
        if blob.size > MAX_BYTES:
            raise ValueError(f"{blob.size:,} bytes, more than the {MAX_BYTES:,} that an image may have")
        if blob.kind == "file":
            if not stat.S_ISREG(blob.container.stat().st_mode):
                raise ValueError("a pipe, a socket or a device")  # whose bytes may never end
            data = blob.container.read_bytes()
        else:
            if blob.container not in self._open:
                self._open[blob.container] = _open(blob)
            data = self._open[blob.container].read(blob)
        if len(data) != blob.size:
            raise ValueError(f"has {len(data):,} bytes, {blob.size:,} were listed: it changed meanwhile")
        return data

    def head(self, blob: Blob, count: int = 64) -> bytes:
        """The first bytes of `blob`. Raises as `read` does."""
        if blob.kind != "file":
            return self.read(blob)[:count]
        with blob.container.open("rb") as file:
            return file.read(count)


@runtime_checkable  # the tests check annotations
class _Container(Protocol):
    def read(self, blob: Blob) -> bytes:
        """The bytes of `blob`. Raises `ValueError` with the reason if the archive is damaged there."""


def _open(blob: Blob) -> _Container:
    if blob.kind == "parquet":
        from fastclip.data.sources.parquet import ParquetContainer  # loads pyarrow

        return ParquetContainer(blob.container)
    return ZipContainer(blob.container) if blob.kind == "zip" else _Tar(blob.container)


class _Tar:
    """A tar or tar.gz. Its content says which; the name does not matter."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def read(self, blob: Blob) -> bytes:
        try:
            if self._file is None:
                self._file = open_seekable(self._path) if is_gzip(self._path) else self._path.open("rb")
            self._file.seek(blob.offset)
            data: bytes = self._file.read(blob.size)
        except (OSError, EOFError) as error:
            raise ValueError(f"damaged in the archive, at byte {blob.offset:,}: {error}") from error
        if len(data) != blob.size:
            raise ValueError(f"cut off: the archive ends at byte {blob.offset + len(data):,}")
        return data

    def __del__(self) -> None:
        """Close the archive with its reader: Python warns of files that are left to it."""
        if self._file is not None:
            self._file.close()
