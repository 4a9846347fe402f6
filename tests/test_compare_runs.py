"""Runs and results compared image by image: by key under one manifest, else by the bytes of the images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import drawn_store
import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn_answers import as_answers
from drawn_store import RECIPE, draw_dataset, fill
from helpers import Program, image_bytes, shard, write

from fastclip.errors import IntegrityError, UserError
from fastclip.results.answers import DomainAnswers, PredictionRows
from fastclip.results.cells import Column, PredictionFile
from fastclip.results.comparing.ordering import in_one_order, rows_in_order
from fastclip.results.files.kept import evaluation_of

PLACE = ("letters", "photo")
FIRST, SECOND = Column("tiny", "zero-shot", "photo"), Column("tiny", "zero-shot", "other")
DIGESTS = [f"{number:064x}" for number in range(6)]


def rows(
    right: Sequence[int],
    *,
    column: Column = FIRST,
    keys: str = "abcdef",
    digests: Sequence[str] = DIGESTS,
    labels: Sequence[int] = (0, 0, 1, 1, 2, 2),
    manifest: str = "one",
    fingerprint: str = "the same",
) -> PredictionRows:
    """Predictions of one column for six images."""
    answers = DomainAnswers(
        *PLACE,
        np.array(labels, np.int32),
        {column: as_answers(np.array(right, bool))},
        list(keys),
        [f"dog/{key}.png" for key in keys],
        list(digests),
    )
    facts = PredictionFile(file="predictions.parquet", sha256="", rows=6)
    return PredictionRows(facts, {PLACE: answers}, {"letters": {"photo": fingerprint}}, {"letters": manifest})


def order(first: PredictionRows, second: PredictionRows) -> list[int]:
    return rows_in_order(first, second, PLACE, ("A", "B")).tolist()


def test_under_one_manifest_images_are_found_by_their_keys():
    first, second = rows([1] * 6), rows([1] * 6, keys="fedcba", digests=DIGESTS[::-1], labels=[2, 2, 1, 1, 0, 0])
    assert order(first, first) == [0, 1, 2, 3, 4, 5]
    assert order(first, second) == [5, 4, 3, 2, 1, 0]


def test_under_other_manifests_images_are_found_by_their_bytes_whatever_their_keys():
    moved = [2, 0, 1, 5, 4, 3]
    labels = np.array([0, 0, 1, 1, 2, 2])[moved]
    second = rows([1] * 6, digests=[DIGESTS[each] for each in moved], labels=labels.tolist(), manifest="two")
    assert order(rows([1] * 6), second) == np.argsort(moved).tolist()


def test_keys_that_stand_in_several_tars_are_not_taken_for_images():
    """Shards that others wrote may begin anew in each tar: `aab` of one label are three images."""
    moved = [1, 0, 2, 4, 3, 5]
    same = {"keys": "aabbcc", "labels": [0] * 6}
    second = rows([1] * 6, **{**same, "keys": "aabcbc"}, digests=[DIGESTS[each] for each in moved])
    assert order(rows([1] * 6, **same), second) == np.argsort(moved).tolist()


def test_equal_bytes_under_two_labels_stay_apart():
    """The first and the last image have the same bytes, in two class folders."""
    twins = [*DIGESTS[:5], DIGESTS[0]]
    second = rows([1] * 6, digests=twins[::-1], labels=[2, 2, 1, 1, 0, 0], manifest="two")
    assert order(rows([1] * 6, digests=twins), second) == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (rows([1] * 6, fingerprint="another"), "about other images of letters/photo: their fingerprints are the same"),
        (rows([1] * 6, keys="abcdeg"), "6; 5 are the same"),
        (rows([1] * 6, digests=["f" * 64, *DIGESTS[1:]], manifest="two"), "6; 5 are the same"),
        (rows([1] * 6, labels=[0, 0, 1, 1, 2, 0]), "other labels for 1 of the images"),
    ],
)
def test_other_images_and_other_labels_are_refused(other: PredictionRows, words: str):
    with pytest.raises(UserError, match=words):
        order(rows([1] * 6), other)


def test_answers_of_several_files_are_joined_in_the_order_of_the_first():
    moved = rows([1, 1, 1, 0, 0, 0], column=SECOND, keys="fedcba", digests=DIGESTS[::-1], labels=[2, 2, 1, 1, 0, 0])
    found = in_one_order({"A": rows([1, 0, 1, 0, 1, 0]), "B": moved}).domains[PLACE]
    assert found.columns[FIRST].right.tolist() == [True, False] * 3
    assert found.columns[SECOND].right.tolist() == [False] * 3 + [True] * 3
    assert list(found.keys) == list("abcdef")


def test_files_about_other_domains_of_a_dataset_keep_the_fingerprints_of_all():
    first, second = rows([1] * 6), rows([1] * 6)
    other = replace(second, domains={("letters", "art"): second.domains[PLACE]}, fingerprints={"letters": {"art": "b"}})
    joined = in_one_order({"A": first, "B": other})
    assert list(joined.domains) == [PLACE, ("letters", "art")]
    assert joined.fingerprints == {"letters": {"photo": "the same", "art": "b"}}


def test_one_column_with_two_answers_for_an_image_is_refused():
    with pytest.raises(IntegrityError, match="B has other answers for letters/photo"):
        in_one_order({"A": rows([1, 0, 1, 0, 1, 0]), "B": rows([0, 1, 1, 0, 1, 0])})


def test_predictions_alone_tell_counts_and_duplicates():
    made = evaluation_of(rows([1, 0, 1, 0, 1, 1], digests=[*DIGESTS[:5], DIGESTS[0]]))
    (cell,) = made.cells
    assert (cell.images, cell.classified, cell.top1, cell.unreadable) == (6, 6, 4, 0)
    assert made.datasets[0].duplicates == {"photo": 1}


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs over 108 images: `one`; `two`, sharded anew after all files were renamed; `noisy`, by other embeddings."""
    folder = tmp_path_factory.mktemp("letters")
    source = draw_dataset(folder / "source")
    renamed = draw_dataset(folder / "renamed")
    for path in sorted(renamed.rglob("*.png")):
        path.rename(path.with_name(f"{999 - int(path.stem)}.png"))
    program = Program(folder)
    for name, images, files in (("one", 10, source), ("two", 7, renamed)):
        fill(shard(files, folder / name, "letters", shard_images=images, layout="domain/class"), folder / f"e-{name}")
        evaluate(program, name, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_store, "vector", noisy)
        sharded = shard(source, folder / "noise", "letters", shard_images=10, layout="domain/class")
        fill(sharded, folder / "e-noise", of=replace(RECIPE, precision="bf16"))
    evaluate(program, "noise", "noisy")
    return folder


