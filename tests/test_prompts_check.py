"""`fastclip prompts check`: what eval would refuse ends with 2, what is odd is shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import Program, Sharded

from fastclip.data.shapes import CLASSES
from fastclip.models.backbones import TINY
from fastclip.models.tower import find_tokenizer
from fastclip.prompts.check import check_lengths, check_prototypes, check_texts


def said(by_class: dict[str, list[str]]) -> list[str]:
    return [each.text for each in check_texts(by_class)]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["x", "x"], "Twice or more in one class"),
        (["a_b"], "With an underscore"),
        (["n01443537 fish"], "With a WordNet id"),
        (["a\nb"], "newline or another control character"),
        (["a\x1b[31m"], "newline or another control character: 1 prompt: 'a\\x1b[31m'"),
        ([" a"], "With a blank at an end"),
    ],
)
def test_each_kind_of_oddity_is_found_alone(texts: list[str], words: str):
    (found,) = said({"a": texts, "b": ["fine"]})
    assert words in found
    assert not said({"a": ["fine"], "b": ["well"]})


def test_a_text_of_two_classes_is_named_with_both():
    (found,) = said({"crane": ["a crane"], "bird": ["a crane", "a bird"]})
    assert "In several classes" in found and "'a crane'" in found and "crane; bird" in found


def test_the_tokens_that_fit_are_counted_to_the_last():
    tokenizer = find_tokenizer(TINY.architecture)
    room = tokenizer.context_length - 2
    assert not [*check_lengths({"a": [" ".join(["cat"] * room)]}, tokenizer)]
    (found,) = check_lengths({"a": [" ".join(["cat"] * (room + 1))]}, tokenizer)
    assert found.refused and f"the {room} tokens that fit" in found.text


def test_equal_prototypes_are_found_and_close_ones_are_not():
    random = np.random.default_rng(0)
    rows = random.normal(size=(5, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[3] = rows[1] + 1e-5 * rows[0]
    rows[4] = rows[2] + 1e-2 * rows[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    (found,) = check_prototypes(["a", "b", "c", "d", "e"], rows.astype(np.float32))
    assert found.text.endswith("b and d.")


def test_a_set_that_eval_refuses_ends_with_2_and_another_with_0(shapes: Sharded, fastclip: Program):
    shards = ("--shards", shapes.shards)
    texts = {name: [f"a {name}"] for name in CLASSES}
    names = sorted(texts)
    texts[names[1]] = texts[names[0]]
    (fastclip.folder / "twins.json").write_text(json.dumps(texts))
    (fastclip.folder / "few.json").write_text(json.dumps({names[0]: ["a"], "cat\x1b": ["b"]}))
    assert fastclip.here("eval", "shapes", "-b", "tiny", *shards).code == 0
    outcome = fastclip.here("prompts", "check", "few.json", "shapes", *shards)
    assert outcome.code == 2 and "no texts for 11 classes" in " ".join(outcome.out.split())
    assert "\x1b" not in outcome.out
    outcome = fastclip.here("prompts", "check", "twins.json", "shapes", "-b", "tiny", *shards)
    shown = " ".join(outcome.out.split())
    assert outcome.code == 0 and f"Classes with equal prototypes (cosine above 1 - 1e-06): {names[0]} and" in shown
    outcome = fastclip.here("prompts", "check", "photo", "shapes", *shards)
    assert outcome.code == 0 and "photo: 1 template, on shapes: nothing found." in outcome.out
    assert "Left out: equal prototypes" in outcome.out
    outcome = fastclip.here("prompts", "check", "nowhere.txt")
    assert outcome.code == 2 and outcome.err.count("\n") == 2
