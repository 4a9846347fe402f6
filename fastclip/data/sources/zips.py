"""Lists zip archives in place, and reads their members: names that are UTF-8, methods that every Python unpacks.

`zipfile` reads the directory. It takes names without the UTF-8 flag for cp437, which garbles macOS's names and all
prompts that are made of them, and finds out late what it cannot unpack.
"""

from __future__ import annotations

import lzma
import posixpath
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fastclip.data.sources.archives import follow, refuse_other_kinds
from fastclip.data.sources.blobs import Blob
from fastclip.errors import IntegrityError, UserError
from fastclip.faults import facts_of, open_steadily

UNPACKED = frozenset((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
METHODS = {
    1: "Shrink", 2: "Reduce", 3: "Reduce", 4: "Reduce", 5: "Reduce", 6: "Implode", 9: "Deflate64", 10: "DCL Implode",
    20: "zstd", 93: "zstd", 94: "MP3", 95: "xz", 96: "JPEG", 97: "WavPack", 98: "PPMd",
}  # fmt: skip
"""Names of the others."""

UTF8_FLAG = 1 << 11
ENCRYPTED_FLAGS = 1 | 1 << 6 | 1 << 13
AES = 99
UNICODE_PATH = 0x7075
"""Info-ZIP's extra field with the name in UTF-8, and the CRC of the name that it stands for."""

DOS = frozenset((0, 10, 14))
"""Systems whose names have backslashes between folders: FAT, NTFS, VFAT."""
UNIX = frozenset((3, 19))

MAX_LINK_BYTES = 4096
END_BYTES = 22 + (1 << 16)
"""The end record of a zip with the longest comment."""

UNPACK = "Unpack it yourself, and give the folder."
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, KeyError)


class ZipMember(NamedTuple):
    """A file of an archive, or the file that a link in it leads to."""

    name: str
    """Opaque text: never a path on this machine."""
    info: zipfile.ZipInfo


def list_zip(path: Path) -> list[ZipMember]:
    """The files in the zip at `path`, in its order, then the links to them; folders are left out.

    Raises `IntegrityError` if it is not whole, and `UserError` if it cannot be read in place: it is encrypted, split or
    packed by an unusual method, a name is not UTF-8, or a link leads to no file of it.
    """
    try:
        with open_steadily(path) as file, zipfile.ZipFile(file) as opened:
            _check_end(path, file, opened)
            members = [ZipMember(_name(path, info), info) for info in opened.infolist()]
            members = [member for member in members if not _is_folder(member)]
            for member in members:
                _check_method(path, member)
            links = [member for member in members if _is_link(member.info)]
            files = [member for member in members if not _is_link(member.info)]
            return files + _linked(path, opened, files, links)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error.object) from None
    except DAMAGE as error:
        refuse_other_kinds(path, "zip")
        raise IntegrityError(
            f"{path} is not a whole zip archive: {error}.", fix="Download it again; is it complete?"
        ) from error


def _check_end(path: Path, file: BinaryIO, opened: zipfile.ZipFile) -> None:
    """Raise an error unless the archive is one file, begins with its first member and has as many as its end counts."""
    file.seek(0)
    start = file.read(4)
    file.seek(max(0, facts_of(file).st_size - END_BYTES))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    disk, _, _, count, _, directory = struct.unpack("<4H2L", tail[at + 4 : at + 20])
    infos = opened.infolist()
    if disk not in (0, 0xFFFF) or any(info.volume not in (0, 0xFFFF) for info in infos):
        raise UserError(f"{path} is the last part of a split zip.", fix="Unpack all its parts, and give the folder.")
    if count not in (len(infos) & 0xFFFF, 0xFFFF):
        raise zipfile.BadZipFile(f"it lists {len(infos):,} members, and its end counts {count:,}")
    offsets = {info.header_offset for info in infos}
    if len(offsets) < len(infos) or not all(0 <= at < opened.start_dir for at in offsets):
        raise zipfile.BadZipFile("two members begin at one byte, or one where no member can")
    before = opened.start_dir - directory
    if before and directory != 0xFFFFFFFF and start == b"PK\3\4":  # else it is a program that unpacks itself
        raise UserError(f"{path} has {before:,} bytes that its list of members leaves out: another zip?", fix=UNPACK)