PLAIN_VECTOR = drawn_store.vector


def noisy(sha256: str, label: int, domain: str) -> np.ndarray:
    return PLAIN_VECTOR(sha256, label, domain) + PLAIN_VECTOR(sha256[::-1], (label + 1) % 3, domain)


def evaluate(program: Program, shards: str, name: str, command: str = "eval", *words: str) -> None:
    store = ("--store", f"e-{shards}", "--shards", shards, "-b", "tiny")
    outcome = program.here(command, "letters", *words, *store, "--results", f"runs-{name}")
    assert outcome.code == 0, outcome.err
    (kept,) = (program.folder / f"runs-{name}").iterdir()
    shutil.move(kept, program.folder / f"run-{name}")


def by_digest(path: Path) -> dict[tuple[str, str], bool]:
    """(Domain, SHA-256) → whether it is right, as another program reads predictions."""
    return {(row["domain"], row["sha256"]): row["rank"] == 0 for row in pq.read_table(path).to_pylist()}


def counted(first: Mapping[tuple[str, str], bool], second: Mapping[tuple[str, str], bool], test: dict) -> list[int]:
    """The images of a test's domain, or domains, that only the second, and only the first, has right."""
    domains = test["over"] or [test["domain"]]
    pairs = [(second[key], first[key]) for key in first if key[0] in domains]
    return [sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)]


