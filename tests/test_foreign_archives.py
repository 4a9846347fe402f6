"""Archives of many writers: each lists to exactly what went into it, or is refused in two lines that say why."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import NamedInfo, header, member, packed, spelt, tar_bytes, tar_of_old, with_method, zip_bytes
from helpers import Program, image_bytes, write

from fastclip.data.sources.archives import unread_archive
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.layouts import list_source
from fastclip.data.sources.members import list_members
from fastclip.errors import IntegrityError, UserError

Truth = dict[str, bytes]
FOLDERS = ("photo", "niño", "nin\u0303o", "円", "a b", "-x", "C:", "__MACOSX", "l" * 60, "é" * 40)
"""One of them in both normal forms: names stay bytes as they are."""


def truth(random: Random, most: int = 12) -> Truth:
    """Files of a few folders, one to three deep, some with long names and some empty."""
    found = {}
    for number in range(random.randint(1, most)):
        folders = [random.choice(FOLDERS) for _ in range(random.randint(1, 3))]
        if folders[0] == "C:":
            folders[0] = "D"
        found["/".join([*folders, f"{number}.jpg"])] = random.randbytes(random.choice((0, 1, 511, 512, 513, 2000)))
    return found


def listed(archive: Path) -> Truth:
    """Path → bytes of all members, as they would go into shards."""
    reader = BlobReader()
    members = list_members(archive, "")
    return {path: reader.read(blob) for path, blob in members}


def saved(folder: Path, data: bytes, name: str) -> Path:
    return write(folder, {name: data}) / name


def by_any_writer(random: Random, files: Truth) -> bytes:
    """A tar by `tarfile` or by hand, packed or not; names may begin with ./ and folders may be members."""
    dotted = random.choice(("", "./"))
    members = [(f"{dotted}{name}", data) for name, data in files.items()]
    random.shuffle(members)
    if random.random() < 0.7:
        data = tar_of_old(members, random)
    else:
        data = tar_bytes(members, random.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))
    if random.random() < 0.3:
        folders = sorted({f"{name.rpartition('/')[0]}/" for name in files})
        data = b"".join(spelt(random, f.encode(), 0, random.choice((b"5", b"0"))) for f in folders) + data
    if random.random() < 0.2:
        data = packed(data[:1000]) + packed(data[1000:])  # as pigz and bgzip do
    return data


def check_tars(folder: Path, seeds: range) -> None:
    for seed in seeds:
        random = Random(seed)
        files = truth(random)
        archive = saved(folder, by_any_writer(random, files), "a.tar")
        assert listed(archive) == files, seed


def test_a_tar_in_any_spelling_lists_to_what_went_into_it(tmp_path: Path):
    check_tars(tmp_path, range(300))


@pytest.mark.slow
def test_ten_thousand_tars_in_any_spelling_list_to_what_went_into_them(tmp_path: Path):
    check_tars(tmp_path, range(1000, 11_000))


def tool(name: str, version: str = "") -> str:
    """The path of a program. The test skips where it is not installed."""
    path = shutil.which(name)
    if path is None or (
        version and version not in subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    ):
        pytest.skip(f"{version or name} is not installed here")
    return path


FILES: Truth = {
    "photo/niño/1.jpg": b"1" * 700,
    "photo/nin\u0303o/2.jpg": b"",
    f"photo/{'é' * 60}/{'l' * 99}.jpg": b"3",
    "night/円/4.jpg": b"4" * 512,
}
"""What real writers are given."""

GNU = {name: ["tar", f"--format={name}"] for name in ("v7", "oldgnu", "gnu", "ustar", "posix")}
LIBARCHIVE = {name: ["bsdtar", f"--format={name}"] for name in ("ustar", "gnutar", "pax")}
TARS = {
    **{f"GNU {name}": [*words, "-cf", "../a.tar", "."] for name, words in GNU.items()},
    "GNU in pieces of a record": ["tar", "-b1", "-cf", "../a.tar", "--owner=Jérôme:1", "."],
    "GNU with a label": ["tar", "--format=posix", "-V", "all", "-cf", "../a.tar", "photo", "night"],
    "GNU with a label of old": ["tar", "--format=gnu", "-V", "all", "-czf", "../a.tar", "photo", "night"],
    "GNU with numbers": ["tar", "--format=gnu", "--owner=4294967294", "--mtime=1901-01-01", "-cf", "../a.tar", "."],
    **{f"libarchive {name}": [*words, "-cf", "../a.tar", "."] for name, words in LIBARCHIVE.items()},
    "cmake": ["cmake", "-E", "tar", "cf", "../a.tar", "--format=pax", "."],
    "busybox": ["busybox", "tar", "-cf", "../a.tar", "."],
    "7-Zip": ["7zz", "a", "-ttar", "-bso0", "../a.tar", "."],
}  # fmt: skip


@pytest.mark.parametrize("writer", TARS)
def test_a_tar_by_this_program_lists_to_what_went_into_it(writer: str, tmp_path: Path):
    command = [tool(TARS[writer][0], "GNU tar" if writer.startswith("GNU") else ""), *TARS[writer][1:]]
    short = {name: data for name, data in FILES.items() if len(name.encode()) <= 100}
    files = short if {"GNU v7", "GNU ustar", "libarchive ustar"} & {writer} else FILES
    subprocess.run(command, cwd=write(tmp_path / "in", files), check=True)
    assert listed(tmp_path / "a.tar") == files


def test_a_second_name_of_a_file_is_that_file_again(tmp_path: Path):
    write(tmp_path / "in", FILES)
    (tmp_path / "in" / "night" / "again.jpg").hardlink_to(tmp_path / "in" / "photo" / "niño" / "1.jpg")
    (tmp_path / "in" / "photo" / "link.jpg").symlink_to("niño/1.jpg")
    (tmp_path / "in" / "link to it.jpg").symlink_to("photo/link.jpg")
    subprocess.run([tool("tar", "GNU tar"), "-czf", "../a.tgz", "."], cwd=tmp_path / "in", check=True)
    with tarfile.open(tmp_path / "a.tgz") as tar:
        assert sorted(each.type for each in tar if not each.isreg() and not each.isdir()) == [b"1", b"2", b"2"]
    once = FILES["photo/niño/1.jpg"]
    again = {"night/again.jpg": once, "photo/link.jpg": once, "link to it.jpg": once}
    assert listed(tmp_path / "a.tgz") == FILES | again


def test_links_in_an_archive_become_images_and_cannot_be_indexed_in_place(tmp_path: Path, fastclip: Program):
    names = ("cat/1.png", "dog/2.png")
    members = [(name, image_bytes(size=(8, 8 + number))) for number, name in enumerate(names)]
    link = header("dog/3.png", type=tarfile.SYMTYPE, linkname="2.png")
    write(tmp_path, {"in/pets.tar": link + tar_bytes(members)})
    assert len(list_source(tmp_path / "in", None).images) == 3
    labelled = [("1.png", members[0][1]), ("1.cls", b"0"), ("2.png", members[1][1])]
    shard = header("2.cls", type=tarfile.LNKTYPE, linkname="1.cls") + tar_bytes(labelled)
    write(tmp_path, {"shards/pets/all/0.tar": shard, "shards/pets/classnames.txt": b"cat\ndog\n"})
    assert len(list_source(tmp_path / "shards" / "pets", None).images) == 2
    outcome = fastclip.here("shards", "index", "pets")
    assert outcome.code == 2 and "holds links" in outcome.err


def test_the_times_that_gnu_tar_keeps_are_no_folder(tmp_path: Path):
    write(tmp_path / "in", FILES)
    command = [
        tool("tar", "GNU tar"),
        "--format=gnu",
        "--listed-incremental=../state",
        "-cf",
        "../a.tar",
        "photo/niño/1.jpg",
    ]
    subprocess.run(command, cwd=tmp_path / "in", check=True)
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames()[0].partition("/")[0].isdigit(), "tarfile takes them for one"
    assert list(listed(tmp_path / "a.tar")) == ["photo/niño/1.jpg"]


def test_a_member_above_8_gib_has_its_size_in_an_extended_header_only(tmp_path: Path):
    large = member("film.mp4", 9 << 30).tobuf(tarfile.PAX_FORMAT)
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(large)
        file.seek(9 << 30, os.SEEK_CUR)
        file.write(tar_bytes([("cat/1.jpg", b"1")]))
    assert [(name, blob.size) for name, blob in list_members(path, "")] == [("film.mp4", 9 << 30), ("cat/1.jpg", 1)]


def zip_by_any_writer(random: Random, files: Truth) -> bytes:
    """A zip in one of the ways to say that names are UTF-8, by Unix, macOS or Windows."""
    members = []
    windows = random.random() < 0.3
    for name, data in files.items():
        spelling = f"{random.choice(('', './'))}{name}"
        raw = (spelling.replace("/", "\\") if windows else spelling).encode()
        way = random.choice(("flag", "bare", "extra"))
        method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        extra = b""
        if way == "extra":
            other = bytes(byte if byte < 128 else 0x82 for byte in raw)  # as the code page had it
            extra, raw = unicode_path(other, raw), other
        info = NamedInfo(raw, flag=way == "flag", method=method, extra=extra, create_system=0 if windows else 3)
        members.append((info, data))
    if random.random() < 0.3:
        folders = {name.rpartition("/")[0] for name in files}
        members += [(NamedInfo(f"{folder}/".encode(), external_attr=0x10), b"") for folder in sorted(folders)]
    random.shuffle(members)
    return zip_bytes(members, random.choice((b"", b"MZ" + random.randbytes(999))), random.choice((b"", b"by hand")))


def unicode_path(name: bytes, unicode: bytes) -> bytes:
    """Info-ZIP's extra field: the name in UTF-8 for another one."""
    data = b"\1" + zlib.crc32(name).to_bytes(4, "little") + unicode
    return b"up" + len(data).to_bytes(2, "little") + data


