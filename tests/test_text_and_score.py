"""Prompt sets, prototypes and counts, against answers that are known without our code."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from fastclip.errors import UserError
from fastclip.heads.linear import LinearHead
from fastclip.heads.scores import IMAGES_PER_BLOCK, Predictions, classify
from fastclip.models.backbones import TINY
from fastclip.models.tower import load_text_tower
from fastclip.models.weights import find_weights
from fastclip.results.cells import Cell, mean
from fastclip.text.prompt_sets import PromptSet
from fastclip.text.prompts import find_prompt_set
from fastclip.text.prototypes import (
    Question,
    TextRecipe,
    compute_prototypes,
    find_prototypes,
    keep_prototypes,
)

CLASSES = [("Alarm_Clock", "Alarm Clock"), ("TV", "television")]


def test_the_published_tables_prompt_keeps_underscores_and_has_no_full_stop():
    assert find_prompt_set("transferlearning").prompts(*CLASSES[0]) == ["a picture of a Alarm_Clock"]
    assert find_prompt_set("photo").prompts(*CLASSES[1]) == ["a photo of a television."]


def test_openai80_are_open_clips_templates_in_their_order():
    import open_clip

    expected = [template("Alarm Clock") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert find_prompt_set("openai80").prompts(*CLASSES[0]) == expected and len(expected) == 80


def test_no_built_in_prompt_set_loads_torch_or_open_clip():
    code = (
        "import sys; from fastclip.text.prompts import BUILT_IN, find_prompt_set; "
        "print([len(find_prompt_set(name).templates) for name in BUILT_IN]); "
        "print({'torch', 'open_clip'} & sys.modules.keys())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[1, 1, 80]\nset()"


def test_a_users_file_is_a_prompt_set(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("\ufeffa {} on a table\r\n\r\n {folder}!\n", "utf-8")
    assert find_prompt_set(str(tmp_path / "mine.txt")) == PromptSet("mine", ("a {} on a table", "{folder}!"))
    (tmp_path / "more.json").write_text('["a {}"]')
    assert find_prompt_set(str(tmp_path / "more.json")) == PromptSet("more", ("a {}",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a photo", "exactly one placeholder"),
        (b"{} and {}", "exactly one placeholder"),
        (b"{0.__class__}", "exactly one placeholder"),
        (b"\n\n", "no template"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_is_no_prompt_set_is_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        find_prompt_set(str(tmp_path / "bad.txt"))


def test_a_name_is_text_and_never_a_template():
    assert PromptSet("x", ("a {}",)).prompts("{folder}", "{}") == ["a {}"]
    assert PromptSet("x", ("a {folder}",)).prompts("a{}b", "readable") == ["a a{}b"]


def test_a_prototype_is_the_mean_direction_of_its_prompts_with_any_number_of_threads():
    tower = load_text_tower(TINY, find_weights(TINY, None), torch.device("cpu"))
    prompts = PromptSet("several", tuple(f"{word} {{}}" for word in "abcdefghijklmnopqrstuvwxyzabcdefghijklmno"))
    one, two = (compute_prototypes(tower, prompts, CLASSES, workers) for workers in (1, 2))
    assert one.tobytes() == two.tobytes()
    for row, names in enumerate(CLASSES):
        vectors = tower(prompts.prompts(*names), 1).numpy().astype(np.float64)
        expected = vectors.mean(axis=0) / np.linalg.norm(vectors.mean(axis=0))
        assert np.abs(one[row] - expected).max() < 1e-6


QUESTION = Question(weights="w", architecture="a", templates=("a {}",), classes=tuple(CLASSES))
HERE = TextRecipe(libraries="l", machine="m", switches=(), numerics=1)
ROWS = np.eye(2, dtype=np.float32)


def test_prototypes_are_kept_under_all_that_they_depend_on(tmp_path: Path):
    assert find_prototypes(tmp_path, QUESTION) is None
    keep_prototypes(tmp_path, QUESTION, HERE, ROWS)
    found = find_prototypes(tmp_path, QUESTION)
    assert found is not None and np.array_equal(found, ROWS)
    changes: list[dict] = [{"weights": "v"}, {"architecture": "b"}, {"templates": ("{}",)}]
    changes += [{"classes": QUESTION.classes[::-1]}, {"classes": (("Alarm_Clock", "clock"), CLASSES[1])}]
    for change in changes:
        assert find_prototypes(tmp_path, dataclasses.replace(QUESTION, **change)) is None, change


def test_of_several_answers_every_reader_takes_the_same_and_the_next_where_that_is_damaged(tmp_path: Path):
    answers = {}
    for number in range(4):
        by = dataclasses.replace(HERE, machine=f"m{number}", numerics=2 if number == 3 else 1)
        answers[by] = ROWS + number
        keep_prototypes(tmp_path, QUESTION, by, answers[by])
    # Computed by the newest arithmetic first, then by digest: no clock plays a part.
    for by in sorted(answers, key=lambda by: (-by.numerics, by.id)):
        found = find_prototypes(tmp_path, QUESTION)
        assert found is not None and np.array_equal(found, answers[by])
        path = tmp_path / QUESTION.id / f"{by.id}.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    assert find_prototypes(tmp_path, QUESTION) is None
    keep_prototypes(tmp_path, QUESTION, HERE, ROWS)
    found = find_prototypes(tmp_path, QUESTION)
    assert found is not None and np.array_equal(found, ROWS)


def classified(embeddings: np.ndarray, prototypes: np.ndarray, labels: np.ndarray) -> Predictions:
    return classify(embeddings, {"zero-shot": LinearHead(prototypes)}, labels)["zero-shot"]


def test_ranks_equal_those_of_a_loop_with_ties_by_class_index():
    rng = np.random.default_rng(0)
    images, classes = IMAGES_PER_BLOCK + 77, 9
    # Few small numbers, so that products tie.
    embeddings = (rng.integers(-2, 3, (images, 4)) / 8).astype(np.float16)
    prototypes = (rng.integers(-2, 3, (classes, 4)) / 8).astype(np.float32)
    labels = rng.integers(0, classes, images)
    answers = classified(embeddings, prototypes, labels)
    ties = 0
    for image in range(images):
        scores = [float(np.dot(embeddings[image].astype(float), prototypes[c])) for c in range(classes)]
        order = sorted(range(classes), key=lambda c: (-scores[c], c))
        assert answers.predicted[image] == order[0]
        assert answers.rank[image] == order.index(labels[image])
        assert answers.margin[image] == scores[order[0]] - scores[order[1]]
        ties += scores[order[0]] == scores[order[1]]
    assert ties > 10


def test_no_image_gives_no_answer():
    none = classified(np.zeros((0, 4), np.float16), np.eye(4, dtype=np.float32), np.zeros(0, np.int64))
    assert len(none.predicted) == len(none.rank) == len(none.margin) == 0


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_an_answer_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(1)
    embeddings = unit(rng.normal(size=(IMAGES_PER_BLOCK + 5, 64))).astype(np.float32)
    prototypes = unit(rng.normal(size=(10, 64))).astype(np.float32)
    labels = np.zeros(len(embeddings), np.int64)
    whole, tail = classified(embeddings, prototypes, labels), classified(embeddings[-9:], prototypes, labels[-9:])
    assert whole.margin[-9:].tobytes() == tail.margin.tobytes()


def test_several_heads_answer_at_once_as_each_does_alone():
    rng = np.random.default_rng(3)
    embeddings = unit(rng.normal(size=(9, 16))).astype(np.float16)
    heads = {name: unit(rng.normal(size=(classes, 16))).astype(np.float32) for name, classes in (("a", 4), ("b", 6))}
    labels = rng.integers(0, 4, 9)
    together = classify(embeddings, {name: LinearHead(rows) for name, rows in heads.items()}, labels)
    for name, rows in heads.items():
        alone = classified(embeddings, rows, labels)
        assert np.array_equal(together[name].rank, alone.rank) and np.array_equal(together[name].margin, alone.margin)


def cell(**changes: int) -> Cell:
    counts = {"images": 10, "classified": 10, "top1": 7, "top5": 9, "unreadable": 0, "shards": 2, "missing_shards": 0}
    return Cell(dataset="d", domain="a", backbone="b", prompts="p", **{**counts, **changes})


def test_an_accuracy_is_one_exact_division_and_never_a_guess():
    assert cell().accuracy("stop") == Fraction(7, 10)
    assert cell(classified=8, unreadable=2).accuracy("stop") is None
    assert cell(classified=8, unreadable=2).accuracy("wrong") == Fraction(7, 10)
    assert cell(classified=8, unreadable=2).accuracy("exclude") == Fraction(7, 8)
    assert cell(classified=0, unreadable=10, top1=0).accuracy("exclude") is None
    for policy in ("stop", "wrong", "exclude"):
        assert cell(classified=5, missing_shards=1).accuracy(policy) is None


def test_an_average_needs_every_domain():
    assert mean([Fraction(1, 2), Fraction(1, 4)]) == Fraction(3, 8)
    assert mean([Fraction(1, 2), None]) is None
    assert mean([]) is None
