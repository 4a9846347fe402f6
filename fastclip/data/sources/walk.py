"""Lists the files of a folder, through links too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fastclip.data.sources.blobs import Blob
from fastclip.errors import UserError


def walk(source: Path) -> Iterator[tuple[str, Blob]]:
    """Every file under `source`, a path without links in it, in an order that does not depend on the file system.

    Raises `UserError` for what cannot be listed or named, and for a link to a folder that would repeat its images.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}.", fix="Give yourself access to it.")

    real = {os.fspath(source): source}  # folder → the folder that it is without links
    for folder, subfolders, names in os.walk(source, followlinks=True, onerror=refuse):
        here = Path(folder)
        prefix = "" if here == source else f"{here.relative_to(source).as_posix()}/"
        subfolders.sort()
        for name in subfolders:
            path = here / name
            if path.is_symlink():
                real[os.fspath(path)] = path.resolve()
                _check_link(source, path, real)
            else:
                real[os.fspath(path)] = real[folder] / name
        for name in sorted(names):
            _check_name(f"{prefix}{name}")
            yield f"{prefix}{name}", _file(here / name)


def _check_link(source: Path, link: Path, real: dict[str, Path]) -> None:
    """Raise `UserError` if a link leads to a folder above itself, or to one that the walk reaches on its own too."""
    target = real[os.fspath(link)]
    name = link.relative_to(source)
    above = [real[os.fspath(folder)] for folder in link.parents if folder.is_relative_to(source)]
    if any(folder.is_relative_to(target) for folder in above):
        raise UserError(f"{name} links to a folder that holds it.", fix="Remove the link: it would repeat images.")
    inside = target.relative_to(source) if target.is_relative_to(source) else None
    if inside and not any(part.startswith(".") for part in inside.parts):
        raise UserError(
            f"{name} links to {inside}, which lies in {source} too: its images would be counted twice.",
            fix="Remove the link, or move what it links to out of --source.",
        )


def _check_name(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"The name {path!r} is not UTF-8.", fix="Rename the file or folder.") from None


def _file(path: Path) -> Blob:
    try:
        facts = path.stat()
    except OSError:  # a link to nowhere: reading it will say so, and it is listed with that reason
        return Blob("file", path, 0)
    return Blob("file", path, facts.st_size, facts.st_mtime_ns)
