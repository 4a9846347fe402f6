"""`fastclip probe`: what trains, what is tested and what is counted, against scikit-learn and plain loops."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn_store import RECIPE, draw_dataset, drawn, fill
from helpers import Program, Sharded, image_bytes, shard, write

from fastclip.data.shards.reader import read_index
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import Setup
from fastclip.heads.head_files import load_head, seal_head
from fastclip.heads.logistic import Logistic
from fastclip.results.statistics import mcnemar
from fastclip.store.parts import part_name
from fastclip.transfer.fitting import fit_all
from fastclip.transfer.folds import places, probe_folds
from fastclip.transfer.material import read_material
from fastclip.transfer.methods import HEADS, find_heads, probe_jobs
from fastclip.transfer.run import stored
from fastclip.transfer.samples import Sample

COMMON = ("-b", "tiny", "--shards", "shards")


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A folder with the drawn dataset and a full store of its embeddings."""
    folder = tmp_path_factory.mktemp("letters")
    fill(drawn(folder), folder / "embeddings")
    return Program(folder)


def result(program: Program, *words: object, code: int = 0) -> dict:
    outcome = program.here("probe", *words, *COMMON, "--json", "result.json")
    assert outcome.code == code, outcome.err
    return json.loads((program.folder / "result.json").read_text())


def cell(document: dict, domain: str, head: str) -> dict:
    (found,) = [each for each in document["cells"] if (each["domain"], each["head"]) == (domain, head)]
    return found


def the_setup(program: Program) -> Setup:
    folder = program.folder
    return stored(EvalOptions(backbones=("tiny",), shards=folder / "shards", store=folder / "embeddings"))


def matrix(program: Program, domain: str) -> tuple[np.ndarray, np.ndarray]:
    """The stored vectors and labels of a domain, read by nothing of what is tested."""
    setup = the_setup(program)
    (target,) = setup.targets
    shards = target.manifest.shards_of(domain)
    parts = [setup.store.read(RECIPE.id, part_name(each)) for each in shards]
    labels = [record.label for each in shards for record in read_index(target.folder, each)]
    return np.concatenate([each.embeddings for each in parts if each]).astype(float), np.array(labels)


def test_a_probe_counts_what_scikit_learn_counts(letters: Program, reference_python: Path):
    (photo, photo_y), (sketch, sketch_y), (night, night_y) = (matrix(letters, d) for d in ("photo", "sketch", "night"))
    np.savez(letters.folder / "m.npz", x=np.vstack([photo, sketch]), y=np.r_[photo_y, sketch_y], tx=night, ty=night_y)
    code = (
        "import sys, numpy as np; from sklearn.linear_model import LogisticRegression as L; "
        "m = np.load(sys.argv[1]); h = L(C=2.0, tol=1e-10, max_iter=9999).fit(m['x'], m['y']); "
        "print(int((h.predict(m['tx']) == m['ty']).sum()))"
    )
    command = [str(reference_python), "-W", "ignore", "-c", code, str(letters.folder / "m.npz")]
    expected = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    document = result(letters, "letters/photo", "letters/sketch", "--test", "letters/night", "--strength", "0.5")
    found = cell(document, "night", "logistic")
    assert (found["top1"], found["classified"], found["images"]) == (expected, 36, 36) and 12 < expected < 36
    (head,) = document["heads"]
    assert head["facts"]["images"] == 72 and head["facts"]["settings"] == {"strength": 0.5}
    assert [each["domain"] for each in head["facts"]["training"]] == ["photo", "sketch"]


