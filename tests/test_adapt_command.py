"""`fastclip adapt`: every pair of domains beside zero-shot and the source alone, no label of a target within reach."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_store import drawn, fill
from helpers import Program
from test_probe import cell, the_setup, two_lines

from fastclip.adapt.methods import METHODS as ALL
from fastclip.heads.head_files import seal_head
from fastclip.transfer.fitting import fit_all
from fastclip.transfer.folds import adapt_folds, places
from fastclip.transfer.material import read_material
from fastclip.transfer.methods import adapt_jobs
from fastclip.transfer.samples import Sample

COMMON = ("-b", "tiny", "--shards", "shards")
ADAPTATIONS = tuple(name for name in ALL if not name.startswith("ot"))  # those need skada
METHODS = tuple(word for name in ADAPTATIONS for word in ("--method", name))


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A folder with the drawn dataset and a full store of its embeddings."""
    folder = tmp_path_factory.mktemp("letters")
    fill(drawn(folder), folder / "embeddings")
    return Program(folder)


def test_every_pair_stands_beside_zero_shot_and_the_source_alone(letters: Program):
    wide = Program(letters.folder, {"COLUMNS": "200"})
    outcome = wide("adapt", "letters", "--all-pairs", *METHODS, *COMMON, "--json", "r.json")
    assert outcome.code == 0, outcome.err
    document = json.loads((letters.folder / "r.json").read_text())
    names = ["source only", *ADAPTATIONS]
    domains = ("photo", "sketch", "night")
    pairs = [(source, target) for source in domains for target in domains if source != target]
    expected = {f"{name} from {source}" for name in names for source, _ in pairs} | {"zero-shot"}
    assert {each["head"] for each in document["cells"]} == expected
    rows = {line.split("  ")[0].strip(): line.split()[3:] for line in outcome.out.splitlines() if "→" in line}
    columns: dict[str, list[float]] = {name: [] for name in ["zero-shot", *names]}
    for source, target in pairs:
        shown = rows[f"{source} → {target}"]
        for column, number in zip(columns, shown, strict=True):
            head = column if column == "zero-shot" else f"{column} from {source}"
            accuracy = cell(document, target, head)["top1"] / 36 * 100
            assert number == f"{accuracy:.2f}", (source, target, column)
            columns[column].append(accuracy)
    average = next(line.split()[1:] for line in outcome.out.splitlines() if line.strip().startswith("average"))
    assert average == [f"{np.mean(of):.2f}" for of in columns.values()]
    transductive = {each["name"].split(" from ")[0]: each["transductive"] for each in document["heads"]}
    assert transductive == {"source only": False, **dict.fromkeys(ADAPTATIONS, True)}
    assert "without their labels (transductive)" in " ".join(outcome.out.split())


@pytest.fixture(scope="module")
def fold(letters: Program):
    setup = the_setup(letters)
    (photo, night) = places(setup.targets, ["letters/photo", "letters/night"])
    folds = adapt_folds((photo,), (night,), all_pairs=False)
    jobs = adapt_jobs(ADAPTATIONS, folds, None)
    return read_material(setup, "tiny", folds, None), jobs, night


def sealed(material, jobs) -> dict[str, bytes]:
    return {each.name: seal_head(each.head, each.facts) for each in fit_all(material, jobs, 2)}


def test_permuted_labels_of_the_target_change_no_byte(fold):
    material, jobs, night = fold
    seen = material.samples[night]
    permuted = Sample(seen.vectors, seen.digests, np.random.default_rng(0).permutation(seen.labels), seen.unreadable)
    other = replace(material, samples={**material.samples, night: permuted})
    assert (permuted.labels != seen.labels).any() and sealed(material, jobs) == sealed(other, jobs)


def test_the_targets_images_do_change_what_adapts_and_nothing_else(fold):
    """Without this, the test above could pass by a method that looks at nothing."""
    material, jobs, night = fold
    seen = material.samples[night]
    other = replace(material, samples={**material.samples, night: seen.take(np.arange(len(seen)) % 2 == 0)})
    first, second = sealed(material, jobs), sealed(other, jobs)
    same = {name for name in first if first[name] == second[name]}
    assert same == {"source only from photo"}


def test_several_sources_are_one_source(letters: Program):
    words = ["letters/photo", "letters/sketch", "--to", "letters/night", "--method", "coral", "--json", "r.json"]
    assert letters.here("adapt", *words, *COMMON).code == 0
    document = json.loads((letters.folder / "r.json").read_text())
    facts = next(each["facts"] for each in document["heads"] if each["name"] == "coral from photo + sketch")
    assert facts["images"] == 72 and [each["domain"] for each in facts["training"]] == ["photo", "sketch"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "No source"),
        (["letters/photo"], "No target"),
        (["letters/photo", "--to", "letters/photo"], "source and target"),
        (["letters", "--all-pairs", "--to", "letters/photo"], "--to"),
        (["letters/photo", "--to", "letters/night", "--method", "magic"], "does not know 'magic'"),
        (["letters/photo", "--to", "letters/night", "--strength", "0"], "0"),
    ],
)
def test_bad_input_is_two_lines(words: list[str], said: str, letters: Program):
    assert said in two_lines(letters, "adapt", *words, *COMMON)


def test_a_store_that_is_being_filled_is_read_only_when_it_is_complete(tmp_path: Path):
    fill(drawn(tmp_path), tmp_path / "embeddings", shards=slice(0, 5))
    program = Program(tmp_path)
    said = two_lines(program, "adapt", "letters/photo", "--to", "letters/night", *COMMON, code=4)
    assert "letters by tiny has 5 of 8 shards" in said
    fill(drawn(tmp_path / "b"), tmp_path / "b/embeddings")
    assert Program(tmp_path / "b").here("adapt", "letters/photo", "--to", "letters/night", *COMMON).code == 0
