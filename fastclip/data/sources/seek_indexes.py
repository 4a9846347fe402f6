"""Random access to a .tar.gz: points to start from, at most 2,048 of 32 kB, in files that go when the program ends.

Listing an archive saves its seek index in a private temporary folder. Workers learn where it is from `seek_indexes()`,
given to `adopt_seek_indexes` when they start. A worker without one makes its own: slower, the same bytes.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from fastclip.data.sources.blobs import changed
from fastclip.errors import FastclipError, IncompleteError, IntegrityError
from fastclip.faults import facts_of, fault, open_steadily, steadily
from fastclip.temporary import make_temporary_folder

BUFFER_BYTES = 1 << 17
"""About a photo. Photos in random order took 0.5 ms each from a .tar.gz, and 1.5 ms with the default, 1 MiB."""

Stamp: TypeAlias = tuple[int, int]
"""Size and time of the last change of a file, in nanoseconds: they change when somebody writes to it."""


class SeekIndex(NamedTuple):
    """Where the seek index of a `.tar.gz` lies, and the archive that it was made of."""

    file: Path
    stamp: Stamp


_seek_indexes: dict[Path, SeekIndex] = {}
_folder: list[Path] = []
"""The folders of this process's seek indexes, the last one in use."""


def seek_indexes() -> dict[Path, SeekIndex]:
    """The seek indexes that this process knows, for workers that do not inherit its memory."""
    return dict(_seek_indexes)


def adopt_seek_indexes(indexes: Mapping[Path, SeekIndex]) -> None:
    """Use seek indexes that another process made."""
    _seek_indexes.update(indexes)


def open_seekable(path: Path, file: BinaryIO) -> Any:
    """An indexed_gzip.IndexedGzipFile of the open archive at `path`, which reads and seeks as a file does.

    Raises `IntegrityError` if the archive changed since its seek index was made.
    """
    facts = facts_of(file)
    stamp = facts.st_size, facts.st_mtime_ns
    known = _seek_indexes.get(path)
    if known and known.stamp != stamp:
        raise changed(path)
    if known is None or not known.file.exists():  # somebody may have tidied up the temporary folder
        known = save_seek_index(path, stamp)
    opened = _indexed_gzip(file)
    opened.import_index(fileobj=io.BytesIO(steadily(known.file.read_bytes, known.file)))
    return opened


def save_seek_index(path: Path, stamp: Stamp) -> SeekIndex:
    """Unpack the archive, which is known to be whole, and keep the points to start from."""
    points = io.BytesIO()
    with open_steadily(path) as file, reading(path):
        opened = _indexed_gzip(file, spacing=max(1 << 18, stamp[0] // 2048))
        opened.build_full_index()
        opened.export_index(fileobj=points)
        if stamp != (facts_of(file).st_size, facts_of(file).st_mtime_ns):
            raise changed(path)
    try:
        number, name = tempfile.mkstemp(".gzidx", dir=_temporary_folder())
        with os.fdopen(number, "wb") as index:
            index.write(points.getbuffer())
    except OSError as error:
        raise IncompleteError(
            f"{_place()} does not take the seek index of {path}: {error.strerror or error}.",
            fix="Free space there, or set TMPDIR to a folder that has some, then run the same command again.",
        ) from error
    _seek_indexes[path] = SeekIndex(Path(name), stamp)
    return _seek_indexes[path]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """The reason for what indexed_gzip raises in the block, of an archive that is known to be whole.

    It names the error of the file that it reads as the cause of its own; what it finds itself can then be memory alone.
    """
    try:
        yield
    except (OSError, EOFError) as error:
        cause = error.__cause__
        raise cause if isinstance(cause, FastclipError) else fault(error, path) from error


def file_stamp(path: Path) -> Stamp:
    """The stamp of the file as it is now."""
    facts = steadily(path.stat, path)
    return facts.st_size, facts.st_mtime_ns


def damaged(path: Path, found: str) -> IntegrityError:
    """The error for an archive in which `found` was found."""
    return IntegrityError(
        f"{path} is damaged, or no archive that can be read in place: {found}.",
        fix="Get it again and compare its checksum; if it was made like that, unpack it yourself and give the folder.",
    )


def _temporary_folder() -> Path:
    """The folder of this process's seek indexes: a new one where somebody has tidied up the temporary folder."""
    if not _folder or not _folder[-1].is_dir():
        _folder.append(make_temporary_folder("seek"))
    return _folder[-1]


def _place() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "No temporary folder"


class _Stream:
    """A file without a descriptor: indexed_gzip would read from that itself, and keep no reason why it could not."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell, self.close = file.read, file.seek, file.tell, file.close


def _indexed_gzip(file: BinaryIO, **options: Any) -> Any:
    from indexed_gzip import IndexedGzipFile  # only a .tar.gz needs it

    return IndexedGzipFile(fileobj=_Stream(file), buffer_size=BUFFER_BYTES, **options)
