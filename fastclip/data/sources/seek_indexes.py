"""Random access to a .tar.gz: points to start from, at most 2,048 of 32 kB, in files that go when the program ends.

`save_seek_index` builds them in a private temporary folder. Workers learn where they are from `seek_indexes()`, given
to `adopt_seek_indexes` when they start. A worker without one makes its own, in memory: slower, the same bytes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fastclip.errors import IntegrityError

BUFFER_BYTES = 1 << 17
"""About a photo. Photos in random order took 0.5 ms each from a .tar.gz, and 1.5 ms with the default, 1 MiB."""


class FileStamp(NamedTuple):
    """What changes when somebody writes to a file."""

    bytes: int
    mtime_ns: int


class SeekIndex(NamedTuple):
    """Where the seek index of a `.tar.gz` lies, and the archive that it was made of."""

    file: Path
    stamp: FileStamp


_seek_indexes: dict[Path, SeekIndex] = {}


def seek_indexes() -> dict[Path, SeekIndex]:
    """The seek indexes that this process knows, for workers that do not inherit its memory."""
    return dict(_seek_indexes)


def adopt_seek_indexes(indexes: Mapping[Path, SeekIndex]) -> None:
    """Use seek indexes that another process made: the initializer of a pool of workers."""
    _seek_indexes.update(indexes)


def open_seekable(path: Path) -> Any:
    """An indexed_gzip.IndexedGzipFile: it reads and seeks as a file does."""
    known = _seek_indexes.get(path)
    if known is None:
        return _with_seek_index(path)
    if known.stamp != file_stamp(path):
        raise damaged(path, "it changed after it was listed")
    return _indexed_gzip()(str(path), index_file=str(known.file), drop_handles=False, buffer_size=BUFFER_BYTES)


def _with_seek_index(path: Path) -> Any:
    """The open archive, unpacked once to find the points to start from."""
    spacing = max(1 << 18, path.stat().st_size // 2048)
    file = _indexed_gzip()(str(path), spacing=spacing, drop_handles=False, buffer_size=BUFFER_BYTES)
    file.build_full_index()
    return file


def save_seek_index(path: Path, stamp: FileStamp) -> None:
    number, name = tempfile.mkstemp(".gzidx", dir=_temporary_folder().name)
    os.close(number)
    try:
        with _with_seek_index(path) as file:
            file.export_index(name)
    except (OSError, EOFError) as error:
        raise damaged(path, f"the gzip data cannot be unpacked: {error}") from error
    _seek_indexes[path] = SeekIndex(Path(name), stamp)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fastclip-seek-")


def _indexed_gzip() -> Any:
    from indexed_gzip import IndexedGzipFile  # only who reads a .tar.gz needs it

    return IndexedGzipFile


def file_stamp(path: Path) -> FileStamp:
    status = path.stat()
    return FileStamp(status.st_size, status.st_mtime_ns)


def damaged(path: Path, found: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged, or no archive that can be read in place: {found}.",
        fix="Get it again and compare its checksum; if it was made like that, unpack it yourself and give the folder.",
    )
