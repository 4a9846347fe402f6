"""WebDataset shards of other programs as a source: every image with its own label, or an error that names the place."""

from __future__ import annotations

import itertools
import json
import random
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from archives import packed, tar_bytes, write_shard
from helpers import Program, Sharded, image_bytes, shard, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastclip.data.catalogue import DatasetCard, DomainCard
from fastclip.data.shards.manifest import read_manifest
from fastclip.data.shards.reader import OpenShard
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.layouts import list_source
from fastclip.data.sources.listing import Listing
from fastclip.data.sources.webdataset import list_webdataset
from fastclip.errors import FastclipError, IntegrityError, UserError

PNG = image_bytes()
JPG = image_bytes("JPEG")
PAIR = [("a.jpg", JPG), ("a.cls", b"0")]
CARD = DatasetCard(
    name="pets",
    title="Pets",
    classes=("cat", "dog", "guinea_pig"),
    domains=(DomainCard(name="photo", folders=("Photos",)), DomainCard(name="Real World")),
    aliases={"dog": ("hound",)},
)


def labelled(listing: Listing | None) -> dict[str, str]:
    assert listing is not None
    return {f"{image.domain}/{image.path}": listing.classes[image.label] for image in listing.images}


def listed(folder: Path, members: list[tuple[str, bytes]], names: bytes | None = b"cat\ndog\n") -> Listing | None:
    write_shard(folder / "test" / "0.tar", members)
    if names is not None:
        (folder / "classnames.txt").write_bytes(names)
    return list_webdataset(folder, None)