def compared(folder: Path, *words: object) -> dict:
    outcome = Program(folder).here("compare", *words, "--json", "found.json")
    assert outcome.code == 0, outcome.err
    (family,) = json.loads((folder / "found.json").read_bytes())["families"]
    return {**family, "text": outcome.out}


def test_two_shardings_of_the_same_images_have_the_same_answers(letters: Path):
    family = compared(letters, "run-one", "run-two")
    assert family["of"] == "runs" and len(family["tests"]) == 4
    assert [(each["only_a"], each["only_b"], each["images"], each["p_exact"]) for each in family["tests"]] == [
        *[(0, 0, 36, 1.0)] * 3,
        (0, 0, 108, 1.0),
    ]
    assert family["notes"][0] == "0 of 108 predicted classes differ."
    one, two = (pq.read_table(letters / run / "predictions.parquet") for run in ("run-one", "run-two"))
    assert one["rank"] != two["rank"] and one["key"] == two["key"], "the test could not tell rows from images"


@pytest.mark.parametrize("first", ["run-one", "run-two"])
def test_another_recipe_is_counted_image_by_image_whatever_the_shards(letters: Path, first: str):
    family = compared(letters, first, "run-noisy")
    before, after = (by_digest(letters / run / "predictions.parquet") for run in (first, "run-noisy"))
    assert before != after
    for each in family["tests"]:
        assert [each["only_a"], each["only_b"]] == counted(before, after, each)
    assert family["notes"][1] == "tiny: precision bf16, not fp16."
    name = f"letters (3 domains), tiny, transferlearning: run-noisy against {first}; 4 tests"
    assert family["name"] == name


def test_files_of_predictions_are_compared_as_runs_too(letters: Path):
    files = [f"{run}/predictions.parquet" for run in ("run-two", "run-noisy")]
    alone = [shutil.copy(letters / file, letters / f"{number}.parquet") for number, file in enumerate(files)]
    with_results, without = compared(letters, *files), compared(letters, *alone)
    assert with_results["tests"] == without["tests"]


def test_to_names_the_run_that_the_others_are_compared_with(letters: Path):
    family = compared(letters, "run-one", "run-noisy", "--to", "run-noisy")
    assert "run-one against run-noisy;" in family["name"]


def test_heads_of_two_runs_are_compared_through_their_predictions(letters: Path):
    program = Program(letters)
    for head in ("prototype", "ridge"):
        evaluate(program, "one", head, "probe", "--leave-one-out", "--head", head)
    family = compared(letters, "run-prototype", "run-ridge", "--to", "ridge")
    assert family["of"] == "heads" and {each["a"]["head"] for each in family["tests"]} == {"zero-shot", "prototype"}
    right = {}
    for run in ("run-prototype", "run-ridge"):
        for row in pq.read_table(letters / run / "predictions.parquet").to_pylist():
            right.setdefault(row["head"], {})[row["domain"], row["sha256"]] = row["rank"] == 0
    for each in family["tests"]:
        expected = counted(right["ridge"], right[each["a"]["head"]], each)
        assert [each["only_a"], each["only_b"]] == expected
    assert len(family["ranks"]) == len(right) == 3


REFUSALS = [
    (("nowhere",), 2, "There is no result nowhere."),
    (("one",), 2, "one holds no result."),
    (("run-one",), 2, "There are no two prompt sets with numbers"),
    (("run-one", "--of", "runs"), 2, "--of runs compares two results"),
    (("run-one", "run-two", "--to", "run-x"), 2, "--to run-x is none of the results"),
    (("run-one", "run-two", "--of", "backbones"), 2, "run-one and run-two cannot be one table"),
    (("run-one", "other"), 2, "run-one and other are about other images of letters/photo"),
    (("run-one", "torn"), 5, "torn/predictions.parquet is torn, or no file of predictions"),
    (("run-one", "swapped"), 5, "swapped/predictions.parquet holds predictions of another run"),
    (("run-one", "alone"), 2, "alone has no predictions beside it"),
    (("run-one", "newer"), 2, "newer/result.json is a fastclip.result/2"),
    (("run-one", "cut"), 5, "cut/result.json is torn, or no JSON"),
    (("run-one", "pair.parquet", "--of", "prompts"), 2, "pair.parquet is a file of predictions alone"),
    (("run-one", "--of", "colours"), 2, "--of does not know 'colours'."),
    (("run-one", "run-two", "--prompts", "photo"), 2, "have no answers of the same column"),
]


