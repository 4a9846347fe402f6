"""`fastclip prompts rank`: counts are those of eval, the planted template is best, and ties are said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from math import comb
from pathlib import Path

import numpy as np
import pytest
from drawn_prompts import TOWER, candidates, drawn_vectors, keep, letters, template
from helpers import Program, Sharded, wait_until

from fastclip.data.shapes import CLASSES
from fastclip.errors import UserError
from fastclip.heads.linear import LinearHead
from fastclip.heads.scores import classify
from fastclip.prompts.candidates import control_templates, find_candidates
from fastclip.prompts.rank import _p, rank
from fastclip.prompts.scoring import Source, right_sets
from fastclip.results.statistics import holm, mcnemar
from fastclip.text.vectors import find_vectors

TEMPLATES = [template(number) for number in range(9)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return letters(tmp_path_factory.mktemp("letters"))


def unit(random: np.random.Generator, *shape: int) -> np.ndarray:
    drawn = random.normal(size=shape).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


@pytest.mark.parametrize("rows", [1, 7, 1500])
def test_a_set_is_right_where_classify_says_so_also_where_classes_tie(rows: int):
    random = np.random.default_rng(rows)
    by_class = unit(random, 5, 6, 16)
    by_class[3] = by_class[1]  # two classes that no image can tell apart
    by_class[4, 2] = by_class[0, 2]
    vectors, labels = unit(random, rows, 16).astype(np.float16), random.integers(0, 5, rows)
    heads = {number: LinearHead(by_class[:, number]) for number in range(6)}
    expected = classify(vectors, heads, labels)
    found = right_sets(vectors, labels, by_class)
    for number in range(6):
        assert (found[:, number] == (expected[number].rank == 0)).all()


def test_the_planted_template_is_best_and_its_counts_are_those_of_a_loop(source: Source):
    of = candidates(*TEMPLATES)
    vectors = drawn_vectors(of, source, {TEMPLATES[4]: 0.1})
    found = rank(source, of, vectors, cores=2)
    assert found.ranked[0].candidate.name == TEMPLATES[4]
    assert found.ranked[0].tied and found.unreadable == 0
    for each in found.ranked:
        right = dict.fromkeys(source.target.domains, 0)
        names = [each.candidate.prompts.prompts(*names)[0] for names in
                 zip(source.target.manifest.classes, source.target.manifest.names, strict=True)]  # fmt: skip
        for shard in source.target.shards:
            images = source.read(shard)
            scores = images.vectors.astype(np.float64) @ vectors.of(names).astype(np.float64).T
            right[shard.domain] += int((scores.argmax(axis=1) == images.labels).sum())
        assert right == each.right
    averages = [each.average for each in found.ranked]
    assert averages == sorted(averages, reverse=True)


def test_holms_exact_tests_say_which_candidates_cannot_be_told_from_the_best(tmp_path: Path):
    source = letters(tmp_path, domains="photo", per_class=60)
    of = candidates(*TEMPLATES)
    noises = {each: 0.2 * number for number, each in enumerate(TEMPLATES)}
    vectors = drawn_vectors(of, source, noises)
    found = rank(source, of, vectors, cores=1)
    answers = {}
    for each in found.ranked:
        texts = [each.candidate.prompts.prompts(*names)[0] for names in
                 zip(source.target.manifest.classes, source.target.manifest.names, strict=True)]  # fmt: skip
        parts = [source.read(shard) for shard in source.target.shards]
        scores = np.concatenate([p.vectors.astype(np.float64) @ vectors.of(texts).astype(np.float64).T for p in parts])
        answers[each.candidate.name] = scores.argmax(axis=1) == np.concatenate([p.labels for p in parts])
    best, *others = (answers[each.candidate.name] for each in found.ranked)
    ps = holm([mcnemar(int((best & ~a).sum()), int((~best & a).sum())).exact for a in others])
    assert [each.tied for each in found.ranked] == [True, *(p > 0.05 for p in ps)]
    assert 1 < found.tied < len(TEMPLATES), "both kinds are there"


def test_a_small_domain_that_outweighs_a_large_one_is_tested_exactly():
    """One image of 100 weighs more than the 200 of 10,000 that scatter: the normal distribution says 0.14."""
    heads = range(201)
    ways = {once: [once / 100 + (2 * head - 200) / 10_000 for head in heads] for once in (-1, 1)}
    seen = 1 / 100 + 50 / 10_000
    far = sum(comb(200, head) for each in ways.values() for head in heads if abs(each[head]) > seen - 1e-9)
    assert _p([(1, 0, 100), (125, 75, 10_000)]) == pytest.approx(far / 2**201, rel=0.02)
    assert far / 2**201 < 0.001


def test_duplicates_are_counted_once_and_named(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one {}\ntwo {}\none {}\n")
    (tmp_path / "b.json").write_text(json.dumps(["two {}"]))
    of = find_candidates([str(tmp_path / "a.txt")], [str(tmp_path / "b.json")])
    assert [each.name for each in of.each] == ["one {}", "two {}"]
    assert of.twice == ("one {}", "b")


def test_controls_are_the_same_for_a_seed_and_distinct():
    ten = control_templates(10, seed=3)
    assert ten[:4] == control_templates(4, seed=3) and len(set(ten)) == 10
    assert ten != control_templates(10, seed=4)
    for wrong in (-1, 10_001):
        with pytest.raises(UserError, match="must be 0 to 10,000"):
            find_candidates(["photo"], [], control=wrong)
    assert all(each.startswith("a photo of a {}, which has ") and each.count("{}") == 1 for each in ten)


def test_candidates_that_beat_random_words_are_counted(source: Source, tmp_path: Path):
    (tmp_path / "three.txt").write_text("\n".join(TEMPLATES[:3]))
    of = find_candidates([str(tmp_path / "three.txt")], [], control=4)
    noises = {each.name: 9.0 for each in of.each} | {TEMPLATES[0]: 0.1}
    noises[of.each[-1].name] = 1.5  # one control that beats two of the three
    found = rank(source, of, drawn_vectors(of, source, noises), cores=1)
    controls = sorted(each.average for each in found.controls)
    assert len(controls) == 4 and found.given[0].candidate.name == TEMPLATES[0]
    assert found.beat(1.0) == sum(each.average > controls[-1] for each in found.given) == 1
    assert found.beat(0.5) == sum(each.average > controls[1] for each in found.given)
    assert found.tied <= 3, "controls are no candidates"


@pytest.fixture(scope="module")
def ranked(shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A folder in which tiny's embeddings are, and the first ranking has been."""
    program = Program(tmp_path_factory.mktemp("ranked"))
    assert program.here("eval", "shapes", "-b", "tiny", "--shards", shapes.shards).code == 0
    lines = ["a photo of a {}.", "a drawing of a {}", "a {folder} in the dark", "x\x1b[31m {}"]
    (program.folder / "mine.txt").write_text("\n".join(lines))
    return program