def check_zips(folder: Path, seeds: range) -> None:
    for seed in seeds:
        random = Random(seed)
        files = truth(random)
        assert listed(saved(folder, zip_by_any_writer(random, files), "a.zip")) == files, seed


def test_a_zip_in_any_spelling_lists_to_what_went_into_it(tmp_path: Path):
    check_zips(tmp_path, range(200))


@pytest.mark.slow
def test_five_thousand_zips_in_any_spelling_list_to_what_went_into_them(tmp_path: Path):
    check_zips(tmp_path, range(1000, 6000))


ZIPS = {
    "Info-ZIP": ["zip", "-qr", "../a.zip", "."],
    "Info-ZIP, zip64": ["zip", "-qr", "-fz", "../a.zip", "."],
    "Info-ZIP, names as they are": ["zip", "-qr", "-UN=n", "../a.zip", "."],
    "Info-ZIP, names escaped": ["zip", "-qr", "-UN=e", "../a.zip", "."],
    "libarchive": ["bsdtar", "--format=zip", "-cf", "../a.zip", "."],
    "cmake": ["cmake", "-E", "tar", "cf", "../a.zip", "--format=zip", "."],
    "7-Zip": ["7zz", "a", "-tzip", "-bso0", "../a.zip", "."],
    "7-Zip, LZMA": ["7zz", "a", "-tzip", "-mm=LZMA", "-bso0", "../a.zip", "."],
    "Java": ["jar", "-cMf", "../a.zip", "."],
}


