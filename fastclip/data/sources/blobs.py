"""Where the bytes of source images lie: in files, or inside archives and tables, read in place, never extracted."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

Kind = Literal["file", "zip", "tar", "tgz", "parquet"]

MAX_BYTES = 1 << 28
"""The most bytes an encoded image may have (268 million): what lies above is a mistake or an attack."""


@dataclass(frozen=True)
class Blob:
    """The bytes of one image: a file of its own, or a place inside the file at `container`."""

    kind: Kind
    container: Path
    size: int
    """Bytes of the image."""
    mtime_ns: int = 0
    """When the container was last changed."""
    offset: int = 0
    """tar and tgz: where its bytes begin, in the uncompressed archive. parquet: its row."""
    member: str = ""
    """zip: the member's name. parquet: the column."""


@runtime_checkable
class OpenContainer(Protocol):
    """An open archive that gives the bytes of its blobs."""

    def read(self, blob: Blob) -> bytes:
        """The bytes of `blob`; `ValueError` with the reason if the archive is damaged there."""


class BlobReader:
    """Reads blobs, keeping the containers open. One for each process and thread."""

    def __init__(self) -> None:
        self._open: dict[Path, OpenContainer] = {}

    def read(self, blob: Blob) -> bytes:
        """The bytes of `blob`. Raises `OSError` or `ValueError` with the reason if they cannot be read."""
        if blob.size > MAX_BYTES:
            raise ValueError(f"{blob.size:,} bytes, more than the {MAX_BYTES:,} that an image may have")
        if blob.kind == "file":
            data = blob.container.read_bytes()
        else:
            if blob.container not in self._open:
                self._open[blob.container] = _OPENERS[blob.kind](blob.container)
            data = self._open[blob.container].read(blob)
        if len(data) != blob.size:
            raise ValueError(f"has {len(data):,} bytes, {blob.size:,} were listed: it changed meanwhile")
        return data


class _Zip:
    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)

    def read(self, blob: Blob) -> bytes:
        try:
            with self._zip.open(blob.member) as member:
                return member.read(blob.size + 1)  # never more than was listed, whatever the stream expands to
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, KeyError) as error:
            raise ValueError(f"damaged in the archive: {error}") from error


def _open_tar(path: Path) -> OpenContainer:
    from fastclip.data.sources.tars import TarContainer

    return TarContainer(path)


def _open_parquet(path: Path) -> OpenContainer:
    from fastclip.data.sources.parquet import ParquetContainer

    return ParquetContainer(path)


_OPENERS: dict[str, Callable[[Path], OpenContainer]] = {
    "zip": _Zip,
    "tar": _open_tar,
    "tgz": _open_tar,
    "parquet": _open_parquet,
}