COMMAND = ("prompts", "rank", "shapes", "-b", "tiny", "--templates", "mine.txt")


def test_every_count_is_the_one_that_eval_gives_for_the_template_alone(ranked: Program, shapes: Sharded):
    words = (*COMMAND, "--texts", "openai80", "--shards", shapes.shards, "--json", "rank.json", "--csv", "rank.csv")
    outcome = ranked.here(*words)
    assert outcome.code == 0, outcome.err
    document = json.loads((ranked.folder / "rank.json").read_bytes())
    assert document["labels_used"] is True
    (found,) = document["rankings"]
    assert found["candidates"]["number"] == 5 and sum(found["images"].values()) == 240
    for number, each in enumerate(found["ranked"]):
        name = f"one{number}.json"
        (ranked.folder / name).write_text(json.dumps(each["templates"]))
        command = ("eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--json", "eval.json", "--prompts", name)
        assert ranked.here(*command).code == 0
        cells = json.loads((ranked.folder / "eval.json").read_bytes())["cells"]
        assert {cell["domain"]: cell["top1"] for cell in cells} == each["right"]
    rows = (ranked.folder / "rank.csv").read_text().splitlines()
    assert rows[0] == "dataset,domain,backbone,candidate,kind,control,right,images" and len(rows) == 1 + 5 * 4


def test_hostile_templates_are_printed_escaped_and_the_table_says_that_labels_ordered_it(
    ranked: Program, shapes: Sharded
):
    outcome = ranked.here(*COMMAND, "--shards", shapes.shards)
    assert outcome.code == 0 and "\x1b" not in outcome.out + outcome.err
    assert "x\\x1b[31m" in outcome.out and "no zero-shot result" in " ".join(outcome.out.split())


def test_a_second_ranking_needs_no_weights_and_prints_the_same(ranked: Program, shapes: Sharded):
    words = (*COMMAND, "--shards", shapes.shards)
    first = ranked.here(*words)
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['fastclip', *sys.argv[1:]]\n"
        "from fastclip.cli.main import run; run()"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    environment = {**os.environ, "COLUMNS": "80"}
    found = subprocess.run(command, cwd=ranked.folder, capture_output=True, text=True, env=environment)
    assert (found.returncode, found.stdout) == (0, first.out), found.stderr
    assert "all text vectors are there" in found.stderr


