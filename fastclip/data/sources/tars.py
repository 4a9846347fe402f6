"""Strict reading of tar and tar.gz archives in place: nothing is extracted, and nothing ends quietly.

Python's `tarfile` takes the first header that it does not understand for the end: of the 512-byte cuts of a shard 24 %
read as a shorter archive without an error, and one flipped bit in a header hid half of its members. So `tarfile` only
parses one header at a time here; that every block of the archive is accounted for, up to its end mark (two blocks of
zeros), is checked by the walk in this file.

What is more than any archive of photos has is refused before it is read into memory:

    member            8 GiB, the most that plain octal digits say; none is read beyond `blobs.MAX_BYTES` (256 MiB)
    members           1,000,000 an archive
    name              1,024 bytes
    extended header   64 KiB
    expansion         a .tar.gz may unpack to 100 times its size, and 64 MiB

Random access to a `.tar.gz` takes a seek index: points to start from, at most 2,048 of 32 kB. `list_tar` builds it in a
private temporary folder that goes when the program ends. Workers learn where it is from `seek_indexes()`, given to
`adopt_seek_indexes` in their initializer. Who is not told makes its own, in memory: slower, the same bytes.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from fastclip.data.sources.blobs import MAX_BYTES, Blob
from fastclip.errors import IntegrityError

BLOCK = 512
MAX_MEMBER_BYTES = 1 << 33
MAX_MEMBERS = 1_000_000
MAX_NAME_BYTES = 1024
MAX_EXTENDED_BYTES = 1 << 16
MAX_EXPANSION = 100
FREE_EXPANSION_BYTES = 1 << 26

ZEROS = bytes(BLOCK)
CHUNK = 1 << 20
SEEK_BUFFER_BYTES = 1 << 17
"""About a photo. Photos in random order took 0.5 ms each from a .tar.gz, and 1.5 ms with the default, 1 MiB."""
PAX_KEYWORDS = frozenset(
    {"charset", "comment", "gid", "gname", "hdrcharset", "linkpath", "path", "size", "uid", "uname"}
    | {"atime", "ctime", "mtime"}
)
"""What POSIX defines; others bear their maker's name and a dot."""
REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"K": "a link",
    b"S": "a sparse file",
}


class TarMember(NamedTuple):
    """A regular file of an archive. `offset` is where its bytes begin, in the uncompressed archive."""

    name: str
    """Opaque text: never a path on this machine."""
    offset: int
    size: int


class FileStamp(NamedTuple):
    """What changes when somebody writes to a file."""

    bytes: int
    mtime_ns: int


class SeekIndex(NamedTuple):
    """Where the seek index of a `.tar.gz` lies, and the archive that it was made of."""

    file: Path
    stamp: FileStamp


_seek_indexes: dict[Path, SeekIndex] = {}


def seek_indexes() -> dict[Path, SeekIndex]:
    """The seek indexes that this process knows, for workers that do not inherit its memory."""
    return dict(_seek_indexes)


def adopt_seek_indexes(indexes: Mapping[Path, SeekIndex]) -> None:
    """Use seek indexes that another process made: the initializer of a pool of workers."""
    _seek_indexes.update(indexes)


def list_tar(path: Path) -> list[TarMember]:
    """The regular files in the tar or tar.gz at `path`, in its order; directories are left out.

    Raises `IntegrityError` with file, offset and what was expected unless every header, every block of padding and the
    end mark are as they must be, and if a member is no regular file, too large, or bears a name that is taken.
    """
    if not is_gzip(path):
        return list(iter_tar(path))
    return list(_list_gzip(path, _stamp(path)))


@lru_cache(maxsize=64)  # unpacking is what costs; two layouts may ask for the same archive
def _list_gzip(path: Path, stamp: FileStamp) -> tuple[TarMember, ...]:
    members = tuple(iter_tar(path))
    _save_seek_index(path, stamp)
    return members