def test_leave_one_out_tests_every_domain_by_a_head_of_the_others(letters: Program):
    document = result(letters, "letters", "--leave-one-out", "--head", "prototype", "--predictions", "p.parquet")
    everything = {"photo", "sketch", "night"}
    for domain, others in ((each, everything - {each}) for each in sorted(everything)):
        (head,) = [each for each in document["heads"] if each["domains"] == [domain]]
        assert {each["domain"] for each in head["facts"]["training"]} == others
        x, y = (np.concatenate(each) for each in zip(*(matrix(letters, other) for other in others), strict=True))
        means = np.stack([x[y == label].mean(0) for label in range(3)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        tested, labels = matrix(letters, domain)
        assert cell(document, domain, "prototype")["top1"] == int(((tested @ means.T).argmax(1) == labels).sum())
    rows = pq.read_table(letters.folder / "p.parquet").to_pylist()
    for each in document["cells"]:
        of_cell = [row for row in rows if (row["domain"], row["head"]) == (each["domain"], each["head"])]
        assert len(of_cell) == each["images"] and sum(row["rank"] == 0 for row in of_cell) == each["top1"]


def test_no_way_of_writing_shards_changes_a_byte_of_a_head(tmp_path: Path):
    found = []
    for number, size in enumerate((5, 7, 100)):
        folder = tmp_path / str(number)
        fill(drawn(folder, shard_images=size), folder / "embeddings")
        program = Program(folder)
        words = ["letters/photo", "letters/sketch", *["letters/sketch"] * number, "--test", "letters/night"]
        heads = [word for name in HEADS for word in ("--head", name)]
        outcome = program.here("probe", *words, *heads, *COMMON, "--save", "heads")
        assert outcome.code == 0, outcome.err
        found.append({path.name: path.read_bytes() for path in (folder / "heads").iterdir()})
    assert len(found[0]) == len(HEADS) and found[0] == found[1] == found[2]


def test_the_number_of_cores_and_of_jobs_at_once_changes_no_byte(letters: Program):
    setup = the_setup(letters)
    folds = probe_folds(places(setup.targets, ["letters"]), (), leave_one_out=True, split=None)
    material = read_material(setup, "tiny", folds, None)
    jobs = probe_jobs(find_heads(tuple(HEADS)), folds, (), 1, None)
    one, four = (fit_all(material, jobs, cores) for cores in (1, 4))
    assert [seal_head(each.head, each.facts) for each in one] == [seal_head(each.head, each.facts) for each in four]


def test_labels_of_the_tested_domain_reach_no_head(letters: Program):
    """The same fits, with the labels of the tested domain in another order: no byte of any head moves."""
    setup = the_setup(letters)
    (photo, sketch, night) = places(setup.targets, ["letters/photo", "letters/sketch", "letters/night"])
    folds = probe_folds((photo, sketch), (night,), leave_one_out=False, split=None)
    material = read_material(setup, "tiny", folds, None)
    seen = material.samples[night]
    permuted = Sample(seen.vectors, seen.digests, np.random.default_rng(0).permutation(seen.labels), seen.unreadable)
    other = replace(material, samples={**material.samples, night: permuted})
    jobs = probe_jobs(find_heads(tuple(HEADS)), folds, (), 1, None)
    for first, second in zip(fit_all(material, jobs, 2), fit_all(other, jobs, 2), strict=True):
        assert seal_head(first.head, first.facts) == seal_head(second.head, second.facts), first.name


def test_a_split_tests_only_images_that_did_not_train(letters: Program):
    document = result(letters, "letters", "--split", "0.75", "--head", "prototype", "--predictions", "p.parquet")
    (head,) = document["heads"]
    tested = sum(each["images"] for each in document["cells"] if each["head"] == "prototype")
    assert head["facts"]["images"] + tested == 108 and 10 < tested < 50
    rows = pq.read_table(letters.folder / "p.parquet").to_pylist()
    assert len({(row["domain"], row["key"]) for row in rows}) == tested
    assert all(each["sample"] for each in document["cells"]) and head["facts"]["duplicates"] == 0


def test_shots_are_that_many_images_a_class_and_seeds_differ(letters: Program):
    document = result(letters, "letters/photo", "--test", "letters/night", "--shots", "1,4", "--seeds", "2")
    heads = {each["name"]: each["facts"] for each in document["heads"]}
    assert {name: facts["images"] for name, facts in heads.items()} == {
        "logistic, 1 shot, seed 1": 3,
        "logistic, 1 shot, seed 2": 3,
        "logistic, 4 shots, seed 1": 12,
        "logistic, 4 shots, seed 2": 12,
    }
    assert heads["logistic, 4 shots, seed 1"]["figures"]["held_out"] == 12
    assert len({each["sha256"] for each in document["heads"]}) == 4
    out = letters.here("probe", "letters/photo", "--test", "letters/night", "--shots", "4", "--seeds", "2", *COMMON).out
    row = next(line for line in out.splitlines() if "logistic, 4 shots" in line)
    tops = [cell(document, "night", f"logistic, 4 shots, seed {seed}")["top1"] / 36 * 100 for seed in (1, 2)]
    assert f"{np.mean(tops):.2f} ±{np.std(tops, ddof=1):.2f}" in row


def test_the_ends_of_wise_are_zero_shot_and_the_probe(letters: Program):
    words = ["letters/photo", "--test", "letters/night", "--head", "wise", "--head", "logistic"]
    document = result(letters, *words)
    assert cell(document, "night", "wise, α 0.0")["top1"] == cell(document, "night", "zero-shot")["top1"]
    assert cell(document, "night", "wise, α 1.0")["top1"] == cell(document, "night", "logistic")["top1"]
    assert sum(each["head"].startswith("wise, α") for each in document["cells"]) == 11


def test_a_kept_head_scores_other_domains_as_the_probe_did(letters: Program):
    document = result(letters, "letters/photo", "--test", "letters/night", "--head", "logistic", "--save", "kept")
    (path,) = (letters.folder / "kept").glob("*logistic*")
    outcome = letters.here("eval", "letters", "--head", path, "--shards", "shards", "--json", "e.json")
    assert outcome.code == 0, outcome.err
    again = json.loads((letters.folder / "e.json").read_text())
    (name,) = {each["head"] for each in again["cells"]} - {"zero-shot"}
    assert cell(again, "night", name)["top1"] == cell(document, "night", "logistic")["top1"]
    assert again["heads"][0]["sha256"] == document["heads"][0]["sha256"]
    assert "trained on images of photo" in " ".join(outcome.out.split())


def test_duplicates_across_train_and_test_are_counted_and_said(tmp_path: Path):
    source = draw_dataset(tmp_path / "source")
    write(source, {"night/apple/900.png": (source / "photo/apple/000.png").read_bytes()})
    fill(shard(source, tmp_path / "shards", "letters", layout="domain/class"), tmp_path / "embeddings")
    program = Program(tmp_path)
    document = result(program, "letters/photo", "--test", "letters/night")
    assert document["heads"][0]["facts"]["duplicates"] == 1
    out = program.here("probe", "letters/photo", "--test", "letters/night", *COMMON).out
    assert "1 tested image has the bytes of a training image" in " ".join(out.split())


def test_unreadable_images_train_nothing_and_are_counted_where_they_are_tested(tmp_path: Path):
    sharded = drawn(tmp_path)
    (target,) = stored_targets(sharded)
    first = {each.domain: read_index(target.folder, each)[0].key for each in reversed(target.manifest.shards)}
    fill(sharded, tmp_path / "embeddings", unreadable={first["photo"], first["night"]})
    program = Program(tmp_path)
    words = ["letters/photo", "letters/sketch", "--test", "letters/night"]
    document = result(program, *words, code=3)
    facts = document["heads"][0]["facts"]
    assert facts["images"] == 71 and np.isfinite(facts["figures"]["gradient"])
    assert {each["accuracy"] for each in document["cells"]} == {None}
    document = result(program, *words, "--unreadable", "wrong")
    found = cell(document, "night", "logistic")
    assert (found["images"], found["unreadable"]) == (36, 1) and found["accuracy"] == found["top1"] / 36


def stored_targets(sharded: Sharded) -> list:
    from fastclip.data.shards.targets import find_targets

    return find_targets(str(sharded.shards), [sharded.name])


def test_a_class_without_a_training_image_is_never_predicted(tmp_path: Path):
    source = draw_dataset(tmp_path / "source", classes=4)
    for path in (source / "photo/door").iterdir():
        path.unlink()
    fill(shard(source, tmp_path / "shards", "letters", layout="domain/class"), tmp_path / "embeddings")
    program = Program(tmp_path)
    heads = [word for name in HEADS if name != "tip" for word in ("--head", name)]
    outcome = program.here(
        "probe", "letters/photo", "--test", "letters/night", *heads, *COMMON, "--predictions", "p.parquet"
    )
    assert outcome.code == 0, outcome.err
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    fitted = [row for row in rows if row["head"] != "zero-shot" and "α 0.0" not in row["head"]]
    assert fitted and all(row["predicted"] != 3 for row in fitted)
    assert all(row["rank"] == 3 for row in fitted if row["label"] == 3), "the unknown class comes last"


def two_lines(program: Program, *words: object, code: int = 2) -> str:
    outcome = program.here(*words)
    lines = outcome.err.strip().splitlines()
    assert outcome.code == code and len(lines) == 2 and lines[1].startswith("Fix:"), outcome.err
    return outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["letters/photo"], "No domain is tested"),
        ([], "No training domain"),
        (["letters/photo", "--test", "letters"], "letters/photo is trained and tested"),
        (["letters/photo", "--test", "letters/dusk"], "no domain 'dusk'"),
        (["letters/photo", "--test", "letters/night", "--head", "forest"], "does not know 'forest'"),
        (["letters/photo", "--test", "letters/night", "--shots", "0"], "--shots 0"),
        (["letters/photo", "--test", "letters/night", "--shots", "two"], "--shots two"),
        (["letters/photo", "--test", "letters/night", "--shots", "1", "--seeds", "0"], "--seeds"),
        (["letters/photo", "--test", "letters/night", "--strength", "-1"], "-1"),
        (["letters/photo", "--split", "1.5"], "between 0 and 1"),
        (["letters/photo", "--leave-one-out"], "two domains"),
        (["letters", "--leave-one-out", "--split", "0.5"], "--split"),
    ],
)
def test_bad_input_is_two_lines(words: list[str], said: str, letters: Program):
    assert said in two_lines(letters, "probe", *words, *COMMON)


