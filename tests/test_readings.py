"""Any tree of folders is read to exactly its labels, or refused: never to others."""

from __future__ import annotations

import posixpath
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import Program, image_bytes, write
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fastclip.data.catalogue import find_card
from fastclip.data.sources.layouts import list_source
from fastclip.data.sources.listing import Listing
from fastclip.data.sources.readings import parse_layout, read_tree
from fastclip.data.sources.splits import split_of
from fastclip.errors import FastclipError, UserError

THREE = ("circle", "square", "star")
CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"


def images_in(*folders: str, count: int = 2) -> dict[str, bytes]:
    """Files 0.png, 1.png … in each folder; no two alike."""
    return {f"{folder}/{n}.png": image_bytes() + f"{folder} {n}".encode() for folder in folders for n in range(count)}


def grid(*above: str, classes: tuple[str, ...] = THREE) -> dict[str, bytes]:
    return images_in(*(f"{each}/{name}" for each in above for name in classes))


def found(listing: Listing) -> dict[str, tuple[str, str]]:
    """Where each image lies → its domain and class."""
    return {image.found_at: (image.domain, listing.classes[image.label]) for image in listing.images}


READ: dict[str, tuple[Mapping[str, bytes], str, dict[str, str]]] = {
    # files, layout, folder above images → DOMAIN/CLASS
    "classes": (images_in(*THREE), "class", {name: f"all/{name}" for name in THREE}),
    "domains": (grid("flat", "night"), "domain/class", {f"flat/{name}": f"flat/{name}" for name in THREE}),
    "a root folder": (grid("my/flat", "my/night"), "skip/domain/class", {"my/flat/star": "flat/star"}),
    "folders repeated, as on Kaggle": (
        grid("seg_train/seg_train", "seg_test/seg_test"),
        "split/class",
        {"seg_test/seg_test/star": "seg_test/star"},
    ),
    "images/ below one domain": (grid("amazon/images", "dslr"), "domain/class", {"amazon/images/star": "amazon/star"}),
    "splits": (grid("train", "val"), "split/class", {"val/star": "val/star"}),
    "splits above domains": (
        grid("train/flat", "test/flat", "train/night", "test/night"),
        "split/domain/class",
        {"test/night/star": "night-test/star"},
    ),
    "splits below domains": (
        grid("flat/train", "flat/test", "night/train", "night/test"),
        "domain/split/class",
        {"night/test/star": "night-test/star"},
    ),
    "splits below classes": (
        images_in(*(f"{name}/{split}" for name in THREE for split in ("train", "test"))),
        "class/split",
        {"star/test": "test/star"},
    ),
    "a root above splits": (
        grid("data/set/train", "data/set/val"),
        "skip/skip/split/class",
        {"data/set/val/star": "val/star"},
    ),
    "one folder below each class": (
        images_in(*(f"{n}/{n.upper()}" for n in THREE)),
        "class",
        {"star/STAR": "all/star"},
    ),
    "a class that one domain lacks": (
        grid("flat") | grid("night", classes=THREE[:2]),
        "domain/class",
        {"night/square": "night/square"},
    ),
    "WordNet's numbers": (
        grid("art", "photo", classes=("n01443537", "n01484850", "n01614925")),
        "domain/class",
        {"art/n01443537": "art/n01443537"},
    ),
    "numbers as classes of one domain": (
        grid("mnist", classes=tuple("0123456789")),
        "domain/class",
        {"mnist/7": "mnist/7"},
    ),
    "classes with a word of splits": (
        images_in("train", "test tube", "train_station", "art_gallery", "bus"),
        "class",
        {"train": "all/train"},
    ),
    "words of one letter": (
        grid("set", classes=("猫", "犬", "🐱")),
        "domain/class",
        {"set/猫": "set/猫"},
    ),
    "splits with other classes": (
        grid("train") | grid("test", classes=("dog", "cat")),
        "split/class",
        {"test/dog": "test/dog"},
    ),
    "numbered classes": (grid("train", classes=("c0", "c1", "c2")), "split/class", {"train/c1": "train/c1"}),
    "numbered domains": (
        grid("batch_1", "batch_2", classes=("dog", "cat", "mug", "bed", "bus")),
        "domain/class",
        {"batch_1/dog": "batch_1/dog"},
    ),
}


