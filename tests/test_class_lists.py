"""Classes by name: one class in two spellings, two classes with one name, and lists that do not fit their labels."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import pytest
from archives import write_shard
from helpers import Program, image_bytes, write
from open_clip.tokenizer import SimpleTokenizer

from fastclip.data.catalogue import DatasetCard, DomainCard
from fastclip.data.classes import Classes, ClassFinder
from fastclip.data.shards.manifest import read_manifest
from fastclip.data.sources.layouts import list_source
from fastclip.data.sources.webdataset import list_webdataset
from fastclip.data.twins import token_key, twins, twins_line
from fastclip.errors import UserError

PNG = image_bytes()
NFC = "caf\u00e9"
NFD = "cafe\u0301"
PIECES = (
    *("cat", "Cat", "CAT", "dog", "don't", "DON'T", "it's", "3", "42", "\u0663", "-", "--", "&amp;", "&", "&amp;amp;"),
    *(NFC, NFD, "\u0153uvre", "stra\u00dfe", "STRASSE", "\u0130", "i\u0307", "\ufb01sh", "fish", "\u017ft", "."),
    *("\u65e5\u672c", "\u0939\u093f", "\u2019s", "'s", "\u00a0", "\u200b", "\t", "\u00c3\u00a9", "\u201c", '"'),
    *("&eacute;", "</w>", "<start_of_text>", "x"),
)


def drawn_pairs(seed: int, number: int) -> list[tuple[str, str]]:
    """Pairs of names that differ in a little: joined otherwise, in another case or form, a piece exchanged."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(number):
        words = draw.choices(PIECES, k=draw.randint(1, 4))
        others = [draw.choice((word, word, word.upper(), unicodedata.normalize("NFD", word))) for word in words]
        if draw.random() < 0.3:
            others[draw.randrange(len(others))] = draw.choice(PIECES)
        pairs.append((draw.choice((" ", "", "  ")).join(words), draw.choice((" ", "", "_")).join(others)))
    return pairs


@pytest.mark.parametrize("number", [1_500, pytest.param(40_000, marks=pytest.mark.slow)])
def test_two_names_have_one_key_exactly_if_their_tokens_are_equal(number: int):
    encode = SimpleTokenizer().encode
    equal = 0
    for one, other in drawn_pairs(number, number):
        same = encode(one) == encode(other)
        assert (token_key(one) == token_key(other)) == same, (one, other)
        equal += same
    assert number // 10 < equal < number * 9 // 10, "both answers are tried"


def test_twins_are_named_with_their_labels():
    names = ("circle", "heart", "square", "Heart", "a-b", "a - b", "star")
    assert twins(names) == ((1, 3), (4, 5))
    line = twins_line(names, twins(names))
    assert line.startswith("CLIP cannot tell apart: heart and Heart (labels 1, 3); a-b and a - b (labels 4, 5).")
    assert twins(names[:3]) == ()


def test_the_two_forms_of_a_letter_are_one_class_in_folders(tmp_path: Path):
    files = {
        f"{domain}/{name}/1.png": PNG for domain, cafe in (("flat", NFC), ("night", NFD)) for name in (cafe, *"xy")
    }
    listing = list_source(write(tmp_path, files), None)
    assert listing.classes == (NFC, "x", "y")
    assert [(image.domain, image.label) for image in listing.images] == [
        (domain, label) for domain in ("flat", "night") for label in range(3)
    ]


@pytest.mark.parametrize(("of_card", "of_folder"), [(NFC, NFD), (NFD, NFC)])
def test_a_cards_class_is_found_in_either_form(of_card: str, of_folder: str):
    card = DatasetCard(name="x", title="X", classes=("tea", of_card), domains=(DomainCard(name="all"),))
    assert ClassFinder(card).of_folder(of_folder) == 1 and ClassFinder(card).of_name(of_folder.upper()) == 1


def test_marks_of_a_script_tell_classes_apart():
    card = DatasetCard(name="x", title="X", classes=("की", "का"), domains=(DomainCard(name="all"),))
    assert [ClassFinder(card).of_name(name) for name in ("का", "की", "कि")] == [1, 0, None]