@pytest.fixture(scope="module")
def broken(letters: Path) -> Path:
    """The runs, and beside them some that something happened to."""
    files = {run: (letters / run / "result.json").read_bytes() for run in ("run-one", "run-noisy")}
    rows = {run: (letters / run / "predictions.parquet").read_bytes() for run in ("run-one", "run-noisy")}
    write(
        letters,
        {
            "torn/result.json": files["run-noisy"],
            "torn/predictions.parquet": rows["run-noisy"][:-100],
            "swapped/result.json": files["run-noisy"],
            "swapped/predictions.parquet": rows["run-one"],
            "alone/result.json": files["run-noisy"],
            "newer/result.json": files["run-noisy"].replace(b"fastclip.result/1", b"fastclip.result/2"),
            "cut/result.json": files["run-noisy"][:500],
            "pair.parquet": rows["run-noisy"],
        },
    )
    shutil.copytree(letters / "source" / "letters", letters / "changed" / "letters")
    write(letters / "changed" / "letters", {"photo/apple/000.png": image_bytes(size=(9, 9), color=3)})
    fill(
        shard(letters / "changed" / "letters", letters / "changed-shards", "letters", layout="domain/class"),
        letters / "e-changed-shards",
    )
    evaluate(Program(letters), "changed-shards", "changed")
    (letters / "run-changed").rename(letters / "other")
    return letters


@pytest.mark.parametrize(("words", "code", "message"), REFUSALS)
def test_bad_input_is_two_lines(broken: Path, words: Sequence[str], code: int, message: str):
    outcome = Program(broken).here("compare", *words)
    error, fix, *more = outcome.err.splitlines()
    assert (outcome.code, more) == (code, []), outcome.err
    assert error.startswith("Error: ") and message in error and fix.startswith("Fix:   ")
    assert outcome.out == ""


def test_a_folder_of_runs_is_all_of_them(letters: Path, tmp_path: Path):
    for run in ("run-one", "run-noisy"):
        shutil.copytree(letters / run, tmp_path / "all" / run)
    assert "all/run-one against all/run-noisy;" in compared(tmp_path, "all")["name"]


@pytest.mark.parametrize(("policy", "images"), [("exclude", 34), ("wrong", 36)])
def test_unreadable_images_are_left_out_or_wrong_as_the_policy_has_it(tmp_path: Path, policy: str, images: int):
    """Either run cannot read one image of the photos, each another one."""
    program = Program(tmp_path)
    sharded = shard(draw_dataset(tmp_path / "source"), tmp_path / "shards", "letters", layout="domain/class")
    for name, key in (("one", "photo/00000003"), ("two", "photo/00000020")):
        fill(sharded, tmp_path / name, unreadable=[key])
        words = ("--unreadable", policy, "--results", f"runs-{name}", "--shards", "shards", "-b", "tiny")
        assert program.here("eval", "letters/photo", "--store", name, *words).code == 0
    runs = [next((tmp_path / f"runs-{name}").iterdir()) for name in ("one", "two")]
    (test,) = compared(tmp_path, *runs)["tests"]
    before, after = (by_digest(run / "predictions.parquet") for run in runs)
    ranks = [
        {row["sha256"]: row["rank"] for row in pq.read_table(run / "predictions.parquet").to_pylist()} for run in runs
    ]
    asked = [key for key in before if policy == "wrong" or None not in (ranks[0][key[1]], ranks[1][key[1]])]
    gained, lost = (sum(b[key] and not a[key] for key in asked) for a, b in ((before, after), (after, before)))
    assert (test["only_a"], test["only_b"], test["images"]) == (gained, lost, images)
    assert gained + lost > 0 or policy == "exclude"
