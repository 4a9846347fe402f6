"""Tars and WebDataset shards for tests, made by hand with the standard library."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from random import Random

Members = Iterable[tuple[str, bytes]]


def tar_bytes(members: Members, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of regular files as Python, GNU tar and webdataset write it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, data in members:
            tar.addfile(member(name, len(data)), io.BytesIO(data))
    return file.getvalue()


def member(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def header(name: str, size: int = 0, **fields: object) -> bytes:
    """The header blocks of one member."""
    return member(name, size, **fields).tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def with_checksum(block: bytes, spelling: bytes = b"%06o\0 ") -> bytes:
    """A header block whose checksum is right again."""
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + spelling % sum(blank) + block[156:]


END = bytes(1024)


def write_shard(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def tar_of_old(members: Members, random: Random) -> bytes:
    """A tar as writers of all ages make them: every header in another of their formats and spellings."""
    tar = b"".join(spelt(random, name.encode(), len(data)) + padded(data) for name, data in members)
    return tar + bytes(512 * random.randint(2, 20))


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


CHECKSUMS = (
    b"%06o\0 ",
    b"%07o\0",
    b"%06o \0",
    b"%6o\0 ",
    b" %6o\0",
    b"%6o \0",
    b"%06o\0\0",
    b"%08o",
    b"%8o",
    b"\0%06o ",
)
SIZES = (b"%011o\0", b"%011o ", b"%11o ", b"%12o", b"%012o", b"%o\0", b" %o ")


def spelt(random: Random, name: bytes, size: int, type: bytes = b"0", linkname: bytes = b"") -> bytes:
    """The headers of one member, in one of the formats that exist; fields that no reader needs hold anything."""
    kind = random.choice(("v7", "ustar", "gnu", "star"))
    before = b""
    cuts = [at for at in range(len(name)) if name[at : at + 1] == b"/" and len(name) - at <= 101 and 0 < at <= 130]
    prefix = b""
    if kind in ("ustar", "star") and cuts and (len(name) > 100 or random.random() < 0.5):
        cut = random.choice(cuts)
        prefix, name = name[:cut], name[cut + 1 :]
    elif len(name) > 100 and random.random() < 0.5:
        before = spelt(random, b"././@LongLink", len(name) + 1, b"L") + padded(name + b"\0")
        name = name[:100]
    elif len(name) > 100:
        records = pax_record(b"path", name) + pax_record(b"SCHILY.dev", b"7")
        before = spelt(random, b"PaxHeader/x", len(records), b"x") + padded(records)
        name = name[:100]
    spelling = random.choice(SIZES) % size
    if random.random() < 0.2 and kind != "v7":
        spelling = b"\x80" + size.to_bytes(11, "big")
    behind = {
        "v7": lambda: b"\0" * 6 + random.randbytes(249),
        "ustar": lambda: random.choice((b"ustar\x0000", b"ustar\0\0\0", b"ustar00\0")) + owners(random) + prefix,
        "gnu": lambda: b"ustar  \0" + owners(random) + times(random),
        "star": lambda: (
            b"ustar\x0000" + owners(random) + prefix.ljust(131, b"\0") + times(random) + bytes(8) + b"tar\0"
        ),
    }[kind]()
    odd = [field(random, width) for width in (8, 8, 8)]
    kind_of = type if type != b"0" or kind != "v7" else b"\0"
    fields = [name.ljust(100, b"\0"), *odd, spelling.ljust(12, b"\0"), field(random, 12), b" " * 8, kind_of]
    block = b"".join(fields) + linkname.ljust(100, b"\0") + behind
    block = block.ljust(512, b"\0")
    total = sum(block) - 256 * (random.random() < 0.2) * sum(byte > 127 for byte in block)
    checksum = random.choice(CHECKSUMS) % max(total, 0) if total > 0 else CHECKSUMS[0] % sum(block)
    return before + block[:148] + checksum.ljust(8, b"\0")[:8] + block[156:]


def field(random: Random, width: int) -> bytes:
    """A number as it should be, or what was in memory."""
    usual = (b"%0*o\0" % (width - 1, random.randrange(512)), bytes(width), b" " * width, b"-1".ljust(width, b"\0"))
    return random.choice((*usual, random.randbytes(width)))


def owners(random: Random) -> bytes:
    """Names of a user and a group, who may be French, and the numbers of a device."""
    return random.choice((b"root", b"J\xe9r\xf4me")).ljust(32, b"\0") * 2 + field(random, 8) + field(random, 8)


def times(random: Random) -> bytes:
    end = random.choice((b" ", b"\0"))  # GNU tar and star, npm
    return b"%011o%s%011o%s" % (random.randrange(1 << 32), end, random.randrange(1 << 32), end)


def pax_record(keyword: bytes, text: bytes) -> bytes:
    """A record of an extended header: its own length, a blank, KEYWORD=VALUE, a line feed."""
    size = len(keyword) + len(text) + 3
    size += len(str(size + len(str(size))))
    return b"%d %s=%s\n" % (size, keyword, text)


class NamedInfo(zipfile.ZipInfo):
    """A member of a zip whose name is these bytes, with or without the UTF-8 flag."""

    def __init__(self, name: bytes, *, flag: bool = False, method: int = zipfile.ZIP_STORED, **fields: object) -> None:
        super().__init__(name.decode("utf-8", "replace"))
        self.raw, self.flag, self.compress_type, self.create_system = name, flag, method, 3
        for field, value in fields.items():
            setattr(self, field, value)

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.raw, (self.flag_bits & ~0x800) | (0x800 if self.flag else 0)


def zip_bytes(members: Iterable[tuple[zipfile.ZipInfo, bytes]], before: bytes = b"", comment: bytes = b"") -> bytes:
    """A zip, behind other bytes."""
    file = io.BytesIO()
    file.write(before)
    with warnings.catch_warnings(), zipfile.ZipFile(file, "a") as archive:
        warnings.simplefilter("ignore")  # two members of one name
        archive.comment = comment
        for info, data in members:
            archive.writestr(info, data)
    return file.getvalue()


def with_method(data: bytes, method: int, flags: int = 0) -> bytes:
    """A zip whose members say that they are packed by another method."""
    changed = bytearray(data)
    for sign, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = -1
        while (start := data.find(sign, start + 1)) >= 0:
            changed[start + at : start + at + 4] = struct.pack("<HH", flags, method)
    return bytes(changed)