@pytest.mark.parametrize("case", READ)
def test_a_tree_that_can_be_read_in_one_way_is_read_so(case: str, tmp_path: Path):
    files, layout, expected = READ[case]
    listing = list_source(write(tmp_path, dict(files)), None)
    assert listing.layout == f"{layout}/image" and not listing.rejected
    places = {posixpath.dirname(path): "/".join(place) for path, place in found(listing).items()}
    assert len(listing.images) == len(files) and expected.items() <= places.items()


REFUSED: dict[str, tuple[Mapping[str, bytes], str, str]] = {
    # files, a part of the error, a part of the cure
    "parts of classes": (
        images_in(*(f"{name}/{part}" for name in THREE for part in "ab")),
        r"as domain/class \(domains circle, square, star; classes a, b\), or as class \(domains all; classes circle",
        "--layout domain/class or --layout class",
    ),
    "videos of classes": (
        images_in(*(f"{name}/video_{n}" for name in THREE for n in range(4))),
        "two ways",
        "--layout class",
    ),
    "disjoint second folders": (
        images_in("dog/rex", "dog/lassie", "cat/tom", "cat/felix"),
        "two ways",
        "--layout class",
    ),
    "as many domains as classes": (grid("a", "b", "c"), "two ways", "--layout domain/class"),
    "domains below classes": (
        images_in(*(f"{name}/{domain}" for name in ("dog", "cat") for domain in ("photo", "sketch", "art"))),
        "two ways",
        "--layout class",
    ),
    "three folders that all say something": (
        images_in(*(f"{a}/{b}/{c}" for a in ("x", "y") for b in THREE for c in ("lamp", "sofa"))),
        "as skip/domain/class .* or as class",
        "--layout skip/domain/class or --layout class",
    ),
    "masks beside images": (
        images_in("set/images", "set/masks"),
        "images is hardly a class",
        "if all are images, --layout domain/class",
    ),
    "masks of classes": (
        grid("set/images", "set/segmentations", classes=("dog", "cat", "mug", "bed")),
        "images is hardly a class or a domain",
        "if all are images, --layout skip/domain/class",
    ),
    "masks in each class": (
        images_in(*(f"{name}/{kind}" for name in THREE for kind in ("images", "masks"))),
        "images is hardly a class or a domain",
        "Keep the images alone",
    ),
    "images without labels in one folder of their split": (
        grid("train", "val") | images_in("test/unknown"),
        "unknown lies in test alone",
        "--layout split/class if",
    ),
    "images without labels in numbered folders of their split": (
        grid("train") | images_in("test/trunk00", "test/trunk01"),
        "trunk00 lies in test alone",
        "--layout split/class if",
    ),
    "annotated images": (
        images_in(*(f"VOC2012/{name}" for name in ("JPEGImages", "SegmentationClass", "SegmentationObject"))),
        "JPEGImages is hardly a class",
        "Keep the images alone",
    ),
    "numbered parts": (
        images_in("HAM10000_images_part_1", "HAM10000_images_part_2"),
        "they differ in a number alone",
        "--layout class if they are classes",
    ),
    "lettered parts": (images_in("part_a", "part_b"), "they differ in a number alone", "--layout class"),
    "numbered parts of one class": (images_in(*(f"out/{n:05}" for n in range(3))), "of the one class out", "--layout"),
    "splits beside others": (
        images_in("bounding_box_train", "bounding_box_test", "gt_bbox", "query"),
        "bounding_box_test is hardly a class",
        "--layout class",
    ),
    "images without labels beside classes": (images_in("cat", "dog", "test"), "test is hardly a class", "class if"),
    "classes that sound like splits": (
        images_in("positive test", "negative test"),
        "negative test is hardly a class",
        "--layout class if they are classes",
    ),
    "classes that sound like splits in domains": (
        grid("a", "b", classes=("positive test", "negative test")),
        "as domain/class",
        "--layout domain/class",
    ),
    "views of classes": (
        images_in(*(f"{name}/{view}" for name in ("dog", "cat") for view in ("front", "back", "left", "right", "top"))),
        "two ways",
        "--layout class",
    ),
    "a class that sounds like a split beside deeper ones": (
        images_in("photo/dog", "photo/test tube", "sketch/dog/old", "sketch/test tube/old"),
        "mixes layouts",
        "Move",
    ),
    "a copy in the copy": (
        grid("set", "set/set"),
        "mixes layouts",
        "One may be a copy of the other: point --source at one of them, or move it away.",
    ),
    "odd images beside splits": (
        grid("train", "val") | images_in("Meta", "test"),
        "Meta/0.png lies beside val/star/0.png",
        "Move the odd ones away.",
    ),
    "folders of several depths": (
        images_in("root/b/barn", "root/b/bakery/shop", "root/a/abbey"),
        "mixes layouts",
        "--layout skip/class (classes a, b) or --layout skip/path (classes a_abbey, b_bakery_shop, b_barn)",
    ),
    "one class": (images_in("data"), "one class, 'data'", "Labels in a table"),
    "one class in two domains": (images_in("flat/dog", "night/dog"), "two ways", "--layout domain/class or"),
    "splits alone": (
        images_in("cars_train", "cars_test"),
        "no class folders: .*, which is a split",
        "Labels in a table",
    ),
    "no folders": ({"1.png": b"", "2.png": b""}, "no class folders: 1.png lies in none", "DOMAIN/CLASS/IMAGE"),
    "images at two depths": (
        images_in("dog", "cat/tabby"),
        "mixes layouts: dog/0.png lies beside cat/tabby/0.png",
        "--layout path",
    ),
    "an archive that is not read": (images_in(*THREE) | {"more.rar": b"Rar!"}, r"more\.rar, an archive", "Unpack it"),
    "labels in .cls files": (
        images_in(*THREE) | {"star/0.cls": b"1"},
        "star/0.png has its label beside it",
        "Put such pairs",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tree_that_can_be_read_in_two_ways_or_in_none_is_refused_with_the_cure(case: str, tmp_path: Path):
    files, message, cure = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        list_source(write(tmp_path, dict(files)), None)
    assert cure in error.value.fix


@pytest.mark.parametrize(
    ("files", "layout", "domains", "classes"),
    [
        (images_in(*(f"{n}/{part}" for n in THREE for part in "ab")), "class", ["all"], list(THREE)),
        (images_in(*(f"{n}/{part}" for n in THREE for part in "ab")), "domain/class", list(THREE), ["a", "b"]),
        (images_in("animals/dog", "animals/cat/tabby"), "path", ["all"], ["cat_tabby", "dog"]),
        (images_in("dog", "cat/tabby"), "class", ["all"], ["cat", "dog"]),
        (images_in("animals/dog/images", "animals/cat/tabby"), "path", ["all"], ["cat_tabby", "dog"]),
        (images_in("train", "car/blue", "bus/red"), "class", ["all"], ["bus", "car", "train"]),
        (images_in("x/a/dog", "x/b/dog", "y/a/cat"), "skip/domain/class", ["a", "b"], ["cat", "dog"]),
        (images_in("root/x/a/dog", "root/y/a/cat"), "domain/skip/class", ["x", "y"], ["cat", "dog"]),
        (images_in("x/dog/tiny", "y/cat", "y/dog"), "domain/path", ["x", "y"], ["cat", "dog", "dog_tiny"]),
    ],
)
def test_a_layout_says_what_folders_mean(files, layout: str, domains: list[str], classes: list[str], tmp_path: Path):
    listing = list_source(write(tmp_path, files), None, layout=layout)
    assert (list(listing.domains), list(listing.classes)) == (domains, classes)
    assert len(listing.images) == len(files)


def test_a_layout_that_leaves_out_a_folder_is_read_in_the_one_way_that_has_classes_or_refused(tmp_path: Path):
    source = write(tmp_path, images_in(*(f"root/{n}/{part}" for n in THREE for part in "ab")))
    with pytest.raises(UserError, match="two ways") as error:
        list_source(source, None, layout="domain/class")
    assert "--layout skip/domain/class or --layout domain/class/skip" in error.value.fix
    assert list_source(source, None, layout="domain/class/skip").classes == THREE
    assert list_source(source, None, layout="skip/domain/class").classes == ("a", "b")
    assert list_source(source, None, layout="skip/class").classes == THREE
    assert list_source(source, None, layout="class").classes == THREE
    source = write(tmp_path / "photos", images_in("photo/dog/new", "photo/cat/new"))
    assert list_source(source, None, layout="domain/class").classes == ("cat", "dog")


def test_the_first_folder_is_the_split_where_the_layout_says_so(tmp_path: Path):
    listing = list_source(
        write(tmp_path, images_in(*(f"train_set/{name}" for name in ("birds/a", "birds/b", "fish/c")))),
        None,
        layout="split/path",
    )
    assert (listing.domains, listing.classes) == (("train_set",), ("birds_a", "birds_b", "fish_c"))


def test_two_paths_are_never_joined_to_one_class(tmp_path: Path):
    with pytest.raises(UserError, match="would both be the class dog_old_red"):
        list_source(write(tmp_path, images_in("dog_old/red", "dog/old_red", "cat")), None, layout="path")


@pytest.mark.parametrize(
    "layout", ["", "klass", "domain", "class/class", "path/class", "class/path", "domain/domain/class"]
)
def test_a_layout_that_is_none_is_refused(layout: str):
    with pytest.raises(UserError, match="is no layout"):
        parse_layout(layout)


def test_one_split_is_taken_and_the_others_are_listed(tmp_path: Path):
    files = grid("train/flat", "test/flat", "train/night", "test/night")
    listing = list_source(write(tmp_path, files), None, split="TEST")
    assert listing.domains == ("flat", "night") and len(listing.images) == 12
    assert {row.reason for row in listing.rejected} == {"of the split train, which is not asked for"}
    assert len(listing.images) + len(listing.rejected) == len(files)
    with pytest.raises(UserError, match="no split 'validation'; it has test, train"):
        list_source(tmp_path, None, split="validation")


def test_an_unlabelled_split_beside_labelled_ones_is_left_over_by_name(tmp_path: Path):
    files = grid("train", "val") | images_in("test", "seg_pred/seg_pred")
    listing = list_source(write(tmp_path, files), None)
    assert listing.domains == ("train", "val") and len(listing.images) == 12
    assert [(row.path, row.reason) for row in listing.rejected] == [
        (f"{folder}/{n}.png", f"in {name}, a split without class folders")
        for folder, name in (("seg_pred/seg_pred", "seg_pred"), ("test", "test"))
        for n in range(2)
    ]


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("Training Data", "train"), ("seg_test", "test"), ("val2017", "validation"),
     ("TestImages", "test"), ("imagenet-val", "validation"), ("trainer", None), ("contest", None), ("valley", None)],
)  # fmt: skip
def test_splits_are_known_by_a_word_in_their_names(name: str, split: str | None):
    assert split_of(name) == split


