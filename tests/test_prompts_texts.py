"""Text vectors: kept under all that they depend on, the same for every reader, and no neighbour moves a bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fastclip.errors import UserError
from fastclip.models.backbones import TINY
from fastclip.models.tower import TextTower, load_text_tower
from fastclip.models.weights import find_weights
from fastclip.text import vectors as module
from fastclip.text.directions import class_sums, unit_rows
from fastclip.text.prototypes import TextRecipe
from fastclip.text.vectors import TowerName, compute_vectors, copy_vectors, find_vectors, joined, keep_vectors

NAME = TowerName(weights="ab" * 32, architecture="a")
HERE = TextRecipe(libraries="l", machine="m", switches=(), numerics=1)
TEXTS = ["a cat", "a dog", "{} \x1b\n"]
ROWS = np.eye(3, dtype=np.float32)


@pytest.fixture(scope="module")
def tower() -> TextTower:
    return load_text_tower(TINY, find_weights(TINY, None), torch.device("cpu"))


def test_vectors_are_found_by_their_text_and_tower(tmp_path: Path):
    assert not find_vectors(tmp_path, NAME, TEXTS).rows
    keep_vectors(tmp_path, NAME, HERE, TEXTS, ROWS)
    found = find_vectors(tmp_path, NAME, [TEXTS[2], "other", TEXTS[0]])
    assert found.rows.keys() == {TEXTS[2], TEXTS[0]}
    assert np.array_equal(found.of([TEXTS[0], TEXTS[2]]), ROWS[[0, 2]])
    for other in (replace(NAME, weights="cd" * 32), replace(NAME, architecture="b")):
        assert not find_vectors(tmp_path, other, TEXTS).rows


def test_of_two_machines_answers_every_reader_takes_the_same_and_the_higher_version_first(tmp_path: Path):
    recipes = [replace(HERE, machine=f"m{number}") for number in range(3)] + [replace(HERE, numerics=2)]
    for turn in (recipes, recipes[::-1]):
        folder = tmp_path / str(turn is recipes)
        for recipe in turn:
            keep_vectors(folder, NAME, recipe, TEXTS, ROWS * (1 + recipes.index(recipe)))
        assert np.array_equal(find_vectors(folder, NAME, TEXTS).of(TEXTS), ROWS * 4)


def test_a_damaged_file_and_foreign_ones_are_as_if_they_were_not_there(tmp_path: Path):
    keep_vectors(tmp_path, NAME, HERE, TEXTS, ROWS)
    (path,) = tmp_path.glob("*/*.safetensors")
    data = path.read_bytes()
    for bad in (data[:-1], data[:40], b"", data[:-4] + b"\0\0\0\1"):
        path.write_bytes(bad)
        assert not find_vectors(tmp_path, NAME, TEXTS).rows
        keep_vectors(tmp_path, NAME, HERE, TEXTS, ROWS)
        assert path.read_bytes() == data, "it is replaced"
    path.with_name(f"{path.stem} (conflicted copy).safetensors").write_bytes(b"junk")
    (path.parent / f"{'0' * 64}-{'1' * 64}.safetensors").mkdir()
    assert np.array_equal(find_vectors(tmp_path, NAME, TEXTS).of(TEXTS), ROWS)


def test_a_file_under_another_towers_name_is_not_taken(tmp_path: Path):
    keep_vectors(tmp_path, NAME, HERE, TEXTS, ROWS)
    other = replace(NAME, weights="cd" * 32)
    (tmp_path / NAME.id).rename(tmp_path / other.id)
    assert not find_vectors(tmp_path, other, TEXTS).rows


def test_vectors_are_copied_by_their_weights_and_proved(tmp_path: Path):
    keep_vectors(tmp_path / "from", NAME, HERE, TEXTS, ROWS)
    keep_vectors(tmp_path / "from", replace(NAME, weights="cd" * 32), HERE, TEXTS, ROWS)
    assert copy_vectors(tmp_path / "from", tmp_path / "to", NAME.weights) == 1
    assert np.array_equal(find_vectors(tmp_path / "to", NAME, TEXTS).of(TEXTS), ROWS)


def test_no_neighbour_moves_a_vectors_bits(tower: TextTower):
    """Of other texts, another order, another number of threads, and a long one among them."""
    texts = [f"{how} picture of a {what}" for how in ("a", "the very best", "no") for what in ("ring", "star", "cup")]
    longest = " ".join(["long"] * 28)

    def computed(of: list[str], workers: int) -> module.TextVectors:
        return joined([
            module.TextVectors({text: row for row, text in enumerate(chunk)}, vectors)
            for chunk, vectors in compute_vectors(tower, of, workers)
        ])  # fmt: skip

    first, second = computed(texts, 1), computed([longest, *texts[::-1], *(f"{n} more" for n in range(30))], 2)
    assert np.array_equal(first.of(texts), second.of(texts))
    assert np.abs(first.of(texts) - tower(texts, 1).numpy()).max() < 1e-6


def test_a_text_that_does_not_fit_is_refused_before_anything_is_computed(tower: TextTower):
    with pytest.raises(UserError, match="tokens"):
        next(compute_vectors(tower, ["a cat", "long " * 80], 1))


def test_sums_are_those_of_each_class_and_rows_become_unit_vectors():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(6, 5)).astype(np.float32)
    sums = class_sums(vectors, [1, 3, 2])
    expected = [vectors[:1], vectors[1:4], vectors[4:]]
    assert np.allclose(sums, [each.astype(np.float64).sum(axis=0) for each in expected], atol=1e-15)
    assert np.allclose(unit_rows(sums), sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-7)