def iter_tar(path: Path) -> Iterator[TarMember]:
    """`list_tar`, one member after the other; what is wrong further on is found when the iterator gets there."""
    seen: dict[str, int] = {}
    with path.open("rb") as file:
        tape = _GzipTape(path, file) if is_gzip(path) else _Tape(path, file)
        for at, member in _walk(tape):
            if member.name in seen:
                raise tape.damaged(at, f"a second member called {member.name!r}; the first is at {seen[member.name]:,}")
            if len(seen) == MAX_MEMBERS:
                raise tape.damaged(at, f"more than {MAX_MEMBERS:,} members")
            seen[member.name] = at
            yield member


def is_gzip(path: Path) -> bool:
    """Whether the file begins as gzip does, whatever it is called."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


class TarContainer:
    """An open tar or tar.gz whose members are read where they lie. Not to be shared between threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def read(self, blob: Blob) -> bytes:
        """The bytes of `blob`, of kind tar or tgz. Raises `ValueError` with the reason if they cannot be had.

        Raises `IntegrityError` if the archive is another one than was listed.
        """
        if blob.size > MAX_BYTES:
            raise ValueError(f"{blob.size:,} bytes, more than the {MAX_BYTES:,} that an image may have")
        try:
            if self._file is None:
                self._file = _open_seekable(self._path) if is_gzip(self._path) else self._path.open("rb")
            self._file.seek(blob.offset)
            data = self._file.read(blob.size)
        except (OSError, EOFError) as error:
            raise ValueError(f"damaged in the archive, at byte {blob.offset:,}: {error}") from error
        if len(data) != blob.size:
            raise ValueError(f"cut off: the archive ends at byte {blob.offset + len(data):,}")
        return data

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _open_seekable(path: Path) -> Any:
    """An indexed_gzip.IndexedGzipFile: it reads and seeks as a file does."""
    known = _seek_indexes.get(path)
    if known is None:
        return _with_seek_index(path)
    if known.stamp != _stamp(path):
        raise _error(path, "it changed after it was listed")
    return _indexed_gzip()(str(path), index_file=str(known.file), drop_handles=False, buffer_size=SEEK_BUFFER_BYTES)


