"""Searching stored embeddings: the nearest images are those of a plain sum of products, and are told apart by name."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_store import RECIPE, draw_dataset, fill
from helpers import Program, Sharded, shard
from html_pages import parse
from PIL import Image as Picture
from test_features import features_of
from test_page import HOSTILE

from fastclip.data.shards.reader import read_index
from fastclip.data.shards.targets import find_targets
from fastclip.features.read import Features
from fastclip.handover.search import Hit, Image, search
from fastclip.handover.sheet import Sheet, render_jpeg
from fastclip.heads.scores import exact
from fastclip.report.html.pictures import Picture as Shown
from fastclip.store.store import Store
from fastclip.text.prompts import find_prompt_set

READ = ("-b", "tiny", "--recipe", RECIPE.id[:12])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """108 images in three domains; apple/001.png of `photo` is also apple/002.png, and cup/004.png of `sketch`."""
    folder = tmp_path_factory.mktemp("template")
    source = draw_dataset(folder / "source", "letters")
    for copy in ("photo/apple/002.png", "sketch/cup/004.png"):
        shutil.copy(source / "photo" / "apple" / "001.png", source / copy)
    sharded = shard(source, folder / "shards", "letters", shard_images=10, layout="domain/class")
    fill(sharded, folder / "embeddings", unreadable=("night/00000007",))
    return folder


@pytest.fixture
def letters(fastclip: Program, template: Path) -> Features:
    """A copy of them, in the program's folder."""
    shutil.copytree(template, fastclip.folder, dirs_exist_ok=True)
    (target,) = find_targets(str(fastclip.folder / "shards"), ["letters"])
    return Features(target, RECIPE, Store(fastclip.folder / "embeddings"))


def all_rows(features: Features) -> tuple[list[str], list[str], np.ndarray]:
    """Keys, digests and vectors of all images that have one, in manifest order."""
    records = [record for each in features for record in each.records()]
    vectors = np.concatenate([each.vectors for each in features])
    return [each.key for each in records], [each.sha256 for each in records], vectors


def answer(fastclip: Program, *words: object) -> dict:
    outcome = fastclip.here("search", *words, "--json", "-")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_the_nearest_are_those_of_a_plain_sum_and_neither_the_image_nor_its_copies(
    fastclip: Program, letters: Features
):
    keys, digests, vectors = all_rows(letters)
    own = keys.index("photo/00000001")
    cosines = (vectors.astype(np.float64) * vectors[own].astype(np.float64)).sum(axis=1)
    others = [row for row in np.argsort(-cosines, kind="stable") if digests[row] != digests[own]]
    found = answer(fastclip, "letters", *READ, "--like", "photo/00000001", "--top", 30)
    assert [hit["key"] for hit in found["hits"]] == [keys[row] for row in others[:30]]
    assert np.allclose([hit["cosine"] for hit in found["hits"]], cosines[others[:30]], atol=1e-7)
    assert [hit["rank"] for hit in found["hits"]] == list(range(1, 31))
    assert [each["key"] for each in found["copies"]] == ["photo/00000002", "sketch/00000028"]
    assert (found["images"], found["unreadable"]) == (107, 1)


@pytest.mark.parametrize("top", [1, 7, 200])
@pytest.mark.parametrize("cores", [1, 3])
def test_of_equal_cosines_the_first_in_the_manifest_comes_first(letters: Features, top: int, cores: int):
    keys, _, vectors = all_rows(letters)
    query = np.zeros(vectors.shape[1])  # all cosines are zero
    found = search([letters], query, top, cores)
    assert [hit.image.record.key for hit in found.hits] == keys[:top]


def test_a_text_finds_what_its_vector_is_near_to(fastclip: Program, shapes: Sharded):
    """The prompt of a class is a text like any other: its prototype is kept, and so its cosines are known."""
    features = features_of(shapes, fastclip.folder / "store")
    words = ("-b", "tiny", "--shards", shapes.shards, "--store", "store")
    assert fastclip.here("eval", "shapes", *words, "--prompts", "transferlearning").code == 0
    from fastclip.text.prototypes import Question, find_prototypes

    manifest, prompts = features.target.manifest, find_prompt_set("transferlearning")
    question = Question(
        weights=features.recipe.weights,
        architecture=features.recipe.architecture,
        templates=prompts.templates,
        classes=prompts.classes(manifest.classes, manifest.names),
    )
    prototypes = find_prototypes(fastclip.folder / "store" / "prototypes", question)
    assert prototypes is not None
    label = manifest.classes.index("heart")
    keys, _, vectors = all_rows(features)
    cosines = exact(vectors) @ exact(prototypes[label][None])[0]
    found = answer(fastclip, "shapes", *words, "--text", "a picture of a heart", "--top", 10)
    assert [hit["key"] for hit in found["hits"]] == [keys[row] for row in np.argsort(-cosines, kind="stable")[:10]]
    assert np.allclose([hit["cosine"] for hit in found["hits"]], np.sort(cosines)[::-1][:10], atol=1e-6)
    assert sum(hit["class"] == "heart" for hit in found["hits"]) > 8
    assert "images of hearts" not in json.dumps(found) and found["text"] == "a picture of a heart"
    without_torch = (
        "import sys; sys.modules['torch'] = None; from fastclip.cli.main import run; sys.argv[:2] = ['fastclip']; run()"
    )
    again = ("search", "shapes", *words, "--text", "a picture of a heart", "--top", 10, "--json", "-")
    outcome = fastclip(*again, prefix=(sys.executable, "-c", without_torch, "-m"))
    assert (outcome.code, json.loads(outcome.out)) == (0, found), outcome.err
    others = [*again[:-3], "--text", "another text"]
    assert fastclip(*others, prefix=(sys.executable, "-c", without_torch, "-m")).code == 2


