"""Kinds of archives by their names and first bytes, and links inside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fastclip.errors import UserError
from fastclip.faults import open_steadily

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
"""The archives that are read in place."""

UNREAD = {
    "bz2": "bzip2", "tbz": "bzip2", "tbz2": "bzip2", "xz": "xz", "txz": "xz", "zst": "zstd", "tzst": "zstd",
    "lz4": "lz4", "lzma": "LZMA", "tlz": "LZMA", "lz": "lzip", "lzo": "lzop", "z": "compress", "taz": "compress",
    "gz": "gzip", "rar": "RAR", "7z": "7-Zip", "zipx": "zipx", "cpio": "cpio", "lzh": "LHA", "lha": "LHA",
    "cab": "Cabinet", "iso": "ISO 9660", "dmg": "disk image", "squashfs": "SquashFS",
}  # fmt: skip
"""Suffix in lower case → kind, for archives that are not read."""

SPLIT = re.compile(
    r"\.([zr]\d\d+|(zip|7z|rar|tar|tgz|gz)[._-](part)?[._-]?(\d{1,4}|[a-f][a-y])?|part\d+\.(rar|zip|7z|tar|tgz|gz|exe))$"
)
"""a.z01, a.zip.001, a.tar.aa, a.tar.gz.part-1, a.part1.rar; a.zip.part of an unfinished download."""

FIRST_BYTES = (
    (rb"BZh[1-9]", "bzip2"),
    (rb"\xfd7zXZ\0", "xz"),
    (rb"\x28\xb5\x2f\xfd", "zstd"),
    (rb"\x04\x22\x4d\x18", "lz4"),
    (rb"LZIP\x01", "lzip"),
    (rb"\x1f[\x9d\xa0]", "compress"),
    (rb"\x1f\x8b", "gzip"),
    (rb"PK\x03\x04", "zip"),
    (rb"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (rb"Rar!\x1a\x07", "RAR"),
    (rb"(?s).{257}ustar", "tar"),
)
MAX_LINKS = 40
"""The most links that Linux follows in a row."""


def unread_archive(name: str) -> str | None:
    """The kind of archive that a file of this name is, if it is one that is not read; else None."""
    name = name.rpartition("/")[2].lower()
    if SPLIT.search(name):
        return "split"
    stem, _, suffix = name.lstrip(".").rpartition(".")
    return UNREAD.get(suffix) if stem and not name.endswith(ARCHIVES) else None


def refuse_other_kinds(path: Path, *kinds: str) -> None:
    """Raise `UserError` if the file begins as an archive of another kind than `kinds` does."""
    with open_steadily(path) as file:
        start = file.read(512)
    kind = next((kind for pattern, kind in FIRST_BYTES if re.match(pattern, start)), None)
    if kind is not None and kind not in kinds:
        raise UserError(
            f"{path} is no {kinds[0]} archive but a {kind} one.", fix="Unpack it yourself, and give the folder."
        )


def follow(target_of: Mapping[str, str], name: str) -> str:
    """The name at the end of the links that begin at `name`; some name on the way if they lead in a circle."""
    for _ in range(MAX_LINKS):
        if name not in target_of:
            break
        name = target_of[name]
    return name
