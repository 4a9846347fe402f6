"""Lists a source: every file in a folder, and every member of the archives in it as if they were unpacked there."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from fastclip.data.sources.archives import ARCHIVES
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.members import list_members
from fastclip.errors import UserError

# The suffixes that torchvision's ImageFolder loads, GIF and AVIF. A file with such a name counts as an image: if it
# cannot be used, it is an unreadable image of its class and not just another file.
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
)


def list_tree(source: Path) -> dict[str, Blob]:
    """Path → where the bytes lie, for every file in `source` (a folder or an archive), sorted by path.

    A file beside its archive hides the archive's member of the same path. Raises `UserError` or `IntegrityError` if
    something cannot be listed, and for a path that two archives hold.
    """
    if source.is_file() and source.name.lower().endswith(ARCHIVES):
        return dict(sorted(list_members(source, ""), key=lambda member: member[0]))
    if not source.is_dir():
        raise UserError(
            f"{source} is not a folder or an archive.", fix="--source DIR, or a .zip, .tar, .tar.gz or .tgz file"
        )
    files = dict(_walk(source.resolve()))
    inside: dict[str, Blob] = {}
    for archive in sorted(path for path in files if path.lower().endswith(ARCHIVES)):
        for path, blob in list_members(source.resolve() / archive, posixpath.dirname(archive)):
            if path in inside:
                raise UserError(
                    f"{path} lies in both {inside[path].container.name} and {blob.container.name}.",
                    fix="Move one of the two archives out of --source, or point --source at one of them.",
                )
            inside[path] = blob
        del files[archive]  # its members stand for it
    return dict(sorted((inside | files).items(), key=lambda file: file[0]))


def is_image(path: str) -> bool:
    """Whether a file's name says that it is an image; the invisible files that macOS adds to archives are not."""
    name = posixpath.basename(path)
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("._")


def _walk(source: Path) -> Iterator[tuple[str, Blob]]:
    """Every file under `source`, through links too. Raises `UserError` for one that cannot be listed or named."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}.", fix="Give yourself access to it.")

    seen = {source}
    for folder, subfolders, names in os.walk(source, followlinks=True, onerror=refuse):
        here = Path(folder)
        for name in subfolders:
            target = (here / name).resolve() if (here / name).is_symlink() else here / name
            if (here / name).is_symlink() and any(target == each or target in each.parents for each in seen):
                raise UserError(
                    f"{(here / name).relative_to(source)} links to a folder that holds it.",
                    fix="Remove the link: it would repeat images.",
                )
            seen.add(target)
        for name in names:
            path = (here / name).relative_to(source).as_posix()
            try:
                path.encode()
            except UnicodeEncodeError:
                raise UserError(f"The name {path!r} is not UTF-8.", fix="Rename the file or folder.") from None
            yield path, _file(here / name)


def _file(path: Path) -> Blob:
    try:
        facts = path.stat()
    except OSError:  # a link to nowhere: reading it will say so, and it is listed with that reason
        return Blob("file", path, 0)
    return Blob("file", path, facts.st_size, facts.st_mtime_ns)
