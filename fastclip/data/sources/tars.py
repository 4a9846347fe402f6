"""Strict reading of tar and tar.gz archives in place: nothing is extracted, and no damage passes for a shorter archive.

Python's `tarfile` parses the headers, of which it is given what names and places a member (`_bare`). It takes the first
header that it does not understand for the end, so two things are checked here: the padding behind each member, and that
nothing but zeros, at least two blocks of them, follows the last one. Of 3,231 cuts only those were unnoticed that took
zeros behind the end mark; of 4,200 flipped bits in headers 16, all in the spelling of a checksum, which changes no
member.

A link to a member means that member's bytes again: as it would when unpacked. GNU tar writes one for the second name of
a file. Any other link is refused.

More than any archive of photos has is refused before it is read into memory:

    members           1,000,000 an archive
    name              1,024 bytes
    extended header   64 KiB, all of one member together
    expansion         a .tar.gz may unpack to 100 times its size, and 64 MiB
"""

from __future__ import annotations

import gzip
import os
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, cast

from fastclip.data.sources.archives import follow, refuse_other_kinds
from fastclip.data.sources.seek_indexes import Stamp, damaged, file_stamp, save_seek_index
from fastclip.errors import IntegrityError
from fastclip.faults import facts_of, open_steadily

MAX_MEMBERS = 1_000_000
MAX_NAME_BYTES = 1024
MAX_EXTENDED_BYTES = 1 << 16
MAX_EXPANSION = 100
FREE_EXPANSION_BYTES = 1 << 26

CHUNK = 1 << 20
MAX_OCTAL_SIZE = 1 << 33
"""8 GiB: from here on a size stands in an extended header only."""
PAX_KEYWORDS = frozenset(
    {"charset", "comment", "gid", "gname", "hdrcharset", "linkpath", "path", "size", "uid", "uname"}
    | {"atime", "ctime", "mtime"}
)
"""The keywords that POSIX defines; others bear their maker's name and a dot."""
SPARSE = frozenset(("SCHILY.realsize", "SUN.holesdata"))
"""The keywords of sparse files that `tarfile` does not know."""
LABEL = b"V"
"""GNU tar's name for a whole volume: no member."""
REFUSED = {
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    b"D": "a folder of an incremental backup, which may hold changes only",
    b"M": "the rest of a file of another volume",
}

T = TypeVar("T")


class TarMember(NamedTuple):
    """A regular file of an archive. `offset` is where its bytes begin, in the uncompressed archive."""

    name: str
    """Opaque text: never a path on this machine."""
    offset: int
    size: int


def list_tar(path: Path) -> list[TarMember]:
    """The regular files in the tar or tar.gz at `path`, in its order, then the links to them; folders are left out.

    Raises `IntegrityError` with the file, the offset and what was expected there if the archive is damaged or cut, and
    if a member is no regular file nor a link to one, or bears a name that is taken. Raises `UserError` for a file that
    begins as an archive of another kind does.
    """
    try:
        return list(_list_gzip(path, file_stamp(path))) if is_gzip(path) else _list(path)
    except IntegrityError:
        refuse_other_kinds(path, "tar", "gzip")
        raise


@lru_cache(maxsize=64)  # unpacking is what costs; two layouts may ask for the same archive
def _list_gzip(path: Path, stamp: Stamp) -> tuple[TarMember, ...]:
    members = tuple(_list(path))
    save_seek_index(path, stamp)
    return members


def _list(path: Path) -> list[TarMember]:
    members: list[TarMember] = []
    links: list[tarfile.TarInfo] = []
    header_at: dict[str, int] = {}
    with open_steadily(path) as file:
        tape = _Tape(path, file)
        for info in _walk(tape):
            first = header_at.setdefault(info.name, info.offset)
            if first != info.offset:
                raise tape.damaged(info.offset, f"a second member called {info.name!r}; the first is at {first:,}")
            if len(header_at) > MAX_MEMBERS:
                raise tape.damaged(info.offset, f"more than {MAX_MEMBERS:,} members")
            if info.islnk() or info.issym():
                links.append(info)
            else:
                members.append(TarMember(info.name, info.offset_data, info.size))
        return members + _linked(tape, members, links)


def _linked(tape: _Tape, members: Sequence[TarMember], links: Sequence[tarfile.TarInfo]) -> list[TarMember]:
    """A member for each link, with the bytes that it leads to. Raises `IntegrityError` for one that leads elsewhere."""
    files = {posixpath.normpath(member.name): member for member in members}
    target_of = {posixpath.normpath(link.name): _target(link) for link in links}
    found = []
    for link in links:
        target = follow(target_of, posixpath.normpath(link.name))
        if target not in files:
            kind = "symbolic" if link.issym() else "hard"
            raise tape.damaged(link.offset, f"a {kind} link to {link.linkname!r}, which is no file of the archive")
        found.append(files[target]._replace(name=link.name))
    return found


def _target(link: tarfile.TarInfo) -> str:
    folder = posixpath.dirname(link.name) if link.issym() else ""  # a hard link names a member
    return posixpath.normpath(posixpath.join(folder, link.linkname))