def _name(path: Path, info: zipfile.ZipInfo) -> str:
    """The member's name. Raises `UserError` if it is not UTF-8, with or without the flag that says so."""
    name = info.orig_filename.encode("utf-8" if info.flag_bits & UTF8_FLAG else "cp437")
    for tag, field in _extra_fields(info.extra):
        if tag == UNICODE_PATH and field[:5] == b"\1" + zlib.crc32(name).to_bytes(4, "little"):
            name = field[5:]
            break
    if b"\0" in name or not name:
        raise UserError(f"{path} holds a name {'with a NUL in it' if name else 'of 0 bytes'}: {name!r}.", fix=UNPACK)
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise _not_utf8(path, name) from None
    return text.replace("\\", "/") if info.create_system in DOS else text


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    while len(extra) >= 4:
        tag, size = struct.unpack("<HH", extra[:4])
        yield tag, extra[4 : 4 + size]
        extra = extra[4 + size :]


def _not_utf8(path: Path, name: bytes) -> UserError:
    return UserError(
        f"{path} holds a name that is not UTF-8: {name!r}.",
        fix="Unpack it yourself with its encoding (unzip -O, 7z -mcp), and give the folder.",
    )


def _is_folder(member: ZipMember) -> bool:
    info = member.info
    if member.name.endswith(("/", "\\")) and info.file_size:
        raise zipfile.BadZipFile(f"{member.name!r} is a folder of {info.file_size:,} bytes")
    marked = info.external_attr & 0x10 or (info.create_system in UNIX and stat.S_ISDIR(info.external_attr >> 16))
    return member.name.endswith(("/", "\\")) or bool(marked and not info.file_size)


def _is_link(info: zipfile.ZipInfo) -> bool:
    return info.create_system in UNIX and stat.S_ISLNK(info.external_attr >> 16)


def _check_method(path: Path, member: ZipMember) -> None:
    """Raise `UserError` if the member is encrypted, or packed by a method that Python may lack."""
    method = member.info.compress_type
    if member.info.flag_bits & ENCRYPTED_FLAGS or method == AES:
        raise UserError(f"{path} is encrypted.", fix="Unpack it with its password, and give the folder.")
    if method not in UNPACKED:
        name = METHODS.get(method, f"method {method}")
        raise UserError(
            f"{path} uses {name} for {member.name!r}, which is not read.",
            fix="Unpack it yourself and give the folder, or zip it again with Deflate.",
        )


def _linked(
    path: Path, opened: zipfile.ZipFile, files: Sequence[ZipMember], links: Sequence[ZipMember]
) -> list[ZipMember]:
    """A member for each link, with the file that it leads to. Raises `UserError` for one that leads elsewhere."""
    file_of = {posixpath.normpath(file.name): file for file in files}
    target_of = {posixpath.normpath(link.name): _target(opened, link) for link in links}
    found = []
    for link in links:
        name = posixpath.normpath(link.name)
        if (target := follow(target_of, name)) not in file_of:
            raise UserError(
                f"{path} holds {link.name!r}, a link to {target_of[name]!r}, which is no file of it.", fix=UNPACK
            )
        found.append(ZipMember(link.name, file_of[target].info))
    return found


def _target(opened: zipfile.ZipFile, link: ZipMember) -> str:
    if link.info.file_size > MAX_LINK_BYTES:
        raise zipfile.BadZipFile(f"{link.name!r} is a link of {link.info.file_size:,} bytes")
    return posixpath.normpath(posixpath.join(posixpath.dirname(link.name), opened.read(link.info).decode()))


class ZipContainer:
    """Reads single members, named by where they begin: names may be equal in one encoding and not in another."""

    def __init__(self, file: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(file)
        self._info_at = {info.header_offset: info for info in self._zip.infolist()}

    def read(self, blob: Blob) -> bytes:
        """The bytes of `blob`. Raises `ValueError` with the reason if the archive is damaged there."""
        try:
            with self._zip.open(self._info_at[blob.offset]) as member:
                return member.read(blob.size + 1)  # never more than was listed, whatever the stream expands to
        except (*DAMAGE, UnicodeDecodeError, OSError) as error:  # of bz2; those of the file are no `OSError`
            raise ValueError(f"damaged in the archive: {error}") from error
