"""Lists a source: every file in a folder, and every member of the archives in it as if they were unpacked there."""

from __future__ import annotations

import os
import posixpath
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.tars import list_tar
from fastclip.errors import IntegrityError, UserError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")

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
        return dict(sorted(_distinct(_members(source, "")), key=lambda member: member[0]))
    if not source.is_dir():
        raise UserError(
            f"{source} is not a folder or an archive.", fix="--source DIR, or a .zip, .tar, .tar.gz or .tgz file"
        )
    files = dict(_walk(source.resolve()))
    inside: dict[str, Blob] = {}
    for archive in sorted(path for path in files if path.lower().endswith(ARCHIVES)):
        for path, blob in _distinct(_members(source.resolve() / archive, posixpath.dirname(archive))):
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


def _distinct(members: Iterable[tuple[str, Blob]]) -> list[tuple[str, Blob]]:
    """The members of one archive. Raises `IntegrityError` if two have one path: a reader would take either."""
    found: dict[str, Blob] = {}
    for path, blob in members:
        if path in found:
            raise IntegrityError(f"{blob.container} holds {path!r} twice.", fix="Get the archive from its source.")
        found[path] = blob
    return list(found.items())


def _members(archive: Path, folder: str) -> Iterator[tuple[str, Blob]]:
    mtime_ns = archive.stat().st_mtime_ns
    listed = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    for name, blob in listed(archive, mtime_ns):
        path = posixpath.normpath(posixpath.join(folder, name.replace("\\", "/")))
        if path.startswith(("/", "../")):
            raise UserError(
                f"{archive} holds the path {name!r}, which leads out of it.", fix="Get the archive from its source."
            )
        yield path, blob


def _zip_members(archive: Path, mtime_ns: int) -> Iterator[tuple[str, Blob]]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"{archive} is not a whole zip archive: {error}.", fix="Download it again; is it complete?"
        ) from error
    for member in members:
        if member.flag_bits & 1:
            raise UserError(f"{archive} is encrypted.", fix="Unpack it with its password, and give the folder.")
        yield member.filename, Blob("zip", archive, member.file_size, mtime_ns, member=member.filename)


def _tar_members(archive: Path, mtime_ns: int) -> Iterator[tuple[str, Blob]]:
    for member in list_tar(archive):
        yield member.name, Blob("tar", archive, member.size, mtime_ns, offset=member.offset)