def is_gzip(path: Path) -> bool:
    """Whether the file begins as gzip does, whatever it is called."""
    with open_steadily(path) as file:
        return file.read(2) == b"\x1f\x8b"


class _Tape:
    """An archive that is read from its start to its end. `tarfile` takes it for a file.

    Offsets are those of the unpacked archive; errors of gzip name the packed one's too.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.at = 0
        self.last = b""
        """The bytes that `tarfile` read last: a member's header block, when it has returned a member."""
        self.allowance = 0
        """How many bytes `tarfile` may read until this is set anew."""
        self._packed = file
        self._bytes = facts_of(file).st_size
        self._zipped = is_gzip(path)
        # Not indexed_gzip: of 60 cuts of a .tar.gz it reported none. GzipFile reports each, and checks CRC and size.
        self._file = gzip.GzipFile(fileobj=file) if self._zipped else file

    def damaged(self, at: int, found: str) -> IntegrityError:
        """The error for what was found at byte `at` of the unpacked archive."""
        return damaged(self.path, f"at byte {at:,} {found}")

    def tell(self) -> int:
        """Where the next byte will be read."""
        return self.at

    def read(self, count: int) -> bytes:
        """The next bytes for `tarfile`: a header block, or the contents of an extended header."""
        self.allowance -= count
        if count < 0 or self.allowance < 0:
            raise self.damaged(self.at, f"a header of more than {MAX_EXTENDED_BYTES:,} bytes")
        self.last = self.take(count, "a member's header or the end mark (two blocks of zeros)")
        return self.last

    def take(self, count: int, expected: str) -> bytes:
        """The next `count` bytes. Raises `IntegrityError` if the archive ends before."""
        data = self.up_to(count)
        if len(data) < count:
            raise self.damaged(self.at, f"the end, where {expected} was expected")
        return data

    def skip(self, count: int, expected: str) -> None:
        """Pass over `count` bytes. Raises `IntegrityError` if the archive ends before."""
        if self._zipped:
            while count:
                count -= len(self.take(min(count, CHUNK), expected))
            return
        if self.at + count > self._bytes:
            raise self.damaged(self._bytes, f"the end, where {expected} was expected")
        self._file.seek(count, os.SEEK_CUR)
        self.at += count

    def up_to(self, count: int) -> bytes:
        """The next `count` bytes; fewer only at the end."""
        try:
            data = self._file.read(count)
        except EOFError:
            found = f"the gzip data end, after {self._bytes:,} packed bytes, without their end mark"
            raise self.damaged(self.at, found) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            found = f"the gzip data, up to packed byte {self._packed.tell():,}, do not unpack: {error}"
            raise self.damaged(self.at, found) from None
        self.at += len(data)
        if self._zipped and self.at > MAX_EXPANSION * self._bytes + FREE_EXPANSION_BYTES:
            raise self.damaged(self.at, f"more than {MAX_EXPANSION} times the {self._bytes:,} packed bytes")
        return data


class _Header(tarfile.TarInfo):
    """A header of which only the name, the size, the type and the link's target need be right."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        block = bytes(buf)
        if _prefix(block).ljust(155, b"\0") == block[345:500].ljust(155, b"\0"):
            with suppress(tarfile.HeaderError):
                return super().frombuf(block, encoding, errors)
        return super().frombuf(_bare(block), encoding, errors)


def _bare(block: bytes) -> bytes:
    """The header block with zeros for owner, mode, times and devices, and its new checksum.

    Those fields may hold anything: `tarfile` refuses a header for garbage in them, and takes GNU tar's times for the
    beginning of a name. A block with a wrong checksum comes back as it is.
    """
    digits = re.fullmatch(rb"[\0 ]*([0-7]+)[\0 ]*", block[148:156])
    if not digits or int(digits[1], 8) not in tarfile.calc_chksums(block):  # type: ignore[attr-defined]
        return block
    read = [block[:100], bytes(24), block[124:136], bytes(12), b" " * 8, block[156:257], bytes(88), _prefix(block)]
    bare = b"".join(read).ljust(tarfile.BLOCKSIZE, b"\0")
    return bare[:148] + b"%06o\0 " % sum(bare) + bare[156:]


def _prefix(block: bytes) -> bytes:
    """The field with the start of a long name, which only POSIX's headers have; star and npm keep times in its end."""
    if block[257:262] != b"ustar" or block[262:263] == b" ":
        return b""
    star = block[475:476] == b"\0" and re.fullmatch(rb"[0-7 ]{10,11}[ \0]+[0-7 ]{10,11}[ \0]+", block[476:500])
    return block[345:476] if star else block[345:500]


