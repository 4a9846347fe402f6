"""Lists a source: every file in a folder, and every member of the archives in it as if they were unpacked there."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastclip.data.image_headers import IMAGE_SUFFIXES, sniff
from fastclip.data.sources.archives import ARCHIVES
from fastclip.data.sources.blobs import MAX_BYTES, Blob
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.leftovers import is_text, leftover
from fastclip.data.sources.members import list_members
from fastclip.data.sources.walk import is_file, walk
from fastclip.errors import UserError


@dataclass(frozen=True)
class Tree:
    """Every file below a source. Paths are relative, with forward slashes."""

    loose: Mapping[str, Blob]
    """Files that are in no archive."""
    archives: Mapping[str, Mapping[str, Blob]]
    """Archive → path in it → where the bytes lie."""
    source: Path

    @property
    def packed(self) -> list[str]:
        """Archives that count, sorted: those that do not lie there unpacked too."""
        return sorted(self.archives.keys() - self.unpacked)

    @cached_property
    def with_equal_folders(self) -> list[str]:
        """Archives that have images in a folder where another has some too, or in none."""
        folders = {
            archive: {posixpath.dirname(member) for member in self.archives[archive] if is_image(member)}
            for archive in self.packed
        }
        where = {
            archive: {posixpath.join(posixpath.dirname(archive), each) for each in folders[archive]}
            for archive in folders
        }
        times = Counter(folder for each in where.values() for folder in each)
        return [a for a in self.packed if "" in folders[a] or any(times[folder] > 1 for folder in where[a])]

    @cached_property
    def unpacked(self) -> frozenset[str]:
        """Archives that lie there unpacked too: beside them, or in a folder of their name."""
        return frozenset(filter(self._is_unpacked, self.archives))

    def in_place(self) -> dict[str, Blob]:
        """Path → bytes, sorted, as if archives were unpacked where they are.

        A loose file hides an archive's member of the same path and size. Raises `UserError` for a path that two
        archives hold, or a loose file of another size.
        """
        return self._put_together(posixpath.dirname)

    def apart(self) -> dict[str, Blob]:
        """The same, as if each archive were unpacked into a folder of its own name."""
        return self._put_together(stem)

    def _put_together(self, folder_of: Callable[[str], str]) -> dict[str, Blob]:
        found: dict[str, Blob] = {}
        for archive in self.packed:
            for member, blob in self.archives[archive].items():
                path = posixpath.join(folder_of(archive), member)
                if path in found:
                    raise UserError(
                        f"{path} lies in both {found[path].container.name} and {blob.container.name}.",
                        fix="Move one of the two archives out of --source, or point --source at one of them.",
                    )
                if path in self.loose and self.loose[path].size != blob.size:
                    raise UserError(
                        f"{path} lies in {archive} and beside it, with another size.",
                        fix="Move the archive, or what was unpacked from it, out of --source.",
                    )
                found[path] = blob
        return dict(sorted((found | dict(self.loose)).items()))

    def _is_unpacked(self, archive: str) -> bool:
        members = self.archives[archive]
        for folder in (posixpath.dirname(archive), stem(archive)):
            there = (self.loose.get(posixpath.join(folder, member)) for member in members if not leftover(member))
            sizes = [blob.size for member, blob in members.items() if not leftover(member)]
            if sizes and all(blob and blob.size == size for blob, size in zip(there, sizes, strict=True)):
                return True
        return False


def stem(archive: str) -> str:
    """The path of an archive without its suffix: `sets/clipart.tar.gz` → `sets/clipart`."""
    suffix = next(each for each in sorted(ARCHIVES, key=len, reverse=True) if archive.lower().endswith(each))
    return archive[: -len(suffix)]


def list_tree(source: Path) -> Tree:
    """Every file in `source` (a folder or an archive).

    Raises `UserError` or `IntegrityError` if something cannot be listed.
    """
    if is_file(source) and source.name.lower().endswith(ARCHIVES):
        return Tree(dict(list_members(source, "")), {}, source)
    if not source.is_dir():
        raise UserError(
            f"{source} is not a folder or an archive.", fix="--source DIR, or a .zip, .tar, .tar.gz or .tgz file"
        )
    loose = dict(walk(source.resolve()))
    names = sorted(path for path in loose if path.lower().endswith(ARCHIVES) and not leftover(path))
    archives = {name: dict(list_members(source.resolve() / name, "")) for name in names}
    return Tree({path: blob for path, blob in loose.items() if path not in archives}, archives, source)


def is_image(path: str) -> bool:
    """Whether a file's name says that it is an image. Invisible files and the like are none: see `leftover`."""
    return posixpath.splitext(path)[1].lower() in IMAGE_SUFFIXES and not leftover(path)


def find_images(files: Mapping[str, Blob]) -> list[str]:
    """The paths of all images: by their suffix, and where that says nothing by their first bytes."""
    found: list[str] = []
    others: list[str] = []
    for path in files:
        if not leftover(path):
            (found if posixpath.splitext(path)[1].lower() in IMAGE_SUFFIXES else others).append(path)
    if not others:
        return found
    reader = BlobReader()
    stems = {posixpath.splitext(path)[0] for path in found}  # 1.txt beside 1.jpg describes it
    unknown = (path for path in others if not (is_text(path) and posixpath.splitext(path)[0] in stems))
    return sorted([*found, *(path for path in unknown if _begins_as_image(files[path], reader))])


def _begins_as_image(blob: Blob, reader: BlobReader) -> bool:
    if not 0 < blob.size <= MAX_BYTES:
        return False
    try:
        return sniff(reader.head(blob)) is not None
    except (OSError, ValueError):
        return False