def test_spellings_that_never_meet_are_refused_and_those_that_do_are_two_classes(tmp_path: Path):
    files = {f"{path}/1.png": PNG for path in ("a/Heart", "a/star", "a/tea", "b/heart", "b/star", "b/tea")}
    with pytest.raises(UserError, match=r"'Heart' \(in a\) and 'heart' \(in b\) are one text to CLIP"):
        list_source(write(tmp_path, files), None)
    write(tmp_path, {"b/Heart/1.png": PNG})
    assert len(list_source(tmp_path, None).classes) == 4


def shards(folder: Path, names: str, labels: list[int]) -> Path:
    members = [(f"{n}.{ext}", data) for n, label in enumerate(labels)
               for ext, data in (("png", PNG), ("cls", str(label).encode()))]  # fmt: skip
    write_shard(folder / "test" / "0.tar", members)
    (folder / "classnames.txt").write_text(names, "utf-8")
    return folder


def test_equal_names_of_a_list_are_two_classes_and_said_before_scoring(tmp_path: Path, fastclip: Program):
    shards(tmp_path / "in", "circle\nheart\nsquare\nheart\n", [0, 1, 2, 3])
    outcome = fastclip.here("shard", "x", "--source", tmp_path / "in")
    line = "CLIP cannot tell apart: heart (labels 1, 3)"
    assert outcome.code == 0 and line in outcome.out
    manifest = read_manifest(tmp_path / "shards" / "x")
    assert manifest.classes == ("circle", "heart", "square", "heart (2)")
    assert manifest.names == ("circle", "heart", "square", "heart")
    assert line in fastclip.here("eval", "x", "-b", "tiny", "--prompts", "photo").err


def test_equal_names_are_those_of_a_card_only_in_its_order():
    card = DatasetCard(
        name="x", title="X", classes=("n1", "n2", "n3"), domains=(DomainCard(name="all"),),
        readable_names={"n1": "missile", "n2": "tea", "n3": "missile"},
    )  # fmt: skip
    assert Classes.make(("missile", "tea", "missile"), card, "it").labels == (0, 1, 2)
    for names in (("missile", "missile", "tea"), ("tea", "missile"), ("tea", "tea")):
        with pytest.raises(UserError):
            Classes.make(names, card, "it")


def test_a_folder_of_its_own_for_every_class():
    assert Classes.make(("a/b", "a_b", "a_b", "a_b (2)"), None, "it").classes == (
        "a_b", "a_b (3)", "a_b (4)", "a_b (2)"
    )  # fmt: skip


SHIFTED = {
    "from 1": ("a\nb\nc\n", [1, 2], "labels seem to begin at 1"),
    "from 1 to the end": ("a\nb\nc\n", [1, 2, 3], "Labels seem to begin at 1"),
    "a header": ("class\na\nb\nc\n", [0, 1, 2], "reads as a header"),
    "another header": ("Class_Name\na\nb\nc\n", [0, 1, 2], "reads as a header"),
    "an index": ("index,name\na\nb\n", [0, 1], "reads as a header"),
    "one class": ("a\n", [0, 0], "one class in all, a"),
}


@pytest.mark.parametrize("case", SHIFTED)
def test_a_list_that_looks_shifted_is_refused(tmp_path: Path, case: str):
    names, labels, message = SHIFTED[case]
    with pytest.raises(UserError, match=message) as caught:
        list_webdataset(shards(tmp_path, names, labels), None)
    assert caught.value.fix


def test_a_class_called_as_a_header_is_a_class_where_every_class_has_images(tmp_path: Path):
    assert list_webdataset(shards(tmp_path, "label\nink\n", [0, 1]), None)


def test_classes_without_an_image_are_named(tmp_path: Path, fastclip: Program):
    shards(tmp_path / "in", "circle\nstar\nsquare\nheart\n", [0, 2])
    assert "No image of 2 classes: star, heart." in fastclip.here("shard", "x", "--source", tmp_path / "in").out
