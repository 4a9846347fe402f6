"""Where the bytes of a source image lie: in a file of its own, or inside an archive or a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastclip.errors import IntegrityError

MAX_BYTES = 1 << 28
"""The most bytes an encoded image may have (268 million): a larger one is a mistake or an attack."""


@dataclass(frozen=True)
class Blob:
    """The bytes of one image: a file of its own, or a place inside the file at `container`."""

    kind: Literal["file", "zip", "tar", "parquet"]
    """tar: packed with gzip or not."""
    container: Path
    size: int
    """Bytes of the image."""
    mtime_ns: int = 0
    """When the container was last changed."""
    offset: int = 0
    """tar: where its bytes begin, in the unpacked archive. zip: where its header does. parquet: its row."""
    member: str = ""
    """parquet: the column."""
    ctime_ns: int = 0
    """When anybody last touched the container, which nobody can set; 0 where that is not known."""


def changed(path: Path) -> IntegrityError:
    """The error for a file of a source that is not as it was when the source was listed."""
    return IntegrityError(
        f"{path} changed while it was read.", fix="Let what writes it finish, then run the same command again."
    )