LEFTOVERS = {
    "__MACOSX/circle/._0.png": b"x", "circle/._0.png": b"x", "circle/.DS_Store": b"x", "circle/Thumbs.db": b"x",
    "@eaDir/0.png/SYNOPHOTO_THUMB_S.jpg": image_bytes("JPEG"), ".ipynb_checkpoints/0-checkpoint.png": image_bytes(),
    "star/.ipynb_checkpoints/0-checkpoint.png": image_bytes(), ".Trash-1000/files/9.png": image_bytes(),
    ".git/objects/ab/cd": b"x", "README.md": b"x", "LICENSE": b"x", "labels.csv": b"x", "desktop.ini": b"x",
    "circle/0.json": b"{}", "$RECYCLE.BIN/S-1/1.png": image_bytes(), "lost+found/1.png": image_bytes(),
    "circle/Thumbnails/1.png": image_bytes(), "thumbnails/1.png": image_bytes(),
}  # fmt: skip


def test_every_file_is_an_image_a_rejection_or_a_leftover_that_a_rule_knows(tmp_path: Path, fastclip: Program):
    suffixes = ("jpe", "jpg_large", "jpg!d", "jpg.1", "jpg?w=64", "pjpeg", "", "dat")
    odd = {f"star/{n}.{suffix}".rstrip("."): image_bytes("JPEG", (9, 9 + n)) for n, suffix in enumerate(suffixes)}
    broken = {"square/a.heic": b"\0\0\0\x18ftypheic", "square/b.jpg": b"", "square/c.xyz": b"?", "circle/d": b"what"}
    files = {f"in/{path}": data for path, data in (images_in(*THREE) | LEFTOVERS | odd | broken).items()}
    files["in/notes.xyz"] = b"outside of all class folders"
    write(tmp_path, files)
    outcome = fastclip.here("shard", "x", "--source", tmp_path / "in")
    assert outcome.code == 0, outcome
    counts = f"{6 + len(odd)} images in shards, {len(broken)} unreadable, {len(LEFTOVERS) + 1} left over."
    assert counts in outcome.out
    assert sum(map(int, (word for word in counts.split() if word.isdigit()))) == len(files)
    for line in ("left by macOS", "a hidden file", "no image, and in no class folder", "square/c.xyz: "):
        assert line in outcome.out or line in (tmp_path / "shards" / "x" / "rejected.jsonl").read_text(), line