LAYOUTS = {
    "side by side": [("a.jpg", JPG), ("a.cls", b"0"), ("b.png", PNG), ("b.cls", b"1")],
    "images first": [("a.jpg", JPG), ("b.png", PNG), ("a.cls", b"0"), ("b.cls", b"1")],
    "labels first": [("b.cls", b"1"), ("a.cls", b"0"), ("a.jpg", JPG), ("b.png", PNG)],
    "mixed case": [("a.JPG", JPG), ("a.CLS", b"0"), ("b.Png", PNG), ("b.cls", b"1")],
    "other members": [
        *PAIR,
        ("a.txt", b"A cat"),
        ("a.seg.npy", b"mask"),
        ("b.png", PNG),
        ("b.cls", b"1"),
        ("x.pkl", b"cos\n"),
    ],
    "hidden files": [("._a.jpg", b"mac"), *PAIR, (".DS_Store", b""), ("b.png", PNG), ("b.cls", b" 1\n")],
    "json": [("a.jpg", JPG), ("a.json", b'{"label": 0}'), ("b.png", PNG), ("b.json", b'{"class": "dog", "sha": 1}')],
    "json and cls": [("a.jpg", JPG), ("a.json", b'{"url": "x"}'), ("a.cls", b"0"), ("b.png", PNG), ("b.cls", b"1")],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_members_are_paired_by_key_wherever_they_stand(tmp_path: Path, layout: str):
    listing = listed(tmp_path, LAYOUTS[layout])
    found = {path.lower(): name for path, name in labelled(listing).items()}
    assert found == {"test/cat/a.jpg": "cat", "test/dog/b.png": "dog"}
    reader = BlobReader()
    assert listing and [reader.read(image.blob) for image in listing.images] == [JPG, PNG]
    rejected = {row.path: row.reason for row in listing.rejected}
    if layout == "other members":
        assert rejected.keys() == {"test/0.tar/*.txt", "test/0.tar/*.seg.npy", "test/0.tar/*.pkl"}
    elif layout == "hidden files":
        assert rejected == {"test/0.tar/*": "2 members that are neither images nor labels"}
    else:
        assert not rejected


def test_folders_in_keys_several_shards_and_splits_are_kept_apart(tmp_path: Path):
    for split in ("test", "train"):
        for number in (0, 1, 10, 2, *range(3, 10)):
            members = [(f"cat/{number}.jpg", JPG), (f"cat/{number}.cls", b"0"), (f"x/{number}.jpg", JPG)]
            write_shard(tmp_path / split / f"{number}.tar", [*members, (f"x/{number}.cls", b"1")])
        (tmp_path / split / "nshards.txt").write_text("11\n")
    (tmp_path / "classnames.txt").write_text("cat\ndog")
    listing = list_webdataset(tmp_path, None)
    assert listing and listing.domains == ("test", "train") and len(listing.images) == 44
    assert {"test/cat/10.jpg", "train/dog/x/2.jpg"} < labelled(listing).keys()
    assert [image.label for image in listing.images] == ([0] * 11 + [1] * 11) * 2
    assert not listing.rejected


def test_names_of_classes_in_json_need_no_list(tmp_path: Path):
    rows = [("1", "dog"), ("2", "alarm_clock"), ("3", "dog")]
    fields = [(key, json.dumps({"label": name}).encode()) for key, name in rows]
    members = [(f"{key}.{ext}", data) for key, row in fields
               for ext, data in (("jpg", JPG), ("txt", b"text"), ("json", row))]  # fmt: skip
    write_shard(tmp_path / "00000.tar", members)
    write(tmp_path, {"00000_stats.json": b"{}"})
    listing = list_webdataset(tmp_path, None)
    assert listing and (listing.classes, listing.names) == (("alarm_clock", "dog"), ("alarm clock", "dog"))
    assert labelled(listing) == {"all/dog/1.jpg": "dog", "all/alarm_clock/2.jpg": "alarm_clock", "all/dog/3.jpg": "dog"}
    assert [row.path for row in listing.rejected] == ["00000.tar/*.txt", "00000_stats.json"]


def test_a_packed_shard_is_read_like_a_plain_one(tmp_path: Path):
    write(tmp_path, {"test/0.tar.gz": packed(tar_bytes(LAYOUTS["images first"])), "classnames.txt": b"cat\ndog"})
    listing = list_webdataset(tmp_path, None)
    assert listing and [BlobReader().read(image.blob) for image in listing.images] == [JPG, PNG]


@pytest.mark.parametrize(
    "text", ["", "-2", "+1", "1.0", "1e0", "0x1", "one", "1 2", "١", "10000000000", "\x00", "1\n2"]
)
def test_a_label_is_decimal_digits_or_an_error(tmp_path: Path, text: str):
    with pytest.raises(UserError, match=r"test/0\.tar: the label of 'b' is"):
        listed(tmp_path, [*PAIR, ("b.jpg", JPG), ("b.cls", text.encode())])


@pytest.mark.parametrize("text", ["1", " 1\n", "01", "000000001\r\n"])
def test_blanks_around_a_label_and_leading_zeros_are_no_matter(tmp_path: Path, text: str):
    found = labelled(listed(tmp_path, [*PAIR, ("b.jpg", JPG), ("b.cls", text.encode())]))
    assert found == {"test/cat/a.jpg": "cat", "test/dog/b.jpg": "dog"}


BAD = {
    "image without label": ([*PAIR, ("b.jpg", JPG)], "0.tar has an image without a label: 'b'"),
    "label without image": ([*PAIR, ("b.cls", b"1")], "0.tar has a label without an image: 'b.cls'"),
    "json without image": ([*PAIR, ("b.json", b'{"label": 1}')], "0.tar has a label without an image: 'b.json'"),
    "too large": (
        [*PAIR, ("b.jpg", JPG), ("b.cls", b"2")],
        r"label of 'b' is 2, classnames.txt has 2 classes \(0 to 1\)",
    ),
    "unknown name": ([*PAIR, ("b.jpg", JPG), ("b.json", b'{"cls": "cow"}')], "'b' is of the class 'cow'"),
    "true": ([*PAIR, ("b.jpg", JPG), ("b.json", b'{"cls": true}')], "the cls of 'b' is true"),
    "a float": ([*PAIR, ("b.jpg", JPG), ("b.json", b'{"label": 1.0}')], "the label of 'b' is 1.0"),
    "no json": ([*PAIR, ("b.jpg", JPG), ("b.json", b"{")], "'b.json' is not JSON"),
    "deep json": ([*PAIR, ("b.jpg", JPG), ("b.json", b"[" * 100_000)], "'b.json' is not JSON"),
    "large label": ([*PAIR, ("b.jpg", JPG), ("b.cls", b"1" * 2**21)], "2,097,152 bytes, too many for a label"),
    "one key, adjacent": (
        [*PAIR, ("a.JPG", JPG)],
        r"the key 'a' twice: 'a.jpg' at byte 512 and 'a.JPG' at byte [\d,]+",
    ),
    "one key, apart": ([*PAIR, ("b.jpg", JPG), ("b.cls", b"1"), ("a.CLS", b"1")], "the key 'a' twice"),
    "two images": ([*PAIR, ("a.png", PNG)], "two images of one key: 'a.jpg' and 'a.png'"),
    "a dot in the key": ([*PAIR, ("b.1.jpg", JPG), ("b.1.cls", b"1")], "'b.1.jpg': its key ends at the first dot, 'b'"),
    "a dot beside a good key": ([*PAIR, ("a.1.jpg", JPG)], "'a.1.jpg': its key ends at the first dot, 'a'"),
    "two images of unknown suffix": ([("a.x", JPG), ("a.y", PNG), ("a.cls", b"0")], "two images of one key"),
    "unknown suffix, no label": ([*PAIR, ("b.x", JPG)], "0.tar has an image without a label: 'b'"),
    "no label in a folder": ([("x/a.img", JPG), ("x/a.json", b'{"label": 0}'), ("y/b.jpg", JPG)], "a label: 'y/b'"),
    "two labels": (
        [*PAIR, ("b.jpg", JPG), ("b.json", b'{"label": 1, "cls": 0}')],
        "label and cls of 'b' say different",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_half_a_pair_is_an_error_that_names_shard_and_key(tmp_path: Path, case: str):
    members, message = BAD[case]
    with pytest.raises(UserError, match=message) as caught:
        listed(tmp_path, members)
    assert "test/0.tar" in str(caught.value) and caught.value.fix


def test_a_key_in_two_shards_is_an_error_with_both_places(tmp_path: Path):
    write_shard(tmp_path / "test" / "1.tar", PAIR)
    with pytest.raises(UserError, match=r"The key 'a' stands in test/0\.tar and in test/1\.tar"):
        listed(tmp_path, PAIR)


CLASS_LISTS = {
    "BOM and CRLF": (b"\xef\xbb\xbfcat\r\ndog\r\n", None),
    "no end of line": (b"cat\ndog", None),
    "blank lines at the end": (b"cat\ndog\n\n \n", None),
    "blank line inside": (b"cat\n\ndog\n", "a blank line 2"),
    "numbers and names": (b"0,cat\n1,dog\n", "a number before each name"),
    "numbers from 1": (b"1\tcat\n2\tdog\n", "a number before each name"),
    "too few": (b"cat\n", "label of 'b' is 1, classnames.txt has 1 classes"),
    "empty": (b"\n", "is empty"),
    "not UTF-8": (b"cat\ncaf\xe9\n", "not UTF-8"),
    "missing": (None, "labels are numbers"),
}


@pytest.mark.parametrize("case", CLASS_LISTS)
def test_a_class_list_is_whole_or_an_error(tmp_path: Path, case: str):
    names, message = CLASS_LISTS[case]
    if message is None:
        assert labelled(listed(tmp_path, LAYOUTS["side by side"], names)) == {
            "test/cat/a.jpg": "cat",
            "test/dog/b.png": "dog",
        }
    else:
        with pytest.raises(UserError, match=message):
            listed(tmp_path, LAYOUTS["side by side"], names)


def test_holes_and_empty_shards_are_errors(tmp_path: Path):
    for number in (0, 1, 3):
        write_shard(tmp_path / "test" / f"{number}.tar", [(f"{number}.jpg", JPG), (f"{number}.cls", b"0")])
    (tmp_path / "classnames.txt").write_text("cat\n")
    with pytest.raises(UserError, match=r"test lacks 2\.tar"):
        list_webdataset(tmp_path, None)
    (tmp_path / "test" / "3.tar").unlink()
    (tmp_path / "test" / "nshards.txt").write_text("4")
    with pytest.raises(UserError, match=r"test lacks 2\.tar, 3\.tar"):
        list_webdataset(tmp_path, None)
    (tmp_path / "test" / "nshards.txt").write_text("1")
    with pytest.raises(UserError, match=r"holds 1\.tar, which is not one of its 1 shards"):
        list_webdataset(tmp_path, None)
    (tmp_path / "test" / "nshards.txt").write_text("2")
    write_shard(tmp_path / "test" / "1.tar", [])
    with pytest.raises(UserError, match=r"test/1\.tar holds no image"):
        list_webdataset(tmp_path, None)


def numbered(*labels: int, first: int = 0) -> bytes:
    """A shard of images with these labels, whose keys are numbers from `first` on."""
    rows = [(f"{first + number}", str(label).encode()) for number, label in enumerate(labels)]
    return tar_bytes([(f"{key}.{ext}", data) for key, label in rows for ext, data in (("jpg", JPG), ("cls", label))])


ONE, TWO, THREE = (numbered(0, 1, first=first) for first in (10, 20, 30))
LIST = {"classnames.txt": b"cat\ndog\n"}
OTHER_LIST = b"dog\ncat\n"

READ: dict[str, tuple[dict[str, bytes], dict[str, int]]] = {
    # files → images of each domain
    "splits": ({"set-train-00.tar": ONE, "set-train-01.tar": TWO, "set-val-00.tar": ONE}, {"train": 4, "val": 2}),
    "sets": ({"photo-00.tar": ONE, "sketch-00.tar": ONE}, {"photo": 2, "sketch": 2}),
    "sets without numbers": ({"photo.tar": ONE, "sketch.tar": ONE}, {"photo": 2, "sketch": 2}),
    "a word that says nothing": ({"shard-00000.tar": ONE, "shard-00001.tar": TWO}, {"all": 4}),
    "the name of the set": ({"pets-00000.tar": ONE, "pets-00001.tar": TWO}, {"all": 4}),
    "a split in a file's name": ({"train/0.tar": ONE, "test-0.tar": ONE}, {"train": 2, "test": 2}),
    "from 1 of 2": ({"a-1-of-2.tar": ONE, "a-2-of-2.tar": TWO}, {"all": 4}),
    "from 1, counted": ({"1.tar": ONE, "2.tar": TWO, "nshards.txt": b"2"}, {"all": 4}),
    "the Hub's cache": ({"snapshots/0a1b/test/0.tar": ONE, "snapshots/0a1b/test/1.tar": TWO}, {"test": 4}),
    "four folders": ({"a/b/c/test/0.tar": ONE, "a/b/c/train/0.tar": ONE}, {"test": 2, "train": 2}),
    "sizes": ({"wds/160px/val/0.tar": ONE, "wds/full/val/0.tar": ONE}, {"160px-val": 2, "full-val": 2}),
    "a split without labels": ({"val/0.tar": ONE, "test/0.tar": numbered(-1, -1)}, {"val": 2}),
    "a list in each folder": ({f"{name}/{file}": data for name in ("x", "y")
                               for file, data in (LIST | {"0.tar": ONE}).items()}, {"x": 2, "y": 2}),
    "what programs leave": ({"0.tar": ONE, "._0.tar": b"", ".cache/1.tar.part": b"", "0.tar.md5": b""}, {"all": 2}),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_shards_of_any_name_and_depth_are_put_together_by_split(tmp_path: Path, case: str):
    files, domains = READ[case]
    beside = "snapshots/0a1b/" if "cache" in case else ""
    listing = list_source(write(tmp_path, files | {f"{beside}{name}": data for name, data in LIST.items()}), None)
    assert Counter(image.domain for image in listing.images) == domains
    assert all(name == ("dog" if path.endswith("1.jpg") else "cat") for path, name in labelled(listing).items())
    assert {row.path for row in listing.rejected if row.reason == "a row without a label"} == (
        {"test/0.tar/0.jpg", "test/0.tar/1.jpg"} if "without labels" in case else set()
    )


NOT_READ: dict[str, tuple[dict[str, bytes], str]] = {
    "a hole": ({"val-000000.tar": ONE, "val-000002.tar": THREE}, r"lacks val-000001\.tar: shards are numbered"),
    "the first": ({"val-000001.tar": TWO, "val-000002.tar": THREE}, r"lacks val-000000\.tar"),
    "the first two": ({"2.tar": ONE, "3.tar": TWO}, r"lacks 0\.tar, 1\.tar"),
    "all but one": ({"val-000001.tar": TWO}, r"lacks val-000000\.tar"),
    "a hole in a folder": ({"val/shard-0.tar": ONE, "val/shard-2.tar": THREE}, r"val lacks shard-1\.tar"),
    "a hole in one split": ({"train-0.tar": ONE, "val-0.tar": ONE, "val-2.tar": TWO}, r"lacks val-1\.tar"),
    "the last of three": ({"a-00000-of-00003.tar": ONE, "a-00001-of-00003.tar": TWO}, "lacks a-00002-of-00003"),
    "the first, counted": ({"1.tar": ONE, "2.tar": TWO, "nshards.txt": b"3"}, r"lacks 0\.tar"),
    "a count of two sets": ({"a-0.tar": ONE, "b-0.tar": ONE, "nshards.txt": b"1"}, "counts the shards of one set"),
    "a browser's copy": ({"val-0.tar": ONE, "val-0 (1).tar": ONE}, r"looks like a second copy of val-0\.tar"),
    "a copy by Windows": ({"val-0.tar": ONE, "val-0 - Copy.tar": ONE}, "looks like a second copy"),
    "a copy by wget": ({"0.tar": ONE, "0.tar.1": ONE}, r"holds 0\.tar\.1, which is not read"),
    "an unfinished download": ({"0.tar": ONE, "1.tar.part": TWO[:999]}, r"holds 1\.tar\.part"),
    "packed otherwise": ({"0.tar": ONE, "1.tar.zst": b"\x28\xb5\x2f\xfd"}, r"holds 1\.tar\.zst"),
    "two lists": ({"val/0.tar": ONE, "val/classnames.txt": OTHER_LIST}, "differ"),
    "two lists, side by side": ({"x/0.tar": ONE, "x/classnames.txt": OTHER_LIST, "y/0.tar": ONE}, "differ"),
    "shards above and below": ({"0.tar": ONE, "train/0.tar": TWO}, "belong to two sets"),
    "two splits of one name": ({"a/val-0.tar": ONE, "a/val/0.tar": TWO}, "belong to two sets"),
}


@pytest.mark.parametrize("case", NOT_READ)
def test_a_shard_that_is_missing_or_there_twice_is_named(tmp_path: Path, case: str):
    files, message = NOT_READ[case]
    with pytest.raises(UserError, match=message) as caught:
        list_source(write(tmp_path, files | LIST), None)
    assert caught.value.fix


def test_a_list_of_one_folder_is_not_for_another(tmp_path: Path):
    write(tmp_path, {"x/0.tar": ONE, "x/classnames.txt": LIST["classnames.txt"], "y/0.tar": ONE})
    with pytest.raises(UserError, match=r"x/classnames\.txt is not for .*y"):
        list_source(tmp_path, None)


def test_an_image_of_any_suffix_is_known_by_its_first_bytes(tmp_path: Path):
    members = [("a.jpe", JPG), ("a.cls", b"0"), ("b.img", PNG), ("b.txt", b"a dog"), ("b.json", b'{"label": 1}')]
    assert labelled(listed(tmp_path, members)) == {"test/cat/a.jpe": "cat", "test/dog/b.img": "dog"}


def test_images_whose_label_is_none_are_listed(tmp_path: Path):
    rows = {"b": b'{"label": null}', "c": b'{"cls": -1}', "d": b'{"class": "-1"}'}
    members = [
        *PAIR,
        *((f"{key}.jpg", JPG) for key in (*rows, "e")),
        *((f"{key}.json", row) for key, row in rows.items()),
    ]
    listing = listed(tmp_path, [*members, ("e.cls", b"-1\n")])
    assert labelled(listing) == {"test/cat/a.jpg": "cat"}
    assert listing and [(row.path, row.reason) for row in listing.rejected] == [
        (f"test/0.tar/{key}.jpg", "a row without a label") for key in (*rows, "e")
    ]


def test_folders_and_archives_of_other_layouts_are_no_shards(tmp_path: Path):
    assert list_webdataset(tmp_path, None) is None
    write(tmp_path / "one", {"photo/cat/1.png": PNG, "readme.txt": b""})
    assert list_webdataset(tmp_path / "one", None) is None
    notes = [("cat/1.jpg", JPG), ("cat/1.json", b'{"boxes": []}'), ("dog/1.jpg", JPG)]
    path = write_shard(tmp_path / "two" / "images.tar", notes)
    assert list_webdataset(tmp_path / "two", None) is None and list_webdataset(path, None) is None
    assert len(list_source(tmp_path / "two", None).images) == 2
    write_shard(tmp_path / "three" / "00000.tar", [("0.jpg", JPG), ("0.json", b'{"caption": "a cat"}')])
    with pytest.raises(UserError, match="image without a label: '0'"):
        list_webdataset(tmp_path / "three", None)


def test_a_card_gives_its_labels_whatever_the_order_was(tmp_path: Path):
    names = ["Guinea pig", "hound", "CAT"]
    for split in ("photos", "real_world"):
        members = [(f"{n}.{ext}", data) for n in range(3) for ext, data in (("jpg", JPG), ("cls", str(n).encode()))]
        write_shard(tmp_path / split / "0.tar", members)
    (tmp_path / "classnames.txt").write_text("\n".join(names))
    listing = list_webdataset(tmp_path, CARD)
    assert listing and (listing.classes, listing.domains) == (CARD.classes, ("photo", "Real World"))
    pets = {"cat/2.jpg": "cat", "dog/1.jpg": "dog", "guinea_pig/0.jpg": "guinea_pig"}
    assert labelled(listing) == {f"{domain}/{path}": name for domain in listing.domains for path, name in pets.items()}
    (tmp_path / "classnames.txt").write_text("cat\ndog\ncow")
    with pytest.raises(UserError, match="the class 'cow', which is none of Pets"):
        list_webdataset(tmp_path, CARD)
    (tmp_path / "classnames.txt").write_text("cat\ndog\nhound")
    with pytest.raises(UserError, match="two names of one class: 'dog', 'hound'"):
        list_webdataset(tmp_path, CARD)
    (tmp_path / "photos").rename(tmp_path / "test")
    (tmp_path / "classnames.txt").write_text("cat\ndog\nguinea pig")
    with pytest.raises(UserError, match="holds test, which is no domain of Pets"):
        list_webdataset(tmp_path, CARD)


def test_our_own_shards_are_a_source_that_gives_the_same_bytes(shapes: Sharded, tmp_path: Path):
    again = shard(shapes.folder, tmp_path, "shapes", shard_images=20)
    assert (again.folder / "manifest.json").read_bytes() == (shapes.folder / "manifest.json").read_bytes()


def test_our_own_shards_keep_what_was_unreadable_and_are_refused_when_damaged(tmp_path: Path):
    source = write(tmp_path / "source", {"photo/cat/1.png": PNG, "photo/cat/2.png": PNG[:30], "photo/dog/3.png": PNG})
    sharded = shard(source, tmp_path / "shards", "pets")
    listing = list_webdataset(sharded.folder, CARD)
    assert labelled(listing) == {"photo/cat/1.png": "cat", "photo/dog/3.png": "dog"}
    assert listing and [(row.path, row.domain, row.label) for row in listing.rejected] == [
        ("photo/cat/2.png", "photo", 0)
    ]
    tar = sharded.folder / "photo" / "0.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(IntegrityError, match=r"0\.tar"):
        list_webdataset(sharded.folder, None)


HOSTILE = ["../../outside", "/tmp/outside", "line\nbreak", "\u202egpj", "k" * 300, "pickle\x1b]52;c;eA==\x07"]


def test_hostile_keys_become_shards_whose_files_lie_where_they_must(tmp_path: Path, fastclip: Program):
    """A key is text: it names no file, not even on the way through the whole program."""
    members = [(f"{key}.{ext}", data) for key in HOSTILE for ext, data in (("jpg", JPG), ("cls", b"1"))]
    members = [*PAIR, *members, ("evil.pkl", b"cos\nsystem\n(S'touch x'\ntR.")]
    write_shard(tmp_path / "in" / "test" / "0.tar", members)
    (tmp_path / "in" / "classnames.txt").write_text("cat\ndog\n")
    outcome = fastclip.here("shard", "hostile", "--source", tmp_path / "in")
    assert outcome.code == 0, outcome.err
    assert "\x1b" not in outcome.out and "\u202e" not in outcome.out
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    ours = ("manifest.json", "rejected.jsonl", "classnames.txt", "test/0.tar", "test/0.index.jsonl")
    assert files == {"in/test/0.tar", "in/classnames.txt"} | {
        f"shards/hostile/{name}" for name in (*ours, "test/nshards.txt")
    }
    assert not Path("/tmp/outside.jpg").exists()
    (each,) = read_manifest(tmp_path / "shards" / "hostile").shards
    opened = OpenShard(tmp_path / "shards" / "hostile", each)
    assert {record.path for record in opened.records} == {"cat/a.jpg", *(f"dog/{key}.jpg" for key in HOSTILE)}
    with tarfile.open(tmp_path / "shards" / "hostile" / "test" / "0.tar") as tar:
        assert all(name.startswith("test/0") for name in tar.getnames())


def test_a_truncated_tar_gz_ends_as_two_lines_and_exit_code_5(tmp_path: Path, fastclip: Program):
    whole = packed(tar_bytes([(f"cat/{n}.png", PNG) for n in range(30)]))
    write(tmp_path / "in", {"photos.tar.gz": whole[:-20]})
    outcome = fastclip.here("shard", "pets", "--source", tmp_path / "in")
    assert (outcome.code, outcome.out) == (5, "")
    what, how = outcome.err.splitlines()
    assert "photos.tar.gz" in what and "at byte" in what and how.startswith("Fix:   ")


NAMINGS = (
    *("{split}/{n}.tar", "{split}/{n:05}.tar", "{split}/shard-{n:06}.tar", "{split}/part-{n:05}-of-{of:05}.tar"),
    *("set-{split}-{n:04}.tar", "{split}_{n}.tar.gz", "{split}-{n:06}-of-{of:06}.tgz", "set-{n:03}-{split}.tar"),
    *("snapshots/0a1b/{split}/{n}.tar", "wds/v1/{split}-{n:06}.TAR"),
)
SPLITS = (["train"], ["train", "val"], ["photo", "sketch"], ["test", "Real World", "x"])
SUFFIXES = {"jpg": JPG, "JPEG": JPG, "jpe": JPG, "img": JPG, "png": PNG, "webp": image_bytes("WEBP")}
LISTS = ("{}\n", "{}", "\ufeff{}\n", "{}\n\n \n")
FORMATS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
DAMAGE = ("no shard", "no label", "no image", "a key twice", "a dot in a key", "a cut")

Member = tuple[str, bytes]
Row = tuple[str, str, bytes]


def label_of(key: str, label: int | None, classes: list[str], said: str) -> list[Member]:
    """The members that say the label of an image; None is none."""
    if said.startswith("cls"):
        beside = [(f"{key}.json", b'{"url": "x"}')] if "json" in said else []
        return [(f"{key}.cls", b"-1" if label is None else str(label).encode()), *beside]
    value = label if label is None or said == "number" else classes[label]
    return [(f"{key}.json", json.dumps({"label": value, "sha": 1}).encode())]


def hurt(shards: dict[str, list[list[Member]]], kind: str, random_: random.Random) -> None:
    """Take something from the shards (name → samples), or put something into them, that must be noticed."""
    members = random_.choice(random_.choice(list(shards.values())))
    name, data = members[0]
    key, _, suffix = name.rpartition(".")
    if kind == "no shard":
        del shards[next(iter(shards))]
    elif kind == "no image":
        del members[0]
    elif kind == "no label":
        members[:] = [each for each in members if not each[0].endswith((".cls", ".json"))]
    elif kind == "a key twice":
        members.append((f"{key}.{suffix.swapcase()}", data))
    elif kind == "a dot in a key":
        members.append((f"{key}.1.jpg", JPG))


@st.composite
def shard_sets(draw: st.DrawFn, kinds: Sequence[str]) -> tuple[dict[str, bytes], list[Row], list[str]]:
    """The files of a set, its images (split, class, bytes; the class is empty without a label), the classes listed."""
    random_ = random.Random(draw(st.integers(0, 1 << 32)))
    names = st.sampled_from(("cat", "alarm clock", "T_Shirt", "café", "円", "n01443537"))
    classes = draw(st.lists(names, min_size=2, max_size=5, unique=True))
    splits, naming, form, kind = (draw(st.sampled_from(each)) for each in (SPLITS, NAMINGS, FORMATS, kinds))
    said = draw(st.sampled_from(("cls", "number", "name", "cls and json")))
    of = draw(st.integers(1 + (kind == "no shard"), 3))
    shards: dict[str, list[list[Member]]] = {}
    rows = []
    for split, n in itertools.product(splits, range(of)):
        samples = shards[naming.format(split=split, n=n, of=of)] = []
        for number in range(random_.randint(1, 5)):
            folder, last = random_.choice(("", "x/", "dog/")), f"{n}_{number}"
            key = f"{folder}{last}"
            label = random_.choice([*range(len(classes)), *range(len(classes)), None])
            suffix, data = random_.choice(list(SUFFIXES.items()))
            data += f"{split} {key}".encode()
            rows.append((split, "" if label is None else classes[label], data))
            others = [(f"{key}.txt", b"a cat"), (f"__MACOSX/{folder}._{last}.jpg", b"x")][: random_.randint(0, 2)]
            samples.append([(f"{key}.{suffix}", data), *label_of(key, label, classes, said), *others])
    hurt(shards, kind, random_)
    files = {"README.md": b"x", "._0.tar": b"x"} if random_.random() < 0.5 else {}
    for name, samples in shards.items():
        members = [member for sample in samples for member in sample]
        random_.shuffle(members)
        tar = tar_bytes(members, form)
        files[name] = packed(tar) if name.endswith("gz") else tar
    if kind == "a cut":
        name = random_.choice(list(shards))
        files[name] = files[name][: min(300, len(files[name]) // 2)]
    if said == "name" and random_.random() < 0.5:
        return files, rows, []
    beside = random_.choice(("", naming.rpartition("{split}")[0] if "/{split}" in naming else ""))
    text = random_.choice(LISTS).format(random_.choice(("\n", "\r\n")).join(classes))
    return {**files, f"{beside}classnames.txt": text.encode()}, rows, classes


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shard_sets(["none"]))
def test_any_shards_are_read_to_exactly_their_images_or_refused(drawn):
    files, rows, listed = drawn
    truth = [row for row in rows if row[1]]
    with tempfile.TemporaryDirectory() as folder:
        try:
            listing = list_source(write(Path(folder), files), None)
        except UserError as error:
            used = {name for _, name, _ in truth}
            assert error.fix and (len(used) < 2 or (listed and listed[0] not in used)), error
            return
        reader = BlobReader()
        read = [(image.domain, listing.classes[image.label], reader.read(image.blob)) for image in listing.images]
    split_of = {data: split for split, _, data in truth}
    assert sorted((split_of[data], name, data) for _, name, data in read) == sorted(truth)
    pairs = {(split_of[data], domain) for domain, _, data in read}
    assert len(pairs) == len({domain for _, domain in pairs}) == len({split for split, _ in pairs})
    assert len(pairs) == 1 or all(split in domain for split, domain in pairs)
    assert sum(row.reason == "a row without a label" for row in listing.rejected) == len(rows) - len(truth)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shard_sets(DAMAGE))
def test_shards_that_lack_something_or_have_it_twice_are_refused(drawn):
    with tempfile.TemporaryDirectory() as folder, pytest.raises(FastclipError):
        list_source(write(Path(folder), drawn[0]), None)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shard_sets(["none"]), shard_sets(DAMAGE))
def test_any_of_thousands_of_shards_are_read_to_exactly_their_images_or_refused(drawn, damaged):
    test_any_shards_are_read_to_exactly_their_images_or_refused.hypothesis.inner_test(drawn)
    test_shards_that_lack_something_or_have_it_twice_are_refused.hypothesis.inner_test(damaged)