def _with_seek_index(path: Path) -> Any:
    """The open archive, unpacked once to find the points to start from."""
    spacing = max(1 << 18, path.stat().st_size // 2048)
    file = _indexed_gzip()(str(path), spacing=spacing, drop_handles=False, buffer_size=SEEK_BUFFER_BYTES)
    file.build_full_index()
    return file


def _save_seek_index(path: Path, stamp: FileStamp) -> None:
    number, name = tempfile.mkstemp(".gzidx", dir=_temporary_folder().name)
    os.close(number)
    try:
        with _with_seek_index(path) as file:
            file.export_index(name)
    except (OSError, EOFError) as error:
        raise _error(path, f"the gzip data cannot be unpacked: {error}") from error
    _seek_indexes[path] = SeekIndex(Path(name), stamp)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fastclip-seek-")


def _indexed_gzip() -> Any:
    from indexed_gzip import IndexedGzipFile  # only who reads a .tar.gz needs it

    return IndexedGzipFile


def _stamp(path: Path) -> FileStamp:
    status = path.stat()
    return FileStamp(status.st_size, status.st_mtime_ns)


def _error(path: Path, found: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged, or no archive that can be read in place: {found}.",
        fix="Get it again and compare its checksum; if it was made like that, unpack it yourself and give the folder.",
    )


class _Tape:
    """An archive read from its start to its end, which knows where it is."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self.at = 0
        self._file: IO[bytes] | gzip.GzipFile = file
        self._bytes = path.stat().st_size

    def damaged(self, at: int, found: str) -> IntegrityError:
        """An error that says where, in the uncompressed archive, stands what must not be there."""
        return _error(self.path, f"at byte {at:,} {found}")

    def take(self, count: int, expected: str) -> bytes:
        """The next `count` bytes. Raises `IntegrityError` if the archive ends before."""
        data = self.read(count)
        if len(data) < count:
            raise self.damaged(self.at, f"the end, where {expected} was expected")
        return data

    def skip(self, count: int, expected: str) -> None:
        """Pass by `count` bytes. Raises `IntegrityError` if the archive ends before."""
        if self.at + count > self._bytes:
            raise self.damaged(self._bytes, f"the end, where {expected} was expected")
        self._file.seek(count, os.SEEK_CUR)
        self.at += count

    def read(self, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end."""
        data = self._file.read(count)
        self.at += len(data)
        return data


class _GzipTape(_Tape):
    """A tape that unpacks. Offsets are those of the unpacked archive; errors of gzip name the packed one's too."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        super().__init__(path, file)
        # Not indexed_gzip: of 60 cuts of a .tar.gz it reported none. GzipFile reports each, and checks CRC and size.
        self._packed = file
        self._file = gzip.GzipFile(fileobj=file)

    def skip(self, count: int, expected: str) -> None:
        while count:
            count -= len(self.take(min(count, CHUNK), expected))

    def read(self, count: int) -> bytes:
        try:
            data = super().read(count)
        except EOFError:
            found = f"the gzip data end, after {self._bytes:,} packed bytes, without their end mark"
            raise self.damaged(self.at, found) from None
        except (OSError, zlib.error) as error:
            found = f"the gzip data, up to packed byte {self._packed.tell():,}, do not unpack: {error}"
            raise self.damaged(self.at, found) from None
        if self.at > MAX_EXPANSION * self._bytes + FREE_EXPANSION_BYTES:
            raise self.damaged(self.at, f"more than {MAX_EXPANSION} times the {self._bytes:,} packed bytes")
        return data


def _walk(tape: _Tape) -> Iterator[tuple[int, TarMember]]:
    """Each regular file with the offset of its first header. Every byte of the tape is checked, or is a member's."""
    defaults = b""  # headers that hold for all members after them
    while True:
        at = tape.at
        extended, header = _headers(tape)
        if header is None:
            return _check_end(tape, at, extended)
        info = _parse(tape, at, defaults + extended, header)
        if info.type == tarfile.XGLTYPE:
            defaults += header + _payload(tape, at, info.size)
            if len(defaults) > MAX_EXTENDED_BYTES:
                raise tape.damaged(at, f"a header of more than {MAX_EXTENDED_BYTES:,} bytes")
            continue
        name = _name(tape, at, header, info)
        member = TarMember(name, tape.at, info.size)
        if info.isdir() and info.size:
            raise tape.damaged(at, f"{name!r}, a folder of {info.size:,} bytes")
        tape.skip(info.size, f"the rest of {name!r} ({info.size:,} bytes)")
        _check_padding(tape, info.size)
        if not info.isdir():
            yield at, member


def _headers(tape: _Tape) -> tuple[bytes, bytes | None]:
    """The next member's extended headers with their contents, and its header; None at a block of zeros."""
    at, extended = tape.at, b""
    while True:
        start = tape.at
        header = tape.take(BLOCK, "a member's header or the end mark (two blocks of zeros)")
        if header == ZEROS:
            return extended, None
        _check_header(tape, start, header)
        kind = header[156:157]
        if kind in REFUSED:
            raise tape.damaged(start, f"{REFUSED[kind]}; only regular files are read")
        if kind not in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            return extended, header
        extended += header + _payload(tape, start, _size(tape, start, header))
        if len(extended) > MAX_EXTENDED_BYTES:
            raise tape.damaged(at, f"a header of more than {MAX_EXTENDED_BYTES:,} bytes")


def _check_header(tape: _Tape, at: int, header: bytes) -> None:
    """Raise `IntegrityError` unless the checksum is the header's, in one of the two spellings that programs write."""
    found = re.fullmatch(rb"([0-7]{6})\x00 |([0-7]{7})\x00", header[148:156])
    expected = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if found is None or int(found[1] or found[2], 8) != expected:
        raise tape.damaged(at, "no valid header, where a member's or the end mark was expected (its checksum differs)")
    if header[156:157] not in b"\x0005xgL" and header[156:157] not in REFUSED:
        raise tape.damaged(at, f"a member of the unknown type {header[156:157]!r}; only regular files are read")


def _size(tape: _Tape, at: int, header: bytes) -> int:
    digits = header[124:136].strip(b" \0")
    if not re.fullmatch(rb"[0-7]{1,12}", digits) or (size := int(digits, 8)) > MAX_MEMBER_BYTES:
        raise tape.damaged(at, f"the size {header[124:136]!r}, where octal digits up to 8 GiB were expected")
    return size


def _payload(tape: _Tape, at: int, size: int) -> bytes:
    """The contents of an extended header with their padding."""
    if size > MAX_EXTENDED_BYTES:
        raise tape.damaged(at, f"a header of more than {MAX_EXTENDED_BYTES:,} bytes")
    data = tape.take(size, f"an extended header of {size:,} bytes")
    return data + _check_padding(tape, size)


def _check_padding(tape: _Tape, size: int) -> bytes:
    """Read what fills the last block behind `size` bytes. Raises `IntegrityError` unless it is zeros."""
    at = tape.at
    padding = tape.take(-size % BLOCK, "padding to a whole block")
    if any(padding):
        raise tape.damaged(at, f"other bytes than zeros, where {len(padding)} bytes of padding were expected")
    return padding


def _parse(tape: _Tape, at: int, extended: bytes, header: bytes) -> tarfile.TarInfo:
    """What `tarfile` makes of one member's headers. Raises `IntegrityError` for what it or this file does not take."""
    size = _size(tape, at, header)
    try:
        if not extended or header[156:157] == tarfile.XGLTYPE:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        else:
            # Its constructor reads one member, and needs no bytes of it.
            parsed = tarfile.TarFile(fileobj=io.BytesIO(extended + header), encoding="utf-8", errors="strict").next()
            if parsed is None:
                raise ValueError("no member")
            info = parsed
    except UnicodeDecodeError as error:
        raise tape.damaged(at, f"a name that is not UTF-8: {error.object!r}") from None
    except (tarfile.TarError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise tape.damaged(at, f"headers that cannot be read: {error}") from error
    if info.issparse() or info.size != size:
        raise tape.damaged(at, "a sparse file" if info.issparse() else f"two sizes, {size:,} and {info.size:,} bytes")
    # Extended headers have no checksum of their own: a flipped bit may make another keyword of `path`.
    if unknown := [word for word in info.pax_headers if word not in PAX_KEYWORDS and "." not in word]:
        raise tape.damaged(at, f"the unknown keyword {unknown[0]!r} in an extended header")
    return info


def _name(tape: _Tape, at: int, header: bytes, info: tarfile.TarInfo) -> str:
    """The member's name. Raises `IntegrityError` unless it has 1 to 1,024 bytes of UTF-8 without NUL."""
    fields = [header[:100]] + ([header[345:500]] if header[257:263] == b"ustar\0" else [])
    if "\0" in info.name or any(b"\0" in field.rstrip(b"\0") for field in fields):
        raise tape.damaged(at, f"a name with a NUL in it: {info.name!r}")
    try:
        size = len(info.name.encode())
    except UnicodeEncodeError:
        raise tape.damaged(at, f"a name that is not UTF-8: {info.name!r}") from None
    if not 0 < size <= MAX_NAME_BYTES:
        raise tape.damaged(at, f"a name of {size:,} bytes; 1 to {MAX_NAME_BYTES:,} are read")
    return info.name


def _check_end(tape: _Tape, at: int, extended: bytes) -> None:
    """Raise `IntegrityError` unless, after a block of zeros, another one and nothing but whole ones follow."""
    if extended:
        raise tape.damaged(at, "an extended header without a member")
    second = tape.at
    if tape.take(BLOCK, "the second half of the end mark (512 zeros)") != ZEROS:
        raise tape.damaged(second, "other bytes than zeros, where the second half of the end mark was expected")
    while chunk := tape.read(CHUNK):
        if chunk.count(0) != len(chunk):
            raise tape.damaged(tape.at - len(chunk), "more than zeros after the end mark")
    if tape.at % BLOCK:
        raise tape.damaged(tape.at, "the end, where a whole block of zeros was expected")
