"""Tars are read in place, and no damage of one passes for a shorter archive."""

from __future__ import annotations

import random
import shutil
import tarfile
from pathlib import Path

import pytest
from archives import END, header, packed, tar_bytes, with_checksum
from helpers import write

from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.seek_indexes import adopt_seek_indexes, seek_indexes
from fastclip.data.sources.tars import TarMember, list_tar
from fastclip.errors import IntegrityError

RANDOM = random.Random(5)
MEMBERS = [(f"{'abc'[n % 3]}/{n:03d}.{'cls' if n % 2 else 'jpg'}", RANDOM.randbytes(n * 37)) for n in range(40)]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def save(folder: Path, data: bytes, name: str = "0.tar") -> Path:
    return write(folder, {name: data}) / name


def expected(path: Path) -> list[TarMember]:
    with tarfile.open(path) as tar:
        return [TarMember(each.name, each.offset_data, each.size) for each in tar if each.isreg()]


@pytest.mark.parametrize("format", FORMATS)
def test_a_whole_tar_is_listed_as_tarfile_lists_it(tmp_path: Path, format: str):
    path = save(tmp_path, tar_bytes(MEMBERS, FORMATS[format]))
    assert list_tar(path) == expected(path) and len(list_tar(path)) == 40


def test_folders_are_left_out_and_an_archive_of_go_or_rust_ends_after_two_blocks(tmp_path: Path):
    folder = header("a/", type=tarfile.DIRTYPE)
    path = save(tmp_path, folder + header("a/1.jpg", 3) + b"abc".ljust(512, b"\0") + END)
    assert list_tar(path) == [TarMember("a/1.jpg", 1024, 3)]
    assert list_tar(save(tmp_path, END)) == []


@pytest.mark.parametrize("spelling", [b"%06o\0 ", b"%07o\0", b"%06o \0", b"%6o\0 ", b"%06o\0\0"])
def test_a_checksum_may_be_spelt_as_gnu_tar_rust_npm_and_perl_do(tmp_path: Path, spelling: bytes):
    assert list_tar(save(tmp_path, with_checksum(header("a"), spelling) + END)) == [TarMember("a", 512, 0)]
    wrong = with_checksum(header("a"), spelling).replace(b"a", b"b", 1)
    with pytest.raises(IntegrityError, match="no valid header"):
        list_tar(save(tmp_path, wrong + END))