def test_with_a_card_too_every_file_is_accounted_for(tmp_path: Path):
    card = find_card("pacs")
    assert card is not None
    files = images_in("photo/dog", "sketch/dog") | {"photo/dog/b.jpe": image_bytes("JPEG"), "photo/dog/c.q": b"?"}
    others = {"photo/.thumbnails/dog/0.png": image_bytes(), "photo/dog/Thumbs.db": b"x", "photo/x.q": b"?"}
    others["cartoon/dog/x.q"] = b"a domain without an image"
    listing = list_source(write(tmp_path, files | others), card)
    assert {image.found_at for image in listing.images} == files.keys()
    assert {row.path for row in listing.rejected} == others.keys()


def test_the_only_domain_of_a_card_may_have_no_folder(tmp_path: Path):
    card = find_card("imagenet-r")
    assert card is not None
    files = images_in(*card.classes[:2]) | {f"{card.classes[0]}/x.q": b"?"}
    listing = list_source(write(tmp_path, files), card)
    assert {image.found_at for image in listing.images} == files.keys() and not listing.rejected


def test_tables_without_images_are_left_over_and_folders_of_images_beside_tables_are_refused(tmp_path: Path):
    write(tmp_path, images_in(*THREE))
    pq.write_table(pa.table({"file_name": ["star/0.png"], "label": ["circle"]}), tmp_path / "metadata.parquet")
    listing = list_source(tmp_path, None)
    assert listing.classes == THREE and [row.path for row in listing.rejected] == ["metadata.parquet"]
    table = pa.table({"image": [image_bytes(), image_bytes()], "label": ["dog", "cat"]})
    pq.write_table(table, tmp_path / "test.parquet")
    (tmp_path / "metadata.parquet").unlink()
    with pytest.raises(UserError, match="holds folders of images"):
        list_source(tmp_path, None)


