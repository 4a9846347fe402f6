"""Embeddings by fine-tuned weights: read on request alone, named wherever they are shown, never taken for others."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import oracle
import pytest
from drawn_store import RECIPE, drawn, fill
from helpers import Program, Sharded, recipe, training
from safetensors.torch import load_file

from fastclip.data.shards.manifest import read_manifest
from fastclip.errors import IncompleteError, UserError
from fastclip.evaluate.embedding import embed
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.score import score
from fastclip.evaluate.setup import resolve
from fastclip.features.choose import Wanted, admissible
from fastclip.models.trained_weights import write_weights
from fastclip.models.weights import describe_weights
from fastclip.report.training_notes import training_notes
from fastclip.results.files.result import to_json
from fastclip.results.files.result_reader import parse_result
from fastclip.store.recipes import differences
from fastclip.store.store import Store
from fastclip.store.training import TrainingSet, classes_digest

FACTS = training(
    domains=(TrainingSet(dataset="letters", domain="sketch", fingerprint="9" * 64, images=36),),
    images=32,
    classes=classes_digest({"apple": "apple", "bread": "bread", "cup": "cup"}),
)
TUNED = replace(RECIPE, weights="cd" * 32, training=FACTS)
SUMMARY = "fine-tuned: ce on letters/sketch, epoch 3"
LINE = (
    "tiny: weights cdcdcdcdcdcd fine-tuned with labels of 32 images (letters/sketch), recipe ce, epoch 3 chosen by "
    "held-out images: its rows are not zero-shot."
)
COMMON = ("-b", "tiny", "--shards", "shards")


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A folder with a drawn dataset, and a store with its embeddings by weights and by fine-tuned ones."""
    program = Program(tmp_path_factory.mktemp("letters"))
    sharded = drawn(program.folder)
    for of in (RECIPE, TUNED):
        fill(sharded, program.folder / "embeddings", of=of)
    return program


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_fine_tuned_embeddings_are_admitted_by_their_weights_or_their_name_alone():
    plain, tuned = recipe(), recipe(weights="cd" * 32, training=training())
    assert admissible([tuned, plain], Wanted(backbone="tiny")) == [plain]
    assert admissible([tuned], Wanted(backbone="tiny")) == []
    assert admissible([tuned, plain], Wanted(backbone="tiny", weights="cd" * 32)) == [tuned]
    assert admissible([tuned, plain], Wanted(backbone="tiny", recipes=(tuned.id[:12],))) == [tuned]
    with pytest.raises(UserError, match="different weights"):
        admissible([tuned, plain], Wanted(backbone="tiny", recipes=(tuned.id[:12], plain.id[:12])))


def test_without_a_request_everything_goes_on_as_if_they_were_not_there(letters: Program):
    outcome = letters("eval", "letters", *COMMON)
    assert outcome.code == 0 and "fine-tuned" not in outcome.out and "weights abababababab" in outcome.out
    probed = letters("probe", "letters/photo", "--test", "letters/sketch", "--head", "ridge", *COMMON)
    assert probed.code == 0 and "fine-tuned" not in probed.out


def test_a_table_of_them_says_so_and_that_a_tested_domain_was_trained_on(letters: Program):
    outcome = letters("eval", "letters", *COMMON, "--recipe", TUNED.id[:12])
    text = one_line(outcome.out)
    assert outcome.code == 0 and LINE in text and "weights abababababab" not in text
    assert "tiny: its weights were trained on images of letters/sketch that are tested here." in text
    assert "prompts" not in outcome.err and "not those that the weights" not in text


def test_a_probe_on_them_says_that_the_weights_saw_labels_too(letters: Program):
    words = ("letters/photo", "--test", "letters/night", "--head", "ridge", *COMMON, "--recipe", TUNED.id[:12])
    outcome = letters("probe", *words, "--save", "heads")
    text = one_line(outcome.out)
    assert outcome.code == 0 and LINE in text and "Heads were fitted with labels of 36 images (letters/photo)" in text
    (head,) = (letters.folder / "heads").iterdir()
    again = letters("eval", "letters/night", "--shards", "shards", "--head", f"heads/{head.name}")
    assert again.code == 0 and LINE in one_line(again.out)


def test_the_store_lists_them_and_copies_them_whole(letters: Program):
    listed = one_line(letters("store", "--shards", "shards").out)
    assert f"weights cdcdcdcdcdcd (that of a; {SUMMARY})" in listed and "weights abababababab (that of a)," in listed
    assert letters("store", "copy", TUNED.id[:8], "--to", "copy").code == 0
    assert Store(letters.folder / "copy").recipes() == [TUNED]


