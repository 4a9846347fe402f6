"""Prompts are made of names: ids in their place are replaced by a card's names, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import Outcome, Program, Sharded, shard
from PIL import Image

from fastclip.data.catalogue import find_card
from fastclip.data.ids import ids, nameless
from fastclip.data.shapes import CLASSES, SCORED_SEED, draw_shapes
from fastclip.text.prompts import BUILT_IN, find_prompt_set

SYNSETS = tuple(f"n{14435370 + number:08d}" for number in range(len(CLASSES)))


@pytest.mark.parametrize(
    "names",
    [
        ("n01443537", "n01484850"),
        ("0", "1", "10", "2"),
        ("00000", "00042"),
        ("c0", "c1", "c2"),
        ("class_1", "class_2"),
        ("Class 01", "Class 02"),
        ("1f600", "1f60a"),
        ("3f2a9c0b1d", "deadbeef01"),
        ("123e4567-e89b-12d3-a456-426614174000", "00112233-4455-6677-8899-aabbccddeeff"),
        ("_m_0bt9lr", "/m/01yrx"),
        ("0.0", "1.0"),
    ],
)
def test_names_that_are_ids_are_known(names: tuple[str, ...]):
    assert ids(names) == set(names)
    assert nameless(names, names) == names
    assert not nameless(names, [f"thing {number}x" for number in range(len(names))])


@pytest.mark.parametrize(
    "names",
    [
        ("A310", "C-130", "Spitfire"),
        ("707-320", "737-200"),
        ("0-2", "3-9", "more than 70"),
        ("A", "B", "C"),
        ("Boeing_737", "Boeing_747"),
        ("back_pack", "bike"),
        ("3D_printer", "4x4"),
        ("n02085620-Chihuahua", "n02085782-Japanese_spaniel"),
        ("001.Black_footed_Albatross", "002.Laysan_Albatross"),
        ("defaced", "accede", "fabaceae"),
        ("猫", "犬"),
    ],
)
def test_names_that_only_hold_numbers_are_names(names: tuple[str, ...]):
    assert not ids(names)


def test_one_id_among_names_is_known_and_its_class_is_the_nameless_one():
    assert ids(("goldfish", "n01484850", "7")) == {"n01484850", "7"}
    assert nameless(("c0", "c1"), ("driving", "c1")) == ("c1",)
    assert nameless(("dog", "cat"), ("dog", "12")) == ("cat",)


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_known_dataset_is_asked_for_by_ids(name: str):
    for dataset in ("domainnet", "imagenet-r", "office31", "officehome", "pacs", "terraincognita", "visda17", "vlcs"):
        card = find_card(dataset)
        assert card and not nameless(card.classes, card.names)
    imagenet_r = find_card("imagenet-r")
    assert imagenet_r
    prompts = find_prompt_set(name)
    asked = prompts.prompts(*prompts.classes(imagenet_r.classes, imagenet_r.names)[0])
    assert all("goldfish" in prompt and "n01443537" not in prompt for prompt in asked)


def test_the_questions_of_datasets_with_names_and_of_prompts_without_folders_stay_what_they_were():
    folders, names = ("Alarm_Clock", "TV"), ("Alarm Clock", "television")
    for name in BUILT_IN:
        assert find_prompt_set(name).classes(folders, names) == tuple(zip(folders, names, strict=True))
    pairs = (("n01443537", "goldfish"), ("n01484850", "great white shark"))
    assert find_prompt_set("photo").classes(*zip(*pairs, strict=True)) == pairs


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    """Shapes in folders that are called by WordNet numbers."""
    folder = tmp_path_factory.mktemp("numbered")
    draw_shapes(folder / "drawn", seed=SCORED_SEED, images_per_class=1)
    for synset, name in zip(SYNSETS, sorted(CLASSES), strict=True):
        for domain in (folder / "drawn").iterdir():
            (domain / name).rename(domain / synset)
    return shard(folder / "drawn", folder / "shards", "numbered")


def score(fastclip: Program, numbered: Sharded, *words: object) -> Outcome:
    return fastclip.here("eval", "numbered", "-b", "tiny", "--shards", numbered.shards, *words)


@pytest.mark.parametrize("prompts", [*BUILT_IN, "mine.txt"])
def test_ids_without_names_are_refused_in_two_lines_before_anything_is_embedded(
    prompts: str, numbered: Sharded, fastclip: Program
):
    (fastclip.folder / "mine.txt").write_text("one {}\n")
    outcome = score(fastclip, numbered, "--prompts", prompts)
    assert (outcome.code, outcome.out) == (2, "")
    what, fix = outcome.err.splitlines()
    assert "12 of 12 classes" in what and SYNSETS[0] in what
    assert f"{numbered.shards}/numbered.toml" in fix and f'[readable_names] "{SYNSETS[0]}" = ' in fix
    assert not (fastclip.folder / "embeddings").exists()


def test_status_and_random_weights_ask_for_no_names(numbered: Sharded, fastclip: Program):
    assert fastclip.here("status", "numbered", "-b", "tiny", "--shards", numbered.shards).code == 4
    assert "NOT A RESULT" in score(fastclip, numbered, "--random-weights").out


def test_a_card_names_the_classes_after_sharding_too_and_the_numbers_are_those_of_named_folders(
    numbered: Sharded, shapes: Sharded, fastclip: Program, tmp_path: Path
):
    names = dict(zip(SYNSETS, (name.replace("_", " ") for name in sorted(CLASSES)), strict=True))
    rows = [f'"{synset}" = "{name}"' for synset, name in names.items()]
    domains = [f'[[domains]]\nname = "{path.name}"' for path in sorted(numbered.source.iterdir())]
    card = "\n".join([f"classes = {json.dumps(SYNSETS)}", "[readable_names]", *rows, *domains])
    (numbered.shards / "numbered.toml").write_text(card)
    outcome = score(fastclip, numbered, "--prompts", "photo", "--prompts", "transferlearning", "--json", "r.json")
    (numbered.shards / "numbered.toml").unlink()
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "r.json").read_bytes())
    facts = record["datasets"][0]
    assert dict(zip(facts["classes"], facts["names"], strict=True)) == names
    plain = shard(_named(numbered, tmp_path / "named", names), tmp_path / "shards", "named")
    (tmp_path / "spaced.txt").write_text("a picture of a {}\n")  # readable names have no underscores
    words = ("--prompts", "photo", "--prompts", "spaced.txt", "--json", "n.json")
    assert fastclip.here("eval", "named", "-b", "tiny", "--shards", plain.shards, *words).code == 0
    expected = json.loads((tmp_path / "n.json").read_bytes())
    assert [cell["top1"] for cell in record["cells"]] == [cell["top1"] for cell in expected["cells"]]
    assert sum(cell["top1"] for cell in record["cells"]) > 60, "tiny knows these shapes"


def _named(numbered: Sharded, folder: Path, names: dict[str, str]) -> Path:
    for image in numbered.source.rglob("*.*"):
        target = folder / image.parts[-3] / names[image.parts[-2]].replace(" ", "_") / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image.read_bytes())
    return folder


def test_digits_are_refused_until_they_have_names(fastclip: Program, tmp_path: Path):
    for digit in range(10):
        (tmp_path / "digits" / str(digit)).mkdir(parents=True)
        Image.new("RGB", (8, 8), (digit * 20, 0, 0)).save(tmp_path / "digits" / str(digit) / "0.png")
    sharded = shard(tmp_path / "digits", tmp_path / "shards", "digits")
    command = ("eval", "digits", "-b", "tiny", "--prompts", "photo", "--shards", sharded.shards)
    assert "10 of 10 classes" in fastclip.here(*command).err
    rows = "\n".join(f'{digit} = "number {digit}"' for digit in range(10))
    classes = json.dumps([str(digit) for digit in range(10)])
    card = f'classes = {classes}\n[readable_names]\n{rows}\n[[domains]]\nname = "all"\n'
    (sharded.shards / "digits.toml").write_text(card)
    assert fastclip.here(*command).code == 0