def zipped(files: Mapping[str, bytes], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_an_archive_for_each_domain_is_a_domain_also_with_equal_names_in_it(tmp_path: Path):
    for name in ("flat", "night"):
        zipped(images_in(*THREE), tmp_path / f"{name}.zip")
    listing = list_source(tmp_path, None)
    assert (listing.domains, listing.classes, len(listing.images)) == (("flat", "night"), THREE, 12)
    for name in ("flat", "night"):
        (tmp_path / f"{name}.zip").rename(tmp_path / ("photo.zip" if name == "flat" else "sketch.zip"))
    card = find_card("pacs")
    assert card is not None
    for name in ("photo", "sketch"):
        zipped(images_in("dog", "house"), tmp_path / "pacs" / f"{name}.zip")
    assert list_source(tmp_path / "pacs", card).domains == ("photo", "sketch")


def test_an_archive_for_each_class_or_split_is_one_too(tmp_path: Path):
    for name in THREE:
        zipped({f"{n}.png": image_bytes() for n in range(2)}, tmp_path / "classes" / f"{name}.zip")
    assert list_source(tmp_path / "classes", None).classes == THREE
    for name in ("train", "test"):
        zipped(images_in(*THREE), tmp_path / "splits" / f"my_{name}.zip")
    listing = list_source(tmp_path / "splits", None)
    assert (listing.domains, listing.layout) == (("my_test", "my_train"), "split/class/image")


def test_numbered_archives_are_pieces_or_domains_and_none_may_be_missing(tmp_path: Path):
    for number in (1, 2):
        zipped({f"{n}/{number}.png": image_bytes() + bytes([number]) for n in THREE}, tmp_path / f"part{number}.zip")
    with pytest.raises(UserError, match=r"part1\.zip and part2\.zip as pieces, or each as a domain") as error:
        list_source(tmp_path, None)
    assert "--layout class" in error.value.fix
    assert list_source(tmp_path, None, layout="class").domains == ("all",)
    assert list_source(tmp_path, None, layout="domain/class").domains == ("part1", "part2")
    for number, name in enumerate(THREE):
        zipped(images_in(name), tmp_path / "apart" / f"piece_{number}.zip")
    assert list_source(tmp_path / "apart", None).domains == ("all",)
    (tmp_path / "apart" / "piece_1.zip").unlink()
    with pytest.raises(UserError, match=r"lacks piece_1\.zip"):
        list_source(tmp_path / "apart", None)


def test_archives_of_one_class_each_are_classes_also_by_number(tmp_path: Path):
    wordnet = ("n01443537", "n01484850", "n01614925")
    for name in (*wordnet, "ILSVRC2012_img_val"):
        zipped({f"{name}_{n}.png": image_bytes() for n in range(2)}, tmp_path / "imagenet" / f"{name}.zip")
    with pytest.raises(UserError, match="ILSVRC2012_img_val is hardly a class"):
        list_source(tmp_path / "imagenet", None)
    (tmp_path / "imagenet" / "ILSVRC2012_img_val.zip").unlink()
    assert list_source(tmp_path / "imagenet", None).classes == wordnet
    for name in ("0", "1", "3"):
        zipped({"1.png": image_bytes() + name.encode()}, tmp_path / "digits" / f"{name}.zip")
        zipped({"1.png": image_bytes() + name.encode()}, tmp_path / "parts" / f"part{name}.zip")
    assert list_source(tmp_path / "digits", None).classes == ("0", "1", "3")
    with pytest.raises(UserError, match="differ in a number alone") as error:
        list_source(tmp_path / "parts", None)
    assert "--layout class if they are classes" in error.value.fix


def test_a_layout_of_pieces_never_makes_archives_into_classes(tmp_path: Path):
    for number in (1, 2):
        zipped({f"{name}/1.png": image_bytes() + bytes([number]) for name in THREE}, tmp_path / f"part{number}.zip")
    assert list_source(tmp_path, None, layout="domain/class").domains == ("part1", "part2")
    with pytest.raises(UserError, match=r"lies in both part1\.zip and part2\.zip"):
        list_source(tmp_path, None, layout="class")


@pytest.mark.parametrize("packing", ["zip", "folder"])
def test_an_archive_in_an_archive_is_refused_because_its_images_would_be_missed(packing: str, tmp_path: Path):
    inner = zipped(images_in("star"), tmp_path / "inner.zip").read_bytes()
    outer = zipped(images_in(*THREE) | {"more.zip": inner}, tmp_path / "in" / "outer.zip")
    with pytest.raises(UserError, match=r"more\.zip, an archive that is not read \(in an archive\)") as error:
        list_source(outer if packing == "zip" else outer.parent, None)
    assert error.value.fix == "Unpack outer.zip and move it out of --source."
    texts = {"labels.csv.gz": b"\x1f\x8b", "__MACOSX/._more.zip": b"x"}
    zipped(images_in(*THREE) | texts, outer)
    assert len(list_source(outer.parent, None).images) == 6


def test_a_source_that_is_not_there_is_said_to_be_absent(tmp_path: Path):
    with pytest.raises(UserError, match="There is no "):
        list_source(tmp_path / "nowhere", None)


@pytest.mark.parametrize("inside", ["", "set/"])
def test_an_archive_beside_its_unpacked_folder_is_counted_once(inside: str, tmp_path: Path):
    files = images_in(*THREE)
    zipped({f"{inside}{path}": data for path, data in files.items()}, tmp_path / "set.zip")
    write(tmp_path / "set", files)
    listing = list_source(tmp_path, None)
    assert len(listing.images) == 6 and [row.path for row in listing.rejected] == ["set.zip"]
    (tmp_path / "set" / "star" / "0.png").write_bytes(b"other bytes than in the archive")
    with pytest.raises(FastclipError):
        list_source(tmp_path, None)


CLASS_NAMES = st.sampled_from(("dog", "alarm clock", "T_Shirt", "n01443537", "étoile", "円", "bus", "train set of toys",
                               "Ice cream", "mug", "sofa", "tv monitor"))  # fmt: skip
DOMAIN_NAMES = st.sampled_from(("photo", "Real World", "sketch", "dslr", "day", "cartoon", "art_painting"))
SPLIT_NAMES = st.sampled_from((("train", "test"), ("Training", "Testing"), ("seg_train", "seg_test"), ("val",)))
PARTS = st.sampled_from((("001", "002"), ("a", "b", "c"), ("video_1", "video_2"), ("take 1", "take 2", "take 3")))
EXTRAS = (".DS_Store", "README.md", "{}/Thumbs.db", "__MACOSX/{}/._1.png", ".cache/{}/1.png", "labels.csv")


@st.composite
def truths(draw: st.DrawFn) -> tuple[dict[str, tuple[str, str]], dict[str, bytes]]:
    """A tree: path of each image → its domain (with its split) and class; and other files."""
    classes = draw(st.lists(CLASS_NAMES, min_size=2, max_size=6, unique=True))
    domains = draw(st.lists(DOMAIN_NAMES, max_size=3, unique=True))
    splits = draw(st.one_of(st.just(()), SPLIT_NAMES))
    parts = draw(st.one_of(st.just(("",)), PARTS))
    root = draw(st.sampled_from(("", "my set/", "a/b/")))
    order = draw(st.permutations(("split", "domain", "class")))
    wrapper = draw(st.sampled_from(("", "images/")))
    random_ = random.Random(draw(st.integers(0, 9)))
    places = {}
    for domain in domains or [""]:
        here = [name for name in classes if random_.random() < 0.8] or classes[:2]
        for split in splits or ("",):
            for name in here:
                for number in range(random_.randint(1, 2)):
                    said = {"domain": domain, "split": split, "class": name}
                    folders = [said[role] for role in order if said[role]]
                    if domain:
                        folders.insert(folders.index(domain) + 1, wrapper.rstrip("/"))
                    part = random_.choice(parts)
                    path = "/".join(each for each in (root.rstrip("/"), *folders, part, f"{number}.png") if each)
                    places[path] = ("-".join(each for each in (domain, split) if each), name)
    assume(len({name for _, name in places.values()}) > 1)
    extras = {extra.format(random_.choice(classes)): b"x" for extra in EXTRAS if random_.random() < 0.3}
    return places, extras


def check_reading(places: Mapping[str, tuple[str, str]], read: Mapping[str, tuple[str, str]]) -> None:
    """Every image has its class, and two images share a domain exactly if they do in truth."""
    assert read.keys() == places.keys()
    assert {path: name for path, (_, name) in read.items()} == {path: name for path, (_, name) in places.items()}
    pairs = {(places[path][0], read[path][0]) for path in places}
    assert len(pairs) == len({true for true, _ in pairs}) == len({said for _, said in pairs}), pairs
    # A single domain above splits may be a folder that holds everything.
    assert all(true == said or true.endswith(f"-{said}") for true, said in pairs if len(pairs) > 1)


@settings(max_examples=300, deadline=None)
@given(truths())
def test_any_tree_is_read_to_its_truth_or_refused(truth):
    places, _ = truth
    try:
        reading = read_tree("x", list(places), None, None)
    except UserError:
        return
    check_reading(places, {path: (place.domain, place.class_folder) for path, place in reading.places.items()})


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None)
@given(truths())
def test_any_of_thousands_of_trees_is_read_to_its_truth_or_refused(truth):
    test_any_tree_is_read_to_its_truth_or_refused.hypothesis.inner_test(truth)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(truths(), st.sampled_from(("folder", "zip", "a zip a folder", "a zip beside")))
