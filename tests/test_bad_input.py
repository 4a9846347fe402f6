"""Mistakes in users' folders, archives and lists: each ends as two lines that name it, or is named in the output.

The deeper tests of single readers are in test_tars, test_webdataset_source, test_shards_command and test_pixels; here a
whole command meets each fault.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from archives import tar_bytes
from copies import to_tar, to_zip
from helpers import image_bytes, run, write
from PIL import Image

from fastclip.data.shards.manifest import read_manifest, read_rejected

PNG = image_bytes()
JPEG = image_bytes("JPEG", (64, 64))
GOOD = {"in/cat/good.png": image_bytes(size=(6, 6)), "in/dog/good.png": image_bytes(size=(7, 7))}


def png_bomb() -> bytes:
    """20,000 × 20,000 pixels in 50 kB."""
    file = io.BytesIO()
    image = Image.new("1", (20_000, 20_000))
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


UNREADABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "I4 truncated JPEG": (lambda: image_bytes("JPEG", (640, 640))[:-2000], "does not decode"),
    "I5 empty file": (lambda: b"", "empty file"),
    "I5 web page": (lambda: b"<html>404", "not an image but a web page"),
    "I5 PDF": (lambda: b"%PDF-1.7 ...", "not an image but PDF"),
    "I5 letters": (lambda: b"dear reader", "not an image of a known format: it starts with b'dear rea'"),
    "I6 JPEG 2000": (lambda: image_bytes("JPEG2000"), "JPEG 2000, which is not decoded; convert it to JPEG or PNG"),
    "I8 16-bit PNG": (lambda: image_bytes(mode="I;16"), "16 bits a channel"),
    "I11 bomb": (png_bomb, "20000 × 20000 pixels, more than the budget of 67,108,864"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_image_that_cannot_be_used_is_listed_with_its_reason(case: str, tmp_path: Path, capsys):
    make, reason = UNREADABLE[case]
    write(tmp_path, GOOD | {"in/cat/bad.jpg": make()})
    assert run(tmp_path, "shard", "pets", "--source", "in") == 0
    assert f"cat/bad.jpg: {reason}" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "shards" / "pets")
    assert (manifest.domains[0].images, manifest.domains[0].unreadable) == (2, 1)
    (row,) = read_rejected(tmp_path / "shards" / "pets", manifest)
    assert reason in row.reason and row.label == 0


def foreign(members: list[tuple[str, bytes]], names: bytes = b"cat\ndog\n") -> dict[str, bytes]:
    return {"in/classnames.txt": names, "in/test/0.tar": tar_bytes(members), "in/test/nshards.txt": b"1\n"}


def pair(key: str, label: bytes) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", PNG), (f"{key}.cls", label)]


def cut_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cat/1.png", PNG)
    return file.getvalue()[:-10]


SHARD = ("shard", "pets", "--source", "in")


@dataclass(frozen=True)
class Bad:
    """Files, the command that meets them, the exit code, and what the error must say."""

    files: dict[str, bytes]
    code: int
    says: tuple[str, ...]
    command: tuple[str, ...] = SHARD


BAD = {
    "no such source": Bad({}, 2, ("There is no in.", "--source PATH")),
    "no images": Bad({"in/readme.txt": b""}, 2, ("in holds no images",)),
    "two layouts": Bad(
        {"in/cat/1.png": PNG, "in/a/cat/2.png": PNG},
        2,
        ("mixes layouts", "point --source at one of them, or move it away"),
    ),
    "nothing usable": Bad(
        {"in/cat/1.png": b"x", "in/dog/2.png": b"x"}, 2, ("None of the 2 images can be used", "not an image")
    ),
    "I1 cut tar": Bad({"in/a.tar": tar_bytes([("cat/1.png", PNG)])[:600]}, 5, ("a.tar",)),
    "I2 flipped header": Bad(
        {"in/a.tar": (lambda data: data[:3] + b"X" + data[4:])(tar_bytes([("cat/1.png", PNG)]))}, 5, ("a.tar",)
    ),
    "I3 cut tgz": Bad({"in/a.tgz": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03KN"}, 5, ("a.tgz",)),
    "cut zip": Bad({"in/a.zip": cut_zip()}, 5, ("a.zip is not a whole zip archive", "Download it again")),
    "I13 no label": Bad(foreign([*pair("a", b"0"), ("b.png", PNG)]), 2, ("0.tar", "'b'")),
    "I13 no image": Bad(foreign([*pair("a", b"0"), ("b.cls", b"1")]), 2, ("0.tar", "'b.cls'")),
    "I14 label -1": Bad(foreign(pair("a", b"-1")), 2, ("No image in", "has a label")),
    "I14 label 1.0": Bad(foreign(pair("a", b"1.0")), 2, ("0.tar", "'1.0'")),
    "I14 label too large": Bad(foreign(pair("a", b"2")), 2, ("2", "2 classes")),
    "I15 key twice": Bad(foreign([*pair("a", b"0"), *pair("a", b"1")]), 5, ("0.tar", "a.png")),
    "I17 path out of the archive": Bad({"in/a.tar": tar_bytes([("../../x/1.png", PNG)])}, 2, ("leads out of it",)),
    "I19 empty shard": Bad(foreign([]), 2, ("in holds no images",)),
    "I20 blank class": Bad(foreign(pair("a", b"0"), b"cat\n\ndog\n"), 2, ("classnames.txt",)),
    "unknown protocol": Bad(GOOD, 2, ("no protocol 'half'", "domainbed"), (*SHARD, "--protocol", "half")),
    "hostile name": Bad(
        {"in/cat/1.png": PNG}, 2, ("'../x' cannot be a dataset's name",), ("shard", "../x", "--source", "in")
    ),
    "into itself": Bad(
        {"shards/pets/cat/1.png": PNG},
        2,
        ("must not lie inside one another",),
        ("shard", "pets", "--source", "shards/pets"),
    ),
    "in each other": Bad(
        {"cat/1.png": PNG}, 2, ("must not lie inside one another", "--out"), ("shard", "pets", "--source", ".")
    ),
    "foreign tars in the way": Bad(
        {"in/cat/1.png": PNG, "shards/pets/test/0.tar": tar_bytes(pair("a", b"0"))},
        2,
        ("test/0.tar was not written by fastclip", "fastclip shards index pets"),
    ),
    "hole of a billion": Bad(
        foreign(pair("a", b"0")) | {"in/test/nshards.txt": b"999999999"}, 2, ("lacks 1.tar, 2.tar",)
    ),
    "not sharded": Bad({}, 2, ("pets is not sharded", "fastclip shard pets"), ("eval", "pets", "-b", "tiny")),
    "foreign, no manifest": Bad(
        {name.replace("in/", "shards/pets/"): data for name, data in foreign(pair("a", b"0")).items()},
        2,
        ("fastclip shards index pets",),
        ("eval", "pets", "-b", "tiny"),
    ),
    "wrong card": Bad({"in/cat/1.png": PNG, "shards/pets.toml": b"classes = 3"}, 2, ("pets.toml", "classes")),
    "unknown dataset": Bad({}, 2, ("'cars'", "officehome"), ("download", "cars")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_as_two_lines_that_name_it(case: str, tmp_path: Path, capsys):
    bad = BAD[case]
    write(tmp_path, bad.files)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert run(tmp_path, *bad.command) == bad.code
    error = capsys.readouterr().err
    assert error.count("\n") == 2 and error.startswith("Error: ") and "\nFix:   " in error, error
    for words in bad.says:
        assert words in error, error
    assert not (tmp_path / "shards" / "pets" / "manifest.json").exists()
    # Receipts of shards that turned out empty may stay; nothing that a reader would take does.
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.name.startswith(".") for path in made), made


GOOD_ANYWAY = {
    "I16 images first, labels later": foreign([("a.png", PNG), ("b.png", PNG), ("a.cls", b"0"), ("b.cls", b"1")]),
    "I16 extension in capitals": foreign([("a.PNG", PNG), ("a.cls", b"0")]),
    "I16 folders in keys": foreign(pair("d/a", b"0")),
    "I17 right to left and four bytes": {"in/dog/1.png": PNG, "in/cat/\u202egnp.\U0001f600.png": PNG},
    "I17 300 bytes": {"in/a.tar": tar_bytes([(f"cat/{'x' * 300}.png", PNG), ("dog/1.png", PNG)])},
    "I20 CRLF, BOM, trailing blanks": foreign(pair("a", b"0\n"), b"\xef\xbb\xbfcat\r\ndog\r\n\r\n"),
    "I10 one pixel": {"in/dog/1.png": PNG, "in/cat/1.png": image_bytes(size=(1, 1))},
    "I7 palette, alpha, grey, CMYK": {
        "in/dog/1.png": image_bytes(mode="P"),
        "in/cat/2.png": image_bytes(mode="RGBA"),
        "in/cat/3.png": image_bytes(mode="LA"),
        "in/cat/4.jpg": image_bytes("JPEG", mode="CMYK"),
    },
    "I6 GIF, BMP, TIFF": {
        "in/cat/1.gif": image_bytes("GIF", mode="P"),
        "in/cat/2.bmp": image_bytes("BMP"),
        "in/dog/3.tiff": image_bytes("TIFF"),
    },
}


@pytest.mark.parametrize("case", GOOD_ANYWAY)
def test_what_is_odd_but_whole_is_taken(case: str, tmp_path: Path, capsys):
    write(tmp_path, GOOD_ANYWAY[case])
    assert run(tmp_path, *SHARD) == 0
    out = capsys.readouterr().out
    assert "\u202e" not in out, "no character that turns the line around"
    assert read_manifest(tmp_path / "shards" / "pets").domains[0].unreadable == 0


def test_names_that_would_leave_the_folder_never_become_paths(tmp_path: Path, capsys):
    """I17: zip and tar entries, domains, and a hub's parquet names are text, never places."""
    evil = {f"cat/{name}": PNG for name in ("..png", "a\nb.png", "a;rm -rf.png", "$(id).png", "pipe:x.png")}
    evil["dog/1.png"] = PNG
    for make, name in ((to_zip, "a.zip"), (to_tar, "a.tar")):
        make(evil, tmp_path / "in" / name)
        assert run(tmp_path, "shard", "pets", "--source", f"in/{name}", "--overwrite") == 0
        assert {path.name for path in tmp_path.iterdir()} == {"in", "shards"}
        assert {path.name for path in (tmp_path / "shards" / "pets" / "all").iterdir()} == {
            *("0.tar", "0.index.jsonl", "nshards.txt")
        }


def test_manifests_of_another_version_say_so(tmp_path: Path, capsys):
    write(tmp_path, {"shards/pets/manifest.json": json.dumps({"format": "fastclip-shards", "version": 1}).encode()})
    assert run(tmp_path, "eval", "pets", "-b", "tiny") == 5
    assert "version 1" in capsys.readouterr().err