def test_one_class_cannot_be_trained_on(tmp_path: Path):
    files = {f"{domain}/{name}/{n}.png": image_bytes(color=17 * n + len(domain + name)) for n in range(6)
             for domain, name in (("photo", "apple"), ("sketch", "apple"), ("sketch", "bread"))}  # fmt: skip
    source = write(tmp_path / "source" / "letters", files)
    fill(shard(source, tmp_path / "shards", "letters", layout="domain/class"), tmp_path / "embeddings")
    for head in HEADS:
        said = two_lines(
            Program(tmp_path), "probe", "letters/photo", "--test", "letters/sketch", "--head", head, *COMMON
        )
        assert "two classes" in said, head


def test_other_class_lists_other_recipes_and_missing_parts_are_refused(letters: Program, tmp_path: Path):
    program = Program(tmp_path)
    first, second = drawn(tmp_path), drawn(tmp_path, "others", classes=4)
    store = fill(first, tmp_path / "embeddings")
    fill(second, tmp_path / "embeddings")
    words = ["probe", "letters/photo", "--test", "others/night", *COMMON]
    assert "only others has 'door'" in two_lines(program, *words)
    drawn(tmp_path, "third", per_class=11)
    assert "third by tiny has 0 of" in two_lines(
        program, "probe", "letters/photo", "--test", "third/night", *COMMON, code=4
    )
    other = replace(RECIPE, precision="bf16")
    fill(Sharded("third", tmp_path / "source/third", tmp_path / "shards"), tmp_path / "embeddings", of=other)
    said = two_lines(program, "probe", "letters/photo", "--test", "third/night", *COMMON, code=4)
    assert "share a recipe" in said and RECIPE.id[:12] in said and other.id[:12] in said
    (target,) = stored_targets(first)
    store.path(RECIPE.id, part_name(target.manifest.shards[0])).unlink()
    said = two_lines(program, "probe", "letters", "--leave-one-out", "-b", "tiny", "--recipe", RECIPE.id, "--shards",
                     "shards", code=4)  # fmt: skip
    assert " of " in said and "fastclip eval letters" in said