def test_an_image_may_be_named_in_every_way_that_is_clear(fastclip: Program, letters: Features):
    (record,) = (
        r for s in letters.target.shards for r in read_index(letters.target.folder, s) if r.key == "sketch/00000005"
    )
    names = [record.key, f"letters/{record.key}", f"letters/sketch/{record.key}", record.sha256, record.sha256[:12]]
    found = [answer(fastclip, *READ, "--like", name, "--top", 3) for name in names]
    assert all(each == found[0] for each in found) and found[0]["like"]["sha256"] == record.sha256


def test_a_key_of_two_datasets_is_refused_with_both(fastclip: Program, letters: Features):
    source = draw_dataset(fastclip.folder / "source", "signs", per_class=13)
    signs = shard(source, fastclip.folder / "shards", "signs", shard_images=9, layout="domain/class")
    fill(signs, fastclip.folder / "embeddings")
    outcome = fastclip.here("search", *READ, "--like", "sketch/00000000")
    assert outcome.code == 2
    assert "sketch/00000000 means 2 images: letters/sketch/00000000 (" in outcome.err
    assert "; signs/sketch/00000000 (" in outcome.err
    assert answer(fastclip, *READ, "--like", "signs/sketch/00000000")["like"]["dataset"] == "signs"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("letters", *READ), "either a text or an image"),
        (("letters", *READ, "--text", "a", "--like", "b"), "either a text or an image"),
        (("letters", *READ, "--text", "  "), "empty"),
        (("letters", "--text", "a"), "No backbone"),
        (("letters", "-b", "tiny", "-b", "RN50", "--text", "a"), "do not lie in one space"),
        (("letters", *READ, "--text", "a", "--top", "0"), "--top 0"),
        (("letters", *READ, "--text", "a", "--sheet", "a.png"), "a.png"),
        (("letters", *READ, "--text", "a", "--sheet", "a.html", "--top", "401"), "400 pictures"),
        (("letters", *READ, "--text", "a", "--sheet", "none/such/dir/../a.html"), "cannot be written"),
        (("letters", *READ, "--like", "photo/99"), "photo/99"),
        (("letters", *READ, "--like", "night/00000007"), "it was cut"),
        (("letters", *READ, "--text", "a dog"), "weights abababababab"),
        (("letters", "-b", "RN50", "--text", "a dog"), "Not everything is embedded"),
    ],
)
def test_a_search_that_cannot_be_is_refused_with_its_cure(
    words: tuple[str, ...], named: str, fastclip: Program, letters: Features
):
    (fastclip.folder / "none").write_text("")
    outcome = fastclip.here("search", *words)
    assert outcome.code in (2, 4) and outcome.out == ""
    what, cure = outcome.err.splitlines()
    assert named in what and cure.startswith("Fix:   ")


def test_several_images_under_one_beginning_are_listed(fastclip: Program, letters: Features):
    _, digests, _ = all_rows(letters)
    beginnings = [digest[:6] for digest in sorted(set(digests))]
    assert len(set(beginnings)) == len(beginnings), "none is ambiguous, so one is made"
    from fastclip.handover import query

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query.re, "fullmatch", lambda pattern, text: re.match("[0-9a-f]", text))
        first = max("0123456789abcdef", key=lambda letter: sum(each.startswith(letter) for each in digests))
        outcome = fastclip.here("search", "letters", *READ, "--like", first)
    assert outcome.code == 2 and f"{first} means " in outcome.err and outcome.err.count("letters/") >= 3
    assert "--like DATASET/KEY" in outcome.err


def test_the_sheet_is_one_page_that_loads_nothing_and_shows_the_crops(fastclip: Program, letters: Features):
    words = ("letters", *READ, "--like", "photo/00000001", "--top", 9)
    outcome = fastclip.here("search", *words, "--sheet", "sheet.html")
    assert outcome.code == 0, outcome.err
    data = (fastclip.folder / "sheet.html").read_bytes()
    page = parse(data)
    images = page.all("img")
    assert len(images) == 10 and all(each.attributes["src"].startswith("data:image/jpeg;base64,") for each in images)
    assert page.all("script") == [] and b"style=" not in data and b"http:" not in data and b"https:" not in data
    (policy,) = (each for each in page.all("meta") if each.attributes.get("http-equiv"))
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    text = page.one("main").text
    assert "The same bytes as the image itself, and left out: letters/photo/00000002, letters/sketch/00000028." in text
    assert "Cosines of tiny" in text and "9 nearest images" in text
    assert fastclip.here("search", *words, "--sheet", "again.html").code == 0
    assert (fastclip.folder / "again.html").read_bytes() == data