def test_a_dry_run_forecasts_and_keeps_nothing(ranked: Program, shapes: Sharded):
    (ranked.folder / "new.txt").write_text("quite new {}\n")
    before = sorted((ranked.folder / "embeddings").rglob("*"))
    words = ("prompts", "rank", "shapes", "-b", "tiny", "--templates", "new.txt", "--shards", shapes.shards)
    outcome = ranked.here(*words, "--dry-run")
    assert outcome.code == 0 and outcome.out == ""
    assert f"tiny: {len(CLASSES)} texts to embed at" in outcome.err and "240 images under 1 candidate:" in outcome.err
    assert sorted((ranked.folder / "embeddings").rglob("*")) == before


def test_mistakes_are_two_lines_before_any_work(ranked: Program, shapes: Sharded):
    (ranked.folder / "cat.json").write_text(json.dumps({"cat": ["a cat"]}))
    for words, said in (
        (("--templates", "cat.json"), "--texts cat.json"),
        (("--texts", "cat.json"), "no texts for 12 classes"),
        ((), "There is no candidate"),
        (("--templates", "mine.txt", "--top", "0"), "--top"),
    ):
        outcome = ranked.here("prompts", "rank", "shapes", "-b", "tiny", *words, "--shards", shapes.shards)
        assert (outcome.code, outcome.out) == (2, "") and said in outcome.err, outcome.err
        assert outcome.err.count("\n") == 2


def test_no_candidate_is_a_mistake():
    with pytest.raises(UserError, match="no candidate"):
        find_candidates([], [], control=3)


def test_kept_vectors_are_used_as_they_are(source: Source):
    of = candidates(*TEMPLATES[:2])
    vectors = drawn_vectors(of, source, {TEMPLATES[1]: 0.1})
    keep(vectors, source.store.folder)
    found = find_vectors(source.store.folder / "texts", TOWER, [*vectors.rows, "another"])
    assert found.rows.keys() == vectors.rows.keys()
    assert np.array_equal(found.of([*vectors.rows]), vectors.vectors)


def test_a_store_that_is_copied_takes_the_texts_along(ranked: Program, shapes: Sharded, tmp_path: Path):
    words = (*COMMAND, "--shards", shapes.shards)
    first = ranked.here(*words)
    copied = ranked.here("store", "copy", "--to", tmp_path / "away")
    assert copied.code == 0 and "files of text vectors" in " ".join(copied.out.split())
    again = ranked.here(*words, "--store", tmp_path / "away")
    assert (again.code, again.out) == (0, first.out) and "all text vectors are there" in again.err


def test_drawn_weights_are_no_result(shapes: Sharded, fastclip: Program):
    options = ("-b", "tiny", "--random-weights", "--shards", shapes.shards)
    assert fastclip.here("eval", "shapes", *options).code == 0
    outcome = fastclip.here("prompts", "rank", "shapes", *options, "--templates", "photo")
    assert outcome.code == 0 and "NOT A RESULT" in outcome.out


def test_a_killed_run_keeps_the_texts_that_it_has_and_the_next_one_ends_with_the_same_bytes(
    shapes: Sharded, tmp_path: Path
):
    """Chunks of sixteen texts: the first run is killed once three of them are there."""
    program = Program(tmp_path)
    assert program.here("eval", "shapes", "-b", "tiny", "--shards", shapes.shards).code == 0
    (tmp_path / "many.txt").write_text("\n".join(f"number {number} {{}}" for number in range(60)))
    words = ["prompts", "rank", "shapes", "-b", "tiny", "--templates", "many.txt", "--shards", str(shapes.shards)]
    code = (
        "import sys; from fastclip.text import vectors; vectors.CHUNK = 16; sys.argv = ['fastclip', *sys.argv[1:]]\n"
        "from fastclip.cli.main import run; run()"
    )
    texts = tmp_path / "embeddings" / "texts"
    process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_until(lambda: len([*texts.glob("*/*.safetensors")]) >= 3 or process.poll() is not None, "three chunks")
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in texts.glob("*/*.safetensors")}
    assert len(kept) >= 3
    again = program.here(*words)
    assert again.code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was there is not computed again"
    (tmp_path / "embeddings" / "texts").rename(tmp_path / "aside")
    whole = program.here(*words)
    assert whole.out == again.out
