"""Lists a source: every file in a folder, and every member of the archives in it as if they were unpacked there."""

from __future__ import annotations

import posixpath
from pathlib import Path

from fastclip.data.sources.archives import ARCHIVES
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.members import list_members
from fastclip.data.sources.walk import walk
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
    files = dict(walk(source.resolve()))
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