@pytest.mark.parametrize("writer", ZIPS)
def test_a_zip_by_this_program_lists_to_what_went_into_it(writer: str, tmp_path: Path):
    command = [tool(ZIPS[writer][0]), *ZIPS[writer][1:]]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    subprocess.run(command, cwd=write(tmp_path / "in", FILES), check=True, env=environment)
    assert listed(tmp_path / "a.zip") == FILES


def two(*names: bytes, **fields: object) -> bytes:
    return zip_bytes([(NamedInfo(name, **fields), b"bytes") for name in names])


def on_disk(data: bytes, disk: int) -> bytes:
    """A zip whose first member lies on another disk of several."""
    at = data.index(b"PK\1\2") + 34
    return data[:at] + bytes([disk]) + data[at + 1 :]


def at_one_byte(data: bytes) -> bytes:
    """A zip whose second member is said to begin where the first does."""
    at = data.rindex(b"PK\1\2") + 42
    return data[:at] + bytes(4) + data[at + 4 :]


LINK: dict[str, object] = {"external_attr": (stat.S_IFLNK | 0o777) << 16}
GOOD = two(b"cat/1.jpg", b"cat/2.jpg")
REFUSED: dict[str, tuple[bytes, str]] = {
    "Shift-JIS": (two("円/1.jpg".encode("shift_jis")), r"holds a name that is not UTF-8: b'\\x89~/1.jpg'"),
    "cp437": (two("niño/1.jpg".encode("cp437")), "a name that is not UTF-8"),
    "not UTF-8 in spite of its flag": (two(b"cat\xff/1.jpg", flag=True), "a name that is not UTF-8: b'cat"),
    "an extra name for another name": (two(b"\x89/1.jpg", extra=unicode_path(b"other", b"cat/1.jpg")), "not UTF-8"),
    "NUL": (two(b"cat/1.jpg\0.txt"), "a name with a NUL in it"),
    "Deflate64": (with_method(GOOD, 9), "uses Deflate64 for 'cat/1.jpg'"),
    "zstd": (with_method(GOOD, 93), "uses zstd"),
    "PPMd": (with_method(GOOD, 98), "uses PPMd"),
    "unknown method": (with_method(GOOD, 77), "uses method 77"),
    "encrypted": (with_method(GOOD, 0, 1), "is encrypted"),
    "encrypted with AES": (with_method(GOOD, 99, 1), "is encrypted"),
    "one name twice": (two(b"cat/1.jpg", b"cat/1.jpg"), "'cat/1.jpg' twice"),
    "one name in two spellings": (two(b"cat/1.jpg", b"./cat/1.jpg"), "'cat/1.jpg' twice"),
    "out of it": (two(b"../cat/1.jpg"), "leads out of it"),
    "out of it and in again": (two(b"x/../../cat/1.jpg"), "leads out of it"),
    "absolute": (two(b"/cat/1.jpg"), "leads out of it"),
    "a drive": (two(b"C:\\cat\\1.jpg", create_system=0), "leads out of it"),
    "a drive with a slash": (two(b"c:/cat/1.jpg"), "leads out of it"),
    "a share": (two(b"\\\\server\\cat\\1.jpg"), "leads out of it"),
    "a backslash beside slashes": (two(b"photo/cat\\1.jpg"), "its backslash parts folders, or belongs to a name"),
    "a link elsewhere": (zip_bytes([(NamedInfo(b"cat/1.jpg", **LINK), b"/etc/passwd")]), "a link to '/etc/passwd'"),
    "a link to nowhere": (zip_bytes([(NamedInfo(b"cat/1.jpg", **LINK), b"2.jpg")]), "a link to 'cat/2.jpg', which is"),
    "a link that is long": (zip_bytes([(NamedInfo(b"cat/1.jpg", **LINK), b"x" * 5000)]), "a link of 5,000 bytes"),
    "a folder with bytes": (two(b"cat/"), "'cat/' is a folder of 5 bytes"),
    "a zip behind a zip": (GOOD + two(b"cat/3.jpg"), "bytes that its list of members leaves out"),
    "the last of two disks": (GOOD[:-18] + b"\1\0\1\0" + GOOD[-14:], "the last part of a split zip"),
    "members on another disk": (on_disk(GOOD, 1), "the last part of a split zip"),
    "two members at one byte": (at_one_byte(GOOD), "two members begin at one byte"),
    "a lower count": (GOOD[:-12] + b"\1\0" + GOOD[-10:], "its end counts 1"),
    "cut": (GOOD[:-9], "is not a whole zip archive"),
    "a tar": (tar_bytes([("cat/1.jpg", b"1")]), "is no zip archive but a tar one"),
    "RAR": (b"Rar!\x1a\x07\1\0" + bytes(600), "is no zip archive but a RAR one"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_zip_that_cannot_be_read_rightly_is_refused_in_two_lines(case: str, tmp_path: Path, fastclip: Program):
    data, message = REFUSED[case]
    path = saved(tmp_path, data, "in/a.zip")
    with pytest.raises((UserError, IntegrityError), match=message):
        list_members(path, "")
    outcome = fastclip.here("shard", "pets", "--source", "in")
    assert outcome.code in (2, 5) and "\nFix:" in outcome.err, outcome


def test_links_in_a_zip_are_the_files_that_they_lead_to(tmp_path: Path):
    members = [("cat/1.jpg", b"one"), ("cat/2.jpg", b"1.jpg"), ("dog/3.jpg", b"../cat/./2.jpg")]
    infos = [NamedInfo(name.encode(), **({} if name == "cat/1.jpg" else LINK)) for name, _ in members]
    path = saved(tmp_path, zip_bytes([(info, data) for info, (_, data) in zip(infos, members, strict=True)]), "a.zip")
    assert listed(path) == {"cat/1.jpg": b"one", "cat/2.jpg": b"one", "dog/3.jpg": b"one"}


def test_two_names_that_are_one_in_another_encoding_are_two(tmp_path: Path):
    extra = unicode_path(b"\x82.jpg", b"other.jpg")
    members = [(NamedInfo("é.jpg".encode(), flag=True), b"one"), (NamedInfo(b"\x82.jpg", extra=extra), b"two")]
    assert listed(saved(tmp_path, zip_bytes(members), "a.zip")) == {"é.jpg": b"one", "other.jpg": b"two"}


UNREAD = {
    "RAR": ".rar",
    "7-Zip": ".7z",
    "bzip2": ".tar.bz2 .tbz2 .bz2",
    "xz": ".tar.xz .TXZ .xz",
    "zstd": ".tar.zst .tzst",
    "gzip": ".gz",
    "lz4": ".tar.lz4",
    "compress": ".tar.Z",
    "ISO 9660": ".iso",
    "split": ".z01 .r00 .zip.001 .7z.002 .part1.rar .part02.zip .tar.aa .tar.ba .tgz_ab .tar.gz.00 .tar.gz.partaa "
    ".tar.gz-part-1 .zip.part",
}
READ = (
    "a.zip a.tar a.tar.gz a.TGZ a.jpg a.part1.jpg rar .rar zip.001 iso a.gz.txt a.zip.txt tar.aa.jpg photos.001 "
    "a.tar.json a.zip.md5 xz/1.jpg a.rar/1.jpg"
)


def test_archives_that_are_not_read_are_known_by_their_names():
    for kind, suffixes in UNREAD.items():
        for suffix in suffixes.split():
            assert unread_archive(f"photos{suffix}") == unread_archive(f"a/b.c/PHOTOS{suffix}") == kind, suffix
    for name in READ.split():
        assert unread_archive(name) is None, name


def test_a_tar_that_another_program_packed_is_named_as_what_it_is(tmp_path: Path):
    for kind, data in (("bzip2", b"BZh91AY&SY"), ("xz", b"\xfd7zXZ\0"), ("zip", GOOD), ("zstd", b"\x28\xb5\x2f\xfd")):
        with pytest.raises(UserError, match=f"is no tar archive but a {kind} one"):
            list_members(saved(tmp_path, data.ljust(600, b"\0"), "a.tar"), "")


def small_tree(folder: Path, *names: str) -> Path:
    return write(folder, {name: image_bytes(size=(8, 8 + number)) for number, name in enumerate(names)})


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("alias", ["alias", "zebra"])
def test_an_alias_beside_its_folder_is_refused_whatever_the_order(alias: str, first: bool, tmp_path: Path):
    source = tmp_path / "in"
    source.mkdir()
    link: Callable[[], None] = lambda: (source / alias).symlink_to("photo")  # noqa: E731
    if first:
        link()
    small_tree(source, "photo/cat/1.png", "photo/dog/2.png")
    if not first:
        link()
    with pytest.raises(UserError, match=f"{alias} links to photo, which lies in .*in too: its images would be counted"):
        list_source(source, None)


def test_folders_that_two_domains_share_by_links_are_read_in_both(tmp_path: Path):
    names = ("cat", "dog", "owl")
    small_tree(tmp_path, *(f"pool/{name}/1.png" for name in names))
    for domain in ("one", "two"):
        for name in names:
            (tmp_path / "in" / domain).mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / domain / name).symlink_to(f"../../pool/{name}")
    assert [image.found_at for image in list_source(tmp_path / "in", None).images] == [
        f"{domain}/{name}/1.png" for domain in ("one", "two") for name in names
    ]


@pytest.mark.parametrize("target", [".", "..", "photo", "photo/cat", "../outside"])
def test_a_link_to_a_folder_that_holds_it_is_refused(target: str, tmp_path: Path):
    source = small_tree(tmp_path / "in", "photo/cat/1.png")
    small_tree(tmp_path, "outside/2.png")
    (tmp_path / "outside" / "back").symlink_to(source / "photo" / "cat")
    (source / "photo" / "cat" / "loop").symlink_to(source / target)
    name = "photo/cat/loop/back" if target == "../outside" else "photo/cat/loop"
    with pytest.raises(UserError, match=f"^{name} links to a folder that holds it"):
        list_source(source, None)


def test_links_to_nowhere_pipes_and_devices_are_unreadable_with_a_reason(tmp_path: Path, fastclip: Program):
    small_tree(tmp_path / "in", "cat/1.png", "dog/2.png")
    (tmp_path / "in" / "cat" / "3.png").symlink_to("nowhere.png")
    (tmp_path / "in" / "cat" / "4.png").symlink_to("4.png")
    (tmp_path / "in" / "cat" / "5.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "in" / "cat" / "6.png")
    outcome = fastclip.here("shard", "pets", "--source", "in")
    assert outcome.code == 0 and "2 images in shards, 4 unreadable, 0 left over." in outcome.out
    rejected = (tmp_path / "shards" / "pets" / "rejected.jsonl").read_text()
    assert rejected.count("a pipe, a socket or a device") == 2 and "No such file" in rejected
    (tmp_path / "in" / "cat.zip").symlink_to("nowhere.zip")
    outcome = fastclip.here("shard", "pets", "--source", "in", "--overwrite")
    assert outcome.code == 2 and "cat.zip is no file, or a link to nowhere" in outcome.err


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz", ".parquet"])
def test_a_file_has_its_kind_by_the_name_that_was_given(suffix: str, tmp_path: Path):
    members = [("cat/1.png", image_bytes()), ("dog/2.png", image_bytes(size=(9, 9)))]
    files = {
        ".zip": zip_bytes([(NamedInfo(name.encode()), data) for name, data in members]),
        ".tar": tar_bytes(members),
        ".tgz": packed(tar_bytes(members)),
        ".parquet": parquet_bytes([data for _, data in members], ["cat", "dog"]),
    }
    write(tmp_path, {"blobs/3f2a": files[suffix]})
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / f"test{suffix}").symlink_to("../../blobs/3f2a")
    (tmp_path / "latest").symlink_to(f"snapshots/abc/test{suffix}")
    for source in (snapshot / f"test{suffix}", tmp_path / "latest"):
        listing = list_source(source, None)
        reader = BlobReader()
        assert listing.domains == (("test",) if suffix == ".parquet" else ("all",))
        assert [reader.read(image.blob) for image in listing.images] == [data for _, data in members]


def parquet_bytes(images: list[bytes], labels: list[str]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(images, pa.binary()), "label": labels}), file)
    return file.getvalue()