@pytest.mark.parametrize("format", FORMATS)
def test_every_cut_is_noticed_unless_it_takes_zeros_behind_the_end_mark(tmp_path: Path, format: str):
    whole = tar_bytes(MEMBERS, FORMATS[format])
    members = list_tar(path := save(tmp_path, whole))
    end = members[-1].offset + -(-members[-1].size // 512) * 512 + len(END)
    for cut in [*range(0, len(whole), 512), *(RANDOM.randrange(len(whole)) for _ in range(64))]:
        save(tmp_path, whole[:cut])
        if cut >= end and cut % 512 == 0:
            assert list_tar(path) == members, "nothing is lost"
        else:
            with pytest.raises(IntegrityError, match=r"0\.tar is damaged.* at byte [\d,]+ .*expected"):
                list_tar(path)


def test_a_flip_in_any_byte_of_ten_headers_is_noticed_or_spells_the_same_checksum(tmp_path: Path):
    whole = tar_bytes(MEMBERS, tarfile.USTAR_FORMAT)
    members = list_tar(path := save(tmp_path, whole))
    flips = 0
    for number, member in list(enumerate(members))[1::4]:
        start = member.offset - 512
        before = members[number - 1].offset - 512 if number % 8 == 1 else start  # some behind another member
        end = member.offset + -(-member.size // 512) * 512
        path.write_bytes(whole[before:end] + END)
        intact = list_tar(path)
        assert len(intact) == 1 + (before < start)
        with path.open("r+b", buffering=0) as file:
            for position in range(start, member.offset):
                file.seek(position - before)
                file.write(bytes([whole[position] ^ RANDOM.choice((1, 2, 4, 8, 16, 32, 64, 128, 255))]))
                try:
                    assert list_tar(path) == intact and 148 <= position - start < 156, position - start
                except IntegrityError as error:
                    assert f"at byte {start - before:,} " in str(error)
                file.seek(position - before)
                file.write(whole[position : position + 1])
                flips += 1
    assert flips == 10 * 512


def test_padding_and_the_end_must_be_zeros(tmp_path: Path):
    whole = tar_bytes([("1.jpg", b"x" * 100), ("2.jpg", b"y" * 100)])
    for position in (612, 1023, 1024 + 612, 2048, 2048 + 600, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        with pytest.raises(IntegrityError, match=r"zeros|header"):
            list_tar(save(tmp_path, bytes(damaged)))


LONG = "x" * 300 + ".jpg"


def extended(records: bytes, type: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header with its contents."""
    return header("x", len(records), type=type) + records + bytes(-len(records) % 512)


def record(text: str) -> bytes:
    """A record of an extended header: its own length, a blank, KEYWORD=VALUE, a line feed."""
    size = len(text) + 3
    size += len(str(size)) - 1
    return f"{size} {text}\n".encode()


SPARSE = record("GNU.sparse.major=1") + record("GNU.sparse.minor=0")
REFUSED = {
    "empty": (b"", "the end, where a member's header"),
    "html": (b"<html>" * 200, "no valid header"),
    "hard link": (header("a", type=tarfile.LNKTYPE, linkname="/etc/passwd") + END, "a hard link"),
    "symbolic link": (header("a", type=tarfile.SYMTYPE, linkname="../../x") + END, "a symbolic link"),
    "long link": (header("a", type=tarfile.SYMTYPE, linkname=LONG) + END, "a symbolic link"),
    "device": (header("a", type=tarfile.CHRTYPE) + END, "a device"),
    "pipe": (header("a", type=tarfile.FIFOTYPE) + END, "a pipe"),
    "sparse": (header("a", type=tarfile.GNUTYPE_SPARSE) + END, "a sparse file"),
    "link in a circle": (
        header("a", type=tarfile.SYMTYPE, linkname="b") + header("b", type=tarfile.SYMTYPE, linkname="a") + END,
        "a symbolic link to 'b', which is no file of the archive",
    ),
    "link to a folder": (
        header("a/", type=tarfile.DIRTYPE) + header("b", type=tarfile.SYMTYPE, linkname="a") + END,
        "a symbolic link to 'a', which is no file",
    ),
    "volume": (header("a Volume 2", type=b"V") + END, "one volume of several"),
    "rest of a volume": (header("a", 1, type=b"M") + bytes(512) + END, "the rest of a file of another volume"),
    "rest by name": (extended(record("GNU.volume.offset=9")) + header("a") + END, "the rest of a file of another"),
    "incremental": (header("a/", 4, type=b"D") + bytes(512) + END, "an incremental backup"),
    "unknown": (header("a", type=b"Z") + END, "unknown type b'Z'"),
    "sparse of Solaris": (extended(record("SUN.holesdata= 0 9")) + header("a") + END, "a sparse file"),
    "sparse of star": (extended(record("SCHILY.realsize=9")) + header("a") + END, "a sparse file"),
    "huge": (header("a", 8 * 2**30 - 1) + END, "the end, where the rest of 'a'"),
    "2^63 - 1": (header("a", 2**63 - 1) + END, "the end, where the rest of 'a'"),
    "negative": (
        with_checksum(header("a")[:124] + b"\xff" * 12 + header("a")[136:]) + END,
        "'a', a file of -1 bytes|no valid header",
    ),
    "minus": (
        with_checksum(header("a")[:124] + b" -1000      " + header("a")[136:]) + END,
        "'a', a file of -512 bytes|no valid header",
    ),
    "no digits": (with_checksum(header("a")[:124] + b"9 bytes    \0" + header("a")[136:]) + END, "no valid header"),
    "twice": (tar_bytes([("a", b"1"), ("b", b"2"), ("a", b"3")]), r"at byte 2,048 a second member called 'a'.* at 0"),
    "NUL": (with_checksum(b"a.jpg\0evil" + header("")[10:]) + END, "a NUL in it"),
    "no name": (header("") + END, "a name of 0 bytes"),
    "long name": (tar_bytes([("y" * 1025, b"")]), "a name of 1,025 bytes"),
    "not UTF-8": (header("caf\udce9.jpg") + END, "not UTF-8"),
    "folder with bytes": (header("a/", 512, type=tarfile.DIRTYPE) + bytes(512) + END, "a folder of 512 bytes"),
    "long header": (header("x", 70_000, type=tarfile.XHDTYPE) + bytes(70_144) + END, "more than 65,536 bytes"),
    "headers without end": (100 * extended(record("path=abc")) + header("a") + END, "more than 65,536 bytes"),
    "header alone": (extended(record("path=abc")) + END, "no valid header: end of file header"),
    "keyword": (extended(record("qath=abc")) + header("a") + END, "keyword 'qath'"),
    "two sizes": (extended(record("size=9")) + header("a", 1) + bytes(512) + END, "two sizes"),
    "two sizes for all": (
        extended(record("size=9"), tarfile.XGLTYPE) + header("a", 1) + bytes(512) + END,
        "two sizes",
    ),
    "sparse by name": (extended(record("GNU.sparse.map=0,1")) + header("a", 1) + bytes(512) + END, "a sparse file"),
    "sparse map": (
        extended(SPARSE) + header("a", 200_000) + b"99999999\n" + b"1\n" * 100_000 + bytes(263) + END,
        "more than 65,536 bytes",
    ),
    "one zero block": (header("a") + bytes(512), "whole blocks of zeros, at least two, were expected"),
    "more behind": (header("a") + END + header("b") + END, "after the end mark"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_plain_archive_of_files_is_refused_at_its_place(tmp_path: Path, case: str):
    data, message = REFUSED[case]
    with pytest.raises(IntegrityError, match=message) as caught:
        list_tar(save(tmp_path, data))
    assert "0.tar" in str(caught.value) and "at byte" in str(caught.value) and caught.value.fix


HOSTILE = ["../../outside.jpg", "/tmp/outside.jpg", "a\nb.jpg", "\u202egpj.exe", "x" * 300 + ".jpg", "\U0001f600.jpg",
           "e\u0301.jpg", "\u00e9.jpg", "C:\\x.jpg", "\x1b]52;c;eA==\x07.jpg", "~/x.jpg", "$(touch y).jpg"]  # fmt: skip


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_hostile_names_are_text_and_nothing_is_created(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch):
    inside = tmp_path / "a" / "b"
    path = save(inside, tar_bytes([(name, name.encode()) for name in HOSTILE], FORMATS[format]))
    monkeypatch.chdir(inside)
    before = sorted(tmp_path.rglob("*"))
    members = list_tar(path)
    reader = BlobReader()
    for name, member in zip(HOSTILE, members, strict=True):
        assert member.name == name
        assert reader.read(Blob("tar", path, member.size, offset=member.offset)) == name.encode()
    assert sorted(tmp_path.rglob("*")) == before and not Path("/tmp/outside.jpg").exists()


def test_members_of_a_tar_gz_are_read_in_any_order_as_from_the_tar(tmp_path: Path):
    photos = [(f"{n}.jpg", RANDOM.randbytes(40_000)) for n in range(60)]  # several points of the seek index
    whole = tar_bytes(photos)
    plain, zipped = save(tmp_path, whole), save(tmp_path, packed(whole), "0.tar.gz")
    members = list_tar(zipped)
    assert members == list_tar(plain)
    order = list(range(60))
    RANDOM.shuffle(order)
    reader = BlobReader()
    for path in (plain, zipped):
        for row in order:
            assert reader.read(Blob("tar", path, members[row].size, offset=members[row].offset)) == photos[row][1]
    misnamed = save(tmp_path, packed(whole), "1.tar")  # what counts is the content; nobody listed it
    assert reader.read(Blob("tar", misnamed, members[9].size, offset=members[9].offset)) == photos[9][1]
    index = seek_indexes()[zipped]
    assert index.file.stat().st_mode & 0o077 == 0 and index.file.parent.stat().st_mode & 0o077 == 0
    adopt_seek_indexes({zipped: index})
    zipped.write_bytes(packed(whole + bytes(512)))
    with pytest.raises(IntegrityError, match="changed while it was read"):
        BlobReader().read(Blob("tar", zipped, 5, offset=512))


def test_a_tar_gz_is_read_after_somebody_tidied_up_the_temporary_folder(tmp_path: Path):
    whole = tar_bytes(MEMBERS[:12])
    for number in range(2):
        zipped = save(tmp_path, packed(whole), f"{number}.tar.gz")
        member = list_tar(zipped)[3]
        shutil.rmtree(seek_indexes()[zipped].file.parent)
        blob = Blob("tar", zipped, member.size, offset=member.offset)
        assert BlobReader().read(blob) == whole[member.offset : member.offset + member.size]


def test_a_tar_gz_with_any_cut_flip_or_addition_is_refused_with_file_and_offset(tmp_path: Path):
    whole = packed(tar_bytes(MEMBERS[:12]))
    damaged = [whole[:cut] for cut in (2, 11, *(RANDOM.randrange(20, len(whole)) for _ in range(80)), len(whole) - 1)]
    damaged += [whole + b"x", packed(tar_bytes(MEMBERS[:12])[:-10240]), packed(b"no tar")]
    for _ in range(120):
        flipped = bytearray(whole)
        flipped[RANDOM.randrange(10, len(whole))] ^= 1 << RANDOM.randrange(8)
        damaged.append(bytes(flipped))
    path = tmp_path / "0.tar.gz"
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match=r"0\.tar\.gz is damaged.* at byte [\d,]+ "):
            list_tar(path)
        path.unlink()


def test_a_tar_gz_that_expands_a_thousandfold_is_refused(tmp_path: Path):
    path = save(tmp_path, packed(header("a", 100_000_000) + bytes(100_000_256) + END), "0.tgz")
    assert path.stat().st_size < 200_000
    with pytest.raises(IntegrityError, match="more than 100 times"):
        list_tar(path)


def test_a_blob_that_is_not_there_any_more_is_an_error_with_its_place(tmp_path: Path):
    path = save(tmp_path, tar_bytes(MEMBERS))
    size = path.stat().st_size
    with pytest.raises(ValueError, match="ends at byte"):
        BlobReader().read(Blob("tar", path, 100, offset=size - 50))
    with pytest.raises(ValueError, match="more than the"):
        BlobReader().read(Blob("tar", path, 2**40, offset=0))