def test_any_files_and_archives_are_read_to_their_truth_or_refused(tmp_path_factory, truth, packing: str):
    places, extras = truth
    source = tmp_path_factory.mktemp("truth")
    files = {path: image_bytes() + str(n).encode() for n, path in enumerate(places)} | extras
    if packing == "a zip a folder":
        tops = {path.partition("/")[0] for path in places if "/" in path}
        for top in tops:
            zipped({p: data for p, data in files.items() if p.startswith(f"{top}/")}, source / f"{top}.zip")
        write(source, {path: data for path, data in files.items() if path.partition("/")[0] not in tops})
    if packing == "folder" or "beside" in packing:
        write(source, files)
    if packing in ("zip", "a zip beside"):
        zipped(files, source / "everything.zip")
    try:
        listing = list_source(source / "everything.zip" if packing == "zip" else source, None)
    except FastclipError:
        return
    check_reading(places, found(listing))
    assert {row.path for row in listing.rejected} - {"everything.zip"} == extras.keys()


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize(
    ("case", "domains"),
    [
        ("02-root-folder/input", ("flat", "night")),
        ("02-root-folder/input-kaggle", ("seg_test", "seg_train")),
        ("02-root-folder/input-office31", ("amazon", "dslr")),
        ("11-jpe-and-heic-dropped/input", ("all",)),
        ("12-notebook-checkpoints/input", ("flat", "night")),
        ("24-a-zip-for-each-domain/input", ("flat", "night")),
        ("24-a-zip-for-each-domain/input-same-names", ("flat", "night")),
        ("14-labels-in-a-side-file/input", None),
        ("14-labels-in-a-side-file/input-flowers", None),
        ("25-folders-below-classes/input", None),
    ],
)
def test_inputs_from_bug_reports_are_read_rightly_or_refused(case: str, domains: tuple[str, ...] | None):
    if domains is None:
        with pytest.raises(UserError):
            list_source(CASES / case, None)
    else:
        listing = list_source(CASES / case, None)
        assert (listing.domains, listing.classes) == (domains, THREE)
