"""Lists an archive's members as files that lie where it lies."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.tars import list_tar
from fastclip.data.sources.walk import is_file
from fastclip.data.sources.zips import list_zip
from fastclip.errors import IntegrityError, UserError
from fastclip.faults import steadily


def list_members(archive: Path, folder: str) -> list[tuple[str, Blob]]:
    """Path and blob of every file in `archive`, as if it were unpacked in `folder`.

    Raises `UserError` for a path that leads out of it or can be read in two ways, `IntegrityError` if two members have
    one path.
    """
    if not is_file(archive):
        raise UserError(f"{archive} is no file, or a link to nowhere.", fix="Get it again, or remove it.")
    named = list(_zip_members(archive) if archive.name.lower().endswith(".zip") else _tar_members(archive))
    slashes = any("/" in name for name, _ in named)
    found: dict[str, Blob] = {}
    for name, blob in named:
        path = posixpath.normpath(_with_slashes(archive, name, slashes))
        if path.startswith(("/", "../")) or re.match("[A-Za-z]:/", path):
            raise UserError(
                f"{archive} holds the path {name!r}, which leads out of it.", fix="Get the archive from its source."
            )
        path = posixpath.join(folder, path)
        if path in found:
            raise IntegrityError(f"{archive} holds {path!r} twice.", fix="Get the archive from its source.")
        found[path] = blob
    return list(found.items())


def _with_slashes(archive: Path, name: str, slashes: bool) -> str:
    """The name with slashes between folders, for which programs on Windows write backslashes."""
    if "\\" in name and slashes:
        raise UserError(
            f"{archive} holds {name!r} beside names with slashes: its backslash parts folders, or belongs to a name.",
            fix="Unpack it yourself, and give the folder.",
        )
    return name.replace("\\", "/")


def _zip_members(archive: Path) -> Iterator[tuple[str, Blob]]:
    facts = steadily(archive.stat, archive)
    for name, info in list_zip(archive):
        size, offset = info.file_size, info.header_offset
        yield name, Blob("zip", archive, size, facts.st_mtime_ns, offset, ctime_ns=facts.st_ctime_ns)


def _tar_members(archive: Path) -> Iterator[tuple[str, Blob]]:
    facts = steadily(archive.stat, archive)
    for member in list_tar(archive):
        blob = Blob("tar", archive, member.size, facts.st_mtime_ns, member.offset, ctime_ns=facts.st_ctime_ns)
        yield member.name, blob