def test_a_head_of_other_classes_or_another_recipe_is_refused(letters: Program, tmp_path: Path):
    assert letters.here("probe", "letters/photo", "--test", "letters/night", *COMMON, "--save", "mine").code == 0
    (path,) = (letters.folder / "mine").iterdir()
    assert "is for tiny" in two_lines(letters, "eval", "letters", "-b", "RN50", "--head", path, "--shards", "shards")
    program = Program(tmp_path)
    fill(drawn(tmp_path, classes=4), tmp_path / "embeddings")
    assert "door" in two_lines(program, "eval", "letters", "--head", path, "--shards", "shards")
    fill(drawn(tmp_path / "b"), tmp_path / "b/embeddings", of=replace(RECIPE, weights="cd" * 32))
    said = two_lines(Program(tmp_path / "b"), "eval", "letters", "--head", path, "--shards", "shards")
    assert "weights" in said or "recipe" in said
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    (tmp_path / "broken.safetensors").write_bytes(data)
    two_lines(letters, "eval", "letters", "--head", tmp_path / "broken.safetensors", "--shards", "shards", code=5)
    assert load_head(path)[1].method == "logistic" and Logistic().name == "logistic"


def test_mcnemars_p_is_scipys(reference_python: Path):
    counts = [(0, 0), (0, 1), (1, 9), (3, 3), (12, 5), (40, 70), (0, 30), (1200, 1000)]
    code = (
        "import sys, json; from scipy.stats import binomtest; "
        "print(json.dumps([binomtest(min(a, b), a + b).pvalue if a + b else 1.0 for a, b in json.loads(sys.argv[1])]))"
    )
    command = [str(reference_python), "-c", code, json.dumps(counts)]
    expected = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert [mcnemar(*each).exact for each in counts] == pytest.approx(expected, rel=1e-9)
