"""Lists the files of a folder, through links too."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fastclip.data.sources.blobs import Blob, changed
from fastclip.errors import UserError
from fastclip.faults import is_fault, steadily


def folders(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder from `top` on, its subfolders and its other files, sorted, as `os.walk` gives them, through links.

    Subfolders that are taken out of their list are not entered. A folder that cannot be listed is an error here:
    `os.walk` takes it for an empty one, and a subfolder that cannot be looked at for a file.
    """
    left = [os.fspath(top)]
    while left:
        folder = left.pop()
        try:
            found = steadily(partial(_entries, folder), folder)
        except OSError:
            raise changed(Path(folder)) from None
        subfolders = sorted(name for name, is_folder in found if is_folder)
        yield folder, subfolders, sorted(name for name, is_folder in found if not is_folder)
        left += [os.fspath(Path(folder) / name) for name in reversed(subfolders)]


def _entries(folder: str) -> list[tuple[str, bool]]:
    """The names in a folder, and whether each is of a folder."""
    with os.scandir(folder) as entries:
        return [(entry.name, _is_folder(entry)) for entry in entries]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself
        if is_fault(error):
            raise
        return False


def walk(source: Path) -> Iterator[tuple[str, Blob]]:
    """Every file under `source`, a path without links in it, in an order that does not depend on the file system.

    Raises `UserError` for what cannot be named, and for a link to a folder that would repeat its images.
    """
    real = {os.fspath(source): source}  # folder → the folder that it is without links
    for folder, subfolders, names in folders(source):
        here = Path(folder)
        prefix = "" if here == source else f"{here.relative_to(source).as_posix()}/"
        for name in subfolders:
            path = here / name
            if path.is_symlink():
                real[os.fspath(path)] = path.resolve()
                _check_link(source, path, real)
            else:
                real[os.fspath(path)] = real[folder] / name
        for name in names:
            _check_name(f"{prefix}{name}")
            yield f"{prefix}{name}", _file(here / name)


def is_file(path: Path) -> bool:
    """Whether a file is at `path`, and not a folder, nothing, or a link to nowhere."""
    try:
        return stat.S_ISREG(steadily(path.stat, path).st_mode)
    except OSError:
        return False


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
        facts = steadily(path.stat, path)
    except OSError:
        if not path.is_symlink():
            raise changed(path) from None
        return Blob("file", path, 0)  # a link to nowhere: reading it will say so, and it is listed with that reason
    if stat.S_ISDIR(facts.st_mode):
        raise changed(path)
    return Blob("file", path, facts.st_size, facts.st_mtime_ns)