def _walk(tape: _Tape) -> Iterator[tarfile.TarInfo]:
    """Yield each regular file and link after passing over it. Every byte of the tape is checked, or is a member's."""
    file = cast(BinaryIO, tape)
    # Names are checked below: an owner's may be in any encoding.
    opened = partial(tarfile.TarFile, fileobj=file, tarinfo=_Header, encoding="utf-8", errors="surrogateescape")
    tar = _parsed(tape, 0, opened)  # this reads the first header
    while info := _parsed(tape, tar.offset, tar.next):
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every member: a kilobyte each
        _check_member(tape, info)
        size = info.size if info.isreg() else 0  # a link may name the size of its target
        expected = f"the rest of {info.name!r} ({size:,} bytes)"
        tape.skip(size, expected)
        padding = tape.take(-size % tarfile.BLOCKSIZE, expected)
        if any(padding):
            raise tape.damaged(tape.at - len(padding), f"no zeros, where {len(padding)} of padding were expected")
        if not _is_folder(info) and info.type != LABEL:
            yield info
    _check_end(tape, tar.offset)


def _parsed(tape: _Tape, at: int, parse: Callable[[], T]) -> T:
    """The result of `parse()`, which reads a member's headers. Raises `IntegrityError` where `tarfile` raises."""
    tape.allowance = MAX_EXTENDED_BYTES + 8 * tarfile.BLOCKSIZE
    try:
        return parse()
    except (tarfile.TarError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise tape.damaged(at, f"no valid header: {error}") from error


def _is_folder(info: tarfile.TarInfo) -> bool:
    name = info.pax_headers.get("path", info.name)  # whose slash `tarfile` takes away
    return info.isdir() or (info.isreg() and name.endswith("/"))


def _check_member(tape: _Tape, info: tarfile.TarInfo) -> None:
    """Raise `IntegrityError` unless it is a regular file, a link, a folder or a label, with one name and one size."""
    if refused := _refused_kind(info):
        raise tape.damaged(info.offset, f"{refused}; only regular files are read")
    header = tape.last
    size = _Header.frombuf(header, "utf-8", "surrogateescape").size if "size" in info.pax_headers else info.size
    if size != info.size and info.size < MAX_OCTAL_SIZE:
        raise tape.damaged(info.offset, f"two sizes, {size:,} and {info.size:,} bytes")
    if info.size < 0 or (info.size and _is_folder(info)):
        kind = "folder" if _is_folder(info) else "file"
        raise tape.damaged(info.offset, f"{info.name!r}, a {kind} of {info.size:,} bytes")
    # Extended headers have no checksum of their own: a flipped bit may make another keyword of `path`.
    if unknown := [word for word in info.pax_headers if word not in PAX_KEYWORDS and "." not in word]:
        raise tape.damaged(info.offset, f"the unknown keyword {unknown[0]!r} in an extended header")
    if sum(len(word) + len(text) for word, text in info.pax_headers.items()) > MAX_EXTENDED_BYTES:
        raise tape.damaged(info.offset, f"a header of more than {MAX_EXTENDED_BYTES:,} bytes")
    _check_name(tape, info, header)


def _refused_kind(info: tarfile.TarInfo) -> str | None:
    """The words for a member that cannot be read in place; None for one that can."""
    if info.issparse() or SPARSE & info.pax_headers.keys():
        return "a sparse file"
    if info.type == LABEL and (info.size or re.search(r" Volume \d+$", info.name)):
        return "the label of one volume of several"
    if "GNU.volume.offset" in info.pax_headers:
        return REFUSED[b"M"]
    if info.isreg() or info.isdir() or info.islnk() or info.issym() or info.type == LABEL:
        return None
    return REFUSED.get(info.type, f"a member of the unknown type {info.type!r}")


def _check_name(tape: _Tape, info: tarfile.TarInfo, header: bytes) -> None:
    """Raise `IntegrityError` unless the member's name is UTF-8 without a NUL in it, and of a length that is read."""
    if "\0" in info.name or any(b"\0" in field.rstrip(b"\0") for field in (header[:100], _prefix(header))):
        raise tape.damaged(info.offset, f"a name with a NUL in it: {info.name!r}")
    name = info.name.encode("utf-8", "surrogateescape")
    if not 0 < len(name) <= MAX_NAME_BYTES:
        raise tape.damaged(info.offset, f"a name of {len(name):,} bytes; 1 to {MAX_NAME_BYTES:,} are read")
    try:
        name.decode()
    except UnicodeDecodeError:
        raise tape.damaged(info.offset, f"a name that is not UTF-8: {name!r}") from None


def _check_end(tape: _Tape, at: int) -> None:
    """Raise `IntegrityError` unless the archive ends in zeros from `at` on, two blocks or more and whole ones."""
    if tape.at != at + tarfile.BLOCKSIZE or any(tape.last):
        raise tape.damaged(at, "no valid header, where a member's or the end mark was expected")
    while chunk := tape.up_to(CHUNK):
        if chunk.count(0) != len(chunk):
            raise tape.damaged(tape.at - len(chunk), "more than zeros after the end mark")
    if tape.at < at + 2 * tarfile.BLOCKSIZE or tape.at % tarfile.BLOCKSIZE:
        raise tape.damaged(tape.at, "the end, where whole blocks of zeros, at least two, were expected")