def test_the_sheet_as_a_picture_has_a_cell_for_each_image(fastclip: Program, letters: Features):
    assert (
        fastclip.here("search", "letters", *READ, "--like", "photo/00000001", "--top", 9, "--sheet", "s.jpg").code == 0
    )
    picture = Picture.open(io.BytesIO((fastclip.folder / "s.jpg").read_bytes()))
    assert picture.format == "JPEG" and picture.width > 8 * 96 and picture.height > 2 * 96


def test_a_sheet_as_a_picture_shows_the_image_that_was_searched_for_and_why_one_is_missing(letters: Features):
    """Names of any length are cut to the place that they have: each letter costs, once, not each with all others."""
    shard_of_it = next(iter(letters.target.shards))
    image = Image(letters.target, shard_of_it, 0, read_index(letters.target.folder, shard_of_it)[0])
    names = replace(letters.target.manifest, names=tuple(letter * 100_000 for letter in "xyz"))
    long = replace(image, target=replace(letters.target, manifest=names))
    file = io.BytesIO()
    Picture.new("RGB", (96, 96), (250, 0, 0)).save(file, "JPEG")
    there, gone = Shown(jpeg=base64.b64encode(file.getvalue()).decode()), Shown(why="it was cut " * 9)
    sheet = Sheet(
        title="T" * 100_000, notes=["n " * 400], like=(image, there), licences=["l" * 50_000],
        hits=[(Hit(cosine=0.5, image=long), gone), (Hit(cosine=0.25, image=image), there)],
    )  # fmt: skip
    data = np.asarray(Picture.open(io.BytesIO(render_jpeg(sheet)))).astype(int)
    cells = [data[40 : 40 + 96, 12 + 108 * place : 12 + 108 * place + 96] for place in range(4)]
    red = [bool((cell[..., 0] - cell[..., 1] > 200).mean() > 0.9) for cell in cells]
    dark = [bool((cell.max(axis=2) < 100).any()) for cell in cells]
    assert red == [True, False, True, False] and dark == [False, True, False, False]


def test_images_that_were_rejected_when_they_were_sharded_are_counted_too(fastclip: Program):
    source = draw_dataset(fastclip.folder / "source", "photo", classes=2)
    (source / "photo" / "apple" / "001.png").write_bytes(b"no image")
    sharded = shard(source, fastclip.folder / "shards", "letters", layout="domain/class")
    fill(sharded, fastclip.folder / "embeddings")
    images = sum(each.images for each in find_targets(str(sharded.shards), ["letters"])[0].shards)
    found = answer(fastclip, *READ, "--like", "photo/00000003")
    assert (found["images"], found["unreadable"]) == (images, 1)


def test_a_licence_stands_by_the_pictures(fastclip: Program, letters: Features):
    card = 'licence = "for research only"\nclasses = ["apple", "bread", "cup"]\n' + "".join(
        f'[[domains]]\nname = "{name}"\n' for name in ("photo", "sketch", "night")
    )
    (fastclip.folder / "shards" / "letters.toml").write_text(card)
    assert fastclip.here("search", "letters", *READ, "--like", "photo/00000001", "--sheet", "s.html").code == 0
    text = parse((fastclip.folder / "s.html").read_bytes()).one("main").text
    assert "Licence of the images of letters: for research only" in text


def test_pictures_of_other_bytes_are_not_shown(fastclip: Program, letters: Features):
    for tar in (fastclip.folder / "shards").rglob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    assert fastclip.here("search", "letters", *READ, "--like", "photo/00000001", "--sheet", "s.html").code == 0
    page = parse((fastclip.folder / "s.html").read_bytes())
    assert page.all("img") == [] and "its bytes are not those of its manifest" in page.one("main").text


def test_names_of_strangers_are_texts_in_the_table_and_on_the_sheet(fastclip: Program):
    names = [name for name in HOSTILE if len(name) < 200 and "/" not in name][:4]
    source = draw_dataset(fastclip.folder / "source", domains="photo sketch", classes=4)
    for domain in source.iterdir():
        for old, new in zip(("apple", "bread", "cup", "door"), names, strict=True):
            (domain / old).rename(domain / new)
    fill(shard(source, fastclip.folder / "shards", "letters", layout="domain/class"), fastclip.folder / "embeddings")
    outcome = fastclip.here("search", "letters", *READ, "--like", "photo/00000001", "--top", 60, "--sheet", "s.html")
    assert outcome.code == 0 and "\x1b" not in outcome.out and "\u202e" not in outcome.out
    data = (fastclip.folder / "s.html").read_bytes()
    page = parse(data)
    assert page.all("script") == [] and "\x1b" not in data.decode()
    assert not [each for each in page.all() if any(name.startswith("on") for name in each.attributes)]
