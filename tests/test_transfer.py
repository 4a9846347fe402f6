"""`probe`, `adapt`, `features` and `eval --head` under hostile use: nothing is lost, mixed up or said wrongly."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn_store import RECIPE, draw_dataset, drawn, fill
from helpers import Program, Sharded, image_bytes, shard, write
from test_probe import COMMON, cell, result, two_lines

from fastclip.data.catalogue import parse_card
from fastclip.data.shards.targets import Target, find_targets
from fastclip.data.shards.writer import WriteOptions, write_shards
from fastclip.data.sources.layouts import list_source
from fastclip.heads.head_files import load_head
from fastclip.storage.folders import open_folder
from fastclip.store.parts import part_name
from fastclip.text.prompts import find_prompt_set
from fastclip.text.prototypes import Question, TextRecipe, find_prototypes, keep_prototypes
from fastclip.transfer.folds import Place


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Two datasets of the same classes and domains, `letters` and `others`, whose images differ; both are embedded."""
    folder = tmp_path_factory.mktemp("letters")
    fill(drawn(folder), folder / "embeddings")
    fill(drawn(folder, "others", per_class=9), folder / "embeddings")
    return Program(folder)


@pytest.mark.parametrize(
    "words",
    [
        ("probe", "letters/photo", "--test", "letters/night", "--json", "r.json", "--save", "heads"),
        ("adapt", "letters/photo", "--to", "letters/night", "--json", "r.json"),
        ("features", "letters", "--output", "exported"),
    ],
)
def test_of_several_processes_the_first_prints_and_writes(
    words: tuple[str, ...], letters: Program, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = letters.here(*words, *COMMON)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert not any((letters.folder / each).exists() for each in ("r.json", "heads", "exported"))


def test_domains_of_the_same_name_in_two_datasets_are_two_sources(letters: Program):
    words = ("letters/photo", "others/photo", "others/night", "--all-pairs", "--method", "prior")
    outcome = letters.here("adapt", *words, *COMMON, "--json", "pairs.json", "--strength", "1")
    assert outcome.code == 0, outcome.err
    document = json.loads((letters.folder / "pairs.json").read_text())
    assert sum(each["head"].startswith("source only") for each in document["cells"]) == 6
    assert sum("→" in line and "source" not in line for line in outcome.out.splitlines()) == 6
    for source, name in (("letters/photo", "letters/photo"), ("others/photo", "photo")):
        probe = result(letters, source, "--test", "others/night", "--strength", "1")
        (found,) = [each for each in document["cells"] if (each["dataset"], each["domain"], each["head"]) == (
            "others", "night", f"source only from {name}")]  # fmt: skip
        assert found["top1"] == cell(probe, "night", "logistic")["top1"]


def test_two_heads_of_one_name_both_stand_in_the_table(letters: Program):
    for strength in ("0.1", "1e5"):
        saved = ("--strength", strength, "--save", strength)
        assert letters.here("probe", "letters/photo", "--test", "letters/night", *saved, *COMMON).code == 0
    paths = [letters.folder / each / "tiny-logistic-from-photo.safetensors" for each in ("0.1", "1e5")]
    heads = [word for path in (*paths, paths[0]) for word in ("--head", path)]
    outcome = letters.here("eval", "letters", *heads, "--shards", "shards", "--json", "e.json")
    assert outcome.code == 0, outcome.err
    document = json.loads((letters.folder / "e.json").read_text())
    names = {each["name"]: each["facts"]["settings"]["strength"] for each in document["heads"]}
    assert sorted(names.values()) == [0.1, 1e5] and set(names) | {"zero-shot"} == {c["head"] for c in document["cells"]}
    x, y = matrix_of(letters, "night")
    for name, path in zip(sorted(names, key=names.__getitem__), paths, strict=True):
        head, _ = load_head(path)
        scores = x @ head.weights.T + head.bias
        assert cell(document, "night", name)["top1"] == int((scores.argmax(1) == y).sum())


def matrix_of(program: Program, domain: str) -> tuple[np.ndarray, np.ndarray]:
    program.here("features", f"letters/{domain}", "--output", domain, "--overwrite", *COMMON)
    table = pq.read_table(program.folder / domain / "letters/tiny/parquet/features.parquet").to_pylist()
    return np.array([row["embedding"] for row in table]), np.array([row["label"] for row in table])


def test_heads_of_different_domains_have_files_of_different_names(tmp_path: Path):
    domains = ("a b", "a-b", "a", "b", "日本", "中国", "x" * 120, "x" * 119 + "y")
    files = {f"{domain}/{name}/{number}.png": image_bytes(size=(5 + place, 7 + len(name)), color=number)
             for place, domain in enumerate(domains) for name in ("cup", "bread") for number in range(2)}  # fmt: skip
    source = write(tmp_path / "source" / "letters", files)
    fill(shard(source, tmp_path / "shards", "letters", layout="domain/class"), tmp_path / "embeddings")
    program = Program(tmp_path)
    words = ("--head", "prototype", *COMMON, "--save", "heads")
    assert program.here("probe", "letters", "--leave-one-out", *words).code == 0
    for domain in domains[1:]:
        assert program.here("probe", f"letters/{domain}", "--test", "letters/a b", *words).code == 0
    assert program.here("probe", "letters/a", "letters/b", "--test", "letters/a b", *words).code == 0
    saved = [load_head(path)[1] for path in (tmp_path / "heads").iterdir()]
    assert len({tuple(each.domain for each in facts.training) for facts in saved}) == len(saved) == 2 * len(domains)


def test_a_given_strength_is_the_one_that_wise_blends(letters: Program):
    words = ("letters/photo", "--test", "letters/night", "--strength", "0.25")
    document = result(letters, *words, "--head", "wise", "--head", "logistic")
    wise, logistic = document["heads"]
    assert wise["facts"]["settings"]["strength"] == logistic["facts"]["settings"]["strength"] == 0.25
    assert cell(document, "night", "wise, α 1.0")["top1"] == cell(document, "night", "logistic")["top1"]


def test_a_head_names_the_tested_images_that_it_saw_under_another_name(tmp_path: Path):
    fill(drawn(tmp_path), tmp_path / "embeddings")
    again = write(tmp_path / "source" / "again", {
        path.relative_to(tmp_path / "source/letters").as_posix().replace("photo", "seen"): path.read_bytes()
        for path in (tmp_path / "source/letters").rglob("*.png")})  # fmt: skip
    fill(shard(again, tmp_path / "shards", "again", layout="domain/class"), tmp_path / "embeddings")
    program = Program(tmp_path)
    assert program.here("probe", "letters/photo", "--test", "letters/night", *COMMON, "--save", "h").code == 0
    outcome = program.here("eval", "again", "--head", "h/tiny-logistic-from-photo.safetensors", "--shards", "shards")
    assert "trained on images of seen that are tested here" in " ".join(outcome.out.split())


def test_a_head_that_does_not_fit_is_refused_before_anything_is_embedded(letters: Program, tmp_path: Path):
    assert letters.here("probe", "letters/photo", "--test", "letters/night", *COMMON, "--save", "fit").code == 0
    drawn(tmp_path)
    path = letters.folder / "fit" / "tiny-logistic-from-photo.safetensors"
    said = two_lines(Program(tmp_path), "eval", "letters", "--head", path, "--shards", "shards")
    assert "The head is for tiny with weights" in said and not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("words", "said", "fix"),
    [
        (["adapt", "letters/photo", "--all-pairs"], "needs two domains", "adapt DATASET --all-pairs"),
        (["probe", "letters", "--leave-one-out", "--test", "others"], "--test has no place", "Leave out --test."),
        (["probe", "letters", "--split", "0.9999"], "leaves no readable image", "--split 0.8"),
        (["probe", "letters", "--split", "0.8", "--head", "knn", "--strength", "1"], "knn has none", "Leave out"),
        (
            ["probe", "letters/photo", "--test", "others", "--head", "tip", "--shots", "12"],
            "too few to hold",
            "--shots.",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_cure_that_works(
    words: list[str], said: str, fix: str, letters: Program
):
    lines = two_lines(letters, *words, *COMMON)
    assert said in lines.splitlines()[0] and fix in lines.splitlines()[1]


def test_random_weights_are_said_in_the_title_and_asked_for_by_a_head(tmp_path: Path):
    drawn_weights = replace(RECIPE, weights="random")
    assert drawn_weights.random_weights
    fill(drawn(tmp_path), tmp_path / "embeddings", of=drawn_weights)
    program = Program(tmp_path)
    words = ("letters/photo", *COMMON, "--random-weights")
    for outcome in (
        program.here("probe", *words, "--test", "letters/night", "--save", "h"),
        program.here("adapt", *words, "--to", "letters/night"),
    ):
        assert outcome.code == 0 and "RANDOM WEIGHTS, NOT A RESULT" in outcome.out.splitlines()[0], outcome
    head = ("eval", "letters", "--head", "h/tiny-logistic-from-photo.safetensors", "--shards", "shards")
    assert "Fix:   --random-weights" in two_lines(program, *head)
    assert "NOT A RESULT" in program.here(*head, "--random-weights").out.splitlines()[0]


def test_a_recipe_that_is_named_is_read_or_a_head_for_another_one_is_refused(tmp_path: Path):
    finer = replace(RECIPE, precision="fp32")
    for recipe in (RECIPE, finer):
        fill(drawn(tmp_path), tmp_path / "embeddings", of=recipe)
    program = Program(tmp_path)
    words = ("letters/photo", "--test", "letters/night", *COMMON, "--precision", "fp32", "--save", "h")
    assert program.here("probe", *words).code == 0
    head = ("eval", "letters", "--head", "h/tiny-logistic-from-photo.safetensors", "--shards", "shards")
    assert program.here(*head, "--recipe", finer.id[:12]).code == program.here(*head).code == 0
    assert f"--recipe {finer.id[:12]}" in two_lines(program, *head, "--recipe", RECIPE.id[:12])


def test_a_tested_domain_of_which_no_image_is_in_a_shard_has_a_row_without_numbers(tmp_path: Path):
    source = draw_dataset(tmp_path / "source")
    for path in (source / "night").rglob("*.png"):
        path.write_bytes(b"no image")
    fill(shard(source, tmp_path / "shards", "letters", layout="domain/class"), tmp_path / "embeddings")
    program = Program(tmp_path)
    words = ("letters/photo", "--test", "letters/night", "--test", "letters/sketch", "--unreadable", "wrong")
    document = result(program, *words)
    found = cell(document, "night", "logistic")
    assert (found["images"], found["unreadable"], found["accuracy"]) == (36, 36, 0)


def test_duplicates_are_counted_over_all_tested_domains_and_rows_name_their_dataset(tmp_path: Path):
    fill(drawn(tmp_path), tmp_path / "embeddings")
    copy = write(tmp_path / "source" / "copy", {
        path.relative_to(tmp_path / "source/letters").as_posix(): path.read_bytes()
        for path in (tmp_path / "source/letters").rglob("*.png")})  # fmt: skip
    fill(shard(copy, tmp_path / "shards", "copy", layout="domain/class"), tmp_path / "embeddings")
    heads = ("--head", "prototype", "--head", "knn")
    outcome = Program(tmp_path).here("probe", "letters", "copy", "--leave-one-out", *heads, *COMMON)
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert "216 tested images have the bytes of a training image" in said
    assert all(f"{dataset}/{domain}" in said for dataset in ("letters", "copy") for domain in ("night", "photo"))


def test_adaptation_of_zero_shot_starts_from_the_prompts_of_the_target(tmp_path: Path):
    """`own` calls the folder `cup` a mug, and its prototypes are those of wrong classes: zero-shot and `prior` fail."""
    fill(drawn(tmp_path), tmp_path / "embeddings")
    domains = "".join(f'[[domains]]\nname = "{name}"\n' for name in ("night", "photo", "sketch"))
    card = f'classes = ["apple", "bread", "cup"]\n{domains}[readable_names]\ncup = "mug"\n'.encode()
    write(tmp_path / "shards", {"own.toml": card})
    source = draw_dataset(tmp_path / "source", "own", per_class=9)
    own = parse_card("own", card, "own.toml")
    folder = open_folder(tmp_path / "shards" / "own")
    options = WriteOptions(shard_images=20, processes=1)
    write_shards(list_source(source, own), folder, dataset="own", card=own, options=options)
    fill(Sharded("own", source, tmp_path / "shards"), tmp_path / "embeddings")
    (target,) = find_targets(str(tmp_path / "shards"), ["own"])
    prompts = find_prompt_set("transferlearning")
    classes = prompts.classes(target.manifest.classes, target.manifest.names)
    question = Question(weights=RECIPE.weights, architecture="a", templates=prompts.templates, classes=classes)
    kept = find_prototypes(tmp_path / "embeddings" / "prototypes", question)
    assert kept is not None and target.manifest.names == ("apple", "bread", "mug")
    shutil.rmtree(tmp_path / "embeddings" / "prototypes" / question.id)
    made_by = TextRecipe(libraries="drawn", machine="drawn", switches=(), numerics=1)
    keep_prototypes(tmp_path / "embeddings" / "prototypes", question, made_by, np.roll(kept, 1, axis=0))
    words = ("letters/photo", "--to", "own/night", "--method", "prior", *COMMON, "--strength", "1")
    outcome = Program(tmp_path).here("adapt", *words, "--json", "r.json")
    assert outcome.code == 0, outcome.err
    document = json.loads((tmp_path / "r.json").read_text())
    zero_shot, source_only, prior = (each["top1"] for each in document["cells"])
    assert prior <= 9 and zero_shot <= 9 < 20 < source_only


@pytest.mark.parametrize("strength", ["1e-300", "1e10", "1.7e308"])
@pytest.mark.parametrize("head", ["logistic", "text-logistic", "ridge", "wise"])
def test_a_strength_that_rounding_drowns_is_refused(strength: str, head: str, letters: Program):
    words = ("probe", "letters/photo", "--test", "letters/night", "--head", head, *COMMON)
    assert "from 1e-09 to 1e+09" in two_lines(letters, *words, "--strength", strength)


@pytest.mark.parametrize("strength", ["1e-9", "1e9"])
def test_the_weakest_and_the_strongest_penalty_are_fitted(strength: str, letters: Program):
    heads = [word for name in ("logistic", "text-logistic", "ridge", "wise") for word in ("--head", name)]
    document = result(letters, "letters/photo", "--test", "letters/night", *heads, "--strength", strength)
    assert {each["facts"]["settings"]["strength"] for each in document["heads"]} == {float(strength)}
    assert letters.here("adapt", "letters/photo", "--to", "letters/night", "--strength", strength, *COMMON).code == 0


def test_a_process_stopped_while_it_imports_is_silent_where_another_has_said_why(tmp_path: Path):
    code = (
        "import sys; from fastclip.cli.launcher import leave_verdict; from fastclip.cli.signals import _raise_stopped\n"
        "if sys.argv[1] == 'said': leave_verdict(2)\n"
        "exec(compile('_raise_stopped(15, sys._getframe())', '<frozen importlib>', 'exec'))"
    )
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "1", "RANK": "0", "TMPDIR": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code, "said"], env=environment, capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (143, "")
    next(tmp_path.glob("*.verdict")).unlink()
    alone = subprocess.run([sys.executable, "-c", code, "alone"], env=environment, capture_output=True, text=True)
    assert alone.returncode == 143 and "Stopped by SIGTERM" in alone.stderr


def test_predictions_go_into_a_pipe_and_never_take_its_place(letters: Program, tmp_path: Path):
    """As `--predictions /dev/stdout` of root would have replaced /dev/stdout for every program of the machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = ("letters/photo", "--test", "letters/night", "--strength", "1", *COMMON)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    outcome = letters.here("probe", *words, "--predictions", pipe)
    assert outcome.code == 0 and pipe.is_fifo(), outcome.err
    assert pq.read_table(io.BytesIO(os.read(reader, 1 << 16))).num_rows == 72
    os.close(reader)


@pytest.mark.parametrize("option", ["--json", "--predictions", "--save"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_fitted(
    option: str, letters: Program, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fastclip.transfer.run.run", lambda *_, **__: pytest.fail("it was fitted first"))
    (letters.folder / "file").write_bytes(b"")
    place = "file/below" if option == "--save" else "shards"
    said = two_lines(letters, "probe", "letters/photo", "--test", "letters/night", option, place, *COMMON)
    assert place.split("/")[0] in said
    assert "shards" in two_lines(letters, "eval", "letters", "--json", "shards", *COMMON)


def test_another_head_of_the_same_name_is_not_written_over(letters: Program):
    words = ("probe", "letters/photo", "--test", "letters/night", *COMMON, "--save", "once")
    assert letters.here(*words, "--strength", "1").code == 0
    (path,) = (letters.folder / "once").iterdir()
    before = path.read_bytes()
    assert letters.here(*words, "--strength", "1").code == 0 and path.read_bytes() == before, "the same head again"
    outcome = letters.here(*words, "--strength", "2")
    kept, error, _ = outcome.err.splitlines()
    assert outcome.code == 2 and "holds another head" in error and kept.startswith("Result kept: ")
    assert path.read_bytes() == before


def test_seeds_without_shots_are_refused(letters: Program):
    words = ("probe", "letters/photo", "--test", "letters/night", "--seeds", "2", *COMMON)
    assert "--seeds" in two_lines(letters, *words)


def test_an_embedding_that_is_not_finite_is_never_exported(tmp_path: Path):
    sharded = drawn(tmp_path)
    store = fill(sharded, tmp_path / "embeddings")
    (target,) = find_targets(str(sharded.shards), [sharded.name])
    (first, *_) = target.shards
    part = store.read(RECIPE.id, part_name(first))
    assert part
    vectors = part.embeddings.copy()
    vectors[0, 3] = np.nan
    store.path(RECIPE.id, part_name(first)).unlink()
    store.publish(RECIPE, part_name(first), replace(part, embeddings=vectors))
    program = Program(tmp_path)
    assert "not finite" in two_lines(program, "features", "letters", *COMMON, code=5)
    assert not (tmp_path / "features").exists() or not list((tmp_path / "features").rglob("*.parquet"))


def test_a_long_run_says_how_long_before_it_begins(letters: Program, monkeypatch: pytest.MonkeyPatch):
    words = ("probe", "letters/photo", "--test", "letters/night", *COMMON)
    assert "on this machine" not in letters.here(*words).err
    monkeypatch.setattr("fastclip.transfer.forecast._images", lambda targets: dict.fromkeys(places_of(targets), 10**6))
    assert re.search(r"^1 head to fit: about \d[\d,]* (s|minutes?) on this machine\.$", letters.here(*words).err, re.M)


def places_of(targets: Sequence[Target]) -> list[Place]:
    return [Place(target.name, domain.name) for target in targets for domain in target.manifest.domains]