def test_an_export_and_a_status_name_their_training(letters: Program):
    outcome = letters("features", "letters/photo", *COMMON, "--recipe", TUNED.id[:12])
    assert SUMMARY in one_line(outcome.out)
    (facts,) = letters.folder.rglob("features.json")
    assert json.loads(facts.read_bytes())["recipe"]["document"]["training"] == FACTS.to_document()
    assert SUMMARY in one_line(letters("status", "letters", *COMMON, "--recipe", TUNED.id[:12]).out)


def test_runs_by_two_weights_are_compared_as_such_and_never_become_one_table(letters: Program):
    runs = []
    for options in ((), ("--recipe", TUNED.id[:12])):
        outcome = letters("eval", "letters/photo", *COMMON, *options)
        assert outcome.code == 0
        runs += re.findall(r"results/\S+", outcome.err)
    for names, words in (
        (runs, "ce on letters/sketch, epoch 3, not none"),
        (runs[::-1], "none, not ce on letters/sketch, epoch 3"),
    ):
        assert f"tiny: fine-tuning {words}; weights " in one_line(letters("compare", *names).out)
    refused = letters("report", *runs)
    assert refused.code == 2 and "tiny was embedded by another recipe" in refused.err
    against = letters("report", runs[0], "--against", runs[1])
    assert "Not comparable, all cells: fine-tuning: " in one_line(against.out)


def test_how_two_recipes_differ_is_said_in_words():
    there, here = recipe(), recipe(training=training())
    assert differences(there, here) == ["fine-tuning differs: none there, ce on new/outline, epoch 3 here"]
    assert describe_weights(here) == "weights 000000000000 (that of a; fine-tuned: ce on new/outline, epoch 3)"


@pytest.fixture(scope="module")
def tuned_file(shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `tiny`, hardly moved, as a file that says that they were fine-tuned on shapes/flat."""
    path, manifest = tmp_path_factory.mktemp("weights") / "tuned.safetensors", read_manifest(shapes.folder)
    names = dict(zip(manifest.classes, manifest.names, strict=True))
    fingerprint = next(each.fingerprint for each in manifest.domains if each.name == "flat")
    moved = {name: each * 1.001 if each.is_floating_point() else each for name, each in load_file(TINY).items()}
    places = (TrainingSet(dataset="shapes", domain="flat", fingerprint=fingerprint, images=60),)
    write_weights(path, moved, training(domains=places, classes=classes_digest(names)))
    return path


TINY = oracle.TINY / "tiny.safetensors"


def test_eval_embeds_by_a_tuned_file_beside_the_backbone_itself(shapes: Sharded, tmp_path: Path, tuned_file: Path):
    usual = EvalOptions(targets=("shapes/flat",), backbones=("tiny",), shards=shapes.shards, store=tmp_path)
    by_file = replace(usual, weights={"tiny": tuned_file})
    for options in (usual, by_file, usual):
        embed(resolve(options))
    recipes = {bool(each.training): each for each in Store(tmp_path).recipes()}
    assert set(recipes) == {True, False}
    assert resolve(usual).recipes["shapes", "tiny"] == recipes[False] and not resolve(usual).units
    assert resolve(by_file).recipes["shapes", "tiny"] == recipes[True] and not resolve(by_file).units
    evaluation, _ = score(resolve(by_file))
    notes = training_notes(parse_result(to_json(evaluation), "it"))
    assert notes[1:] == ["tiny: its weights were trained on images of shapes/flat that are tested here."]
    named = resolve(replace(usual, recipes=(recipes[True].id[:12],)))
    assert named.recipes["shapes", "tiny"] == recipes[True]
    with pytest.raises(IncompleteError, match="not under --recipe") as error:
        resolve(replace(usual, targets=("shapes",), recipes=(recipes[True].id[:12],)))
    assert f"--weights tiny=FILE with weights {recipes[True].weights[:12]}" in error.value.fix


def test_other_prompts_than_those_of_the_training_are_a_warning_before_the_work_and_a_note(
    shapes: Sharded, tmp_path: Path, tuned_file: Path
):
    program = Program(tmp_path)
    words = ("eval", "shapes/flat", "-b", "tiny", "--shards", str(shapes.shards), "--weights", str(tuned_file))
    line = "prompts photo: not those that the weights of tiny were trained with (transferlearning)."
    outcome = program(*words, "--prompts", "photo", "--prompts", "transferlearning")
    assert outcome.code == 0 and line in one_line(outcome.out)
    assert re.search(rf"{re.escape(line)}.*Embedded", one_line(outcome.err)), "it is said before images are embedded"
    assert "prompts transferlearning" not in one_line(outcome.err)
