"""Ridge, against the normal equations and scikit-learn."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from drawn_classes import draw, predicted

from fastclip.errors import UserError
from fastclip.heads.labelled import Labelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.ridge import Ridge
from fastclip.heads.search import STRENGTHS


def plain_ridge(train: Labelled, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights and intercepts of the classes with images by the normal equations, the intercept as a free column."""
    x = np.hstack([train.vectors.astype(np.float64), np.ones((len(train), 1))])
    y = 2.0 * (train.labels[:, None] == np.flatnonzero(train.known)) - 1.0
    penalty = strength * np.diag([1.0] * train.dim + [0.0])
    solved = np.linalg.solve(x.T @ x + penalty, x.T @ y)
    return solved[:-1].T, solved[-1]


@pytest.mark.parametrize("images", [9, 400])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 300.0])
def test_ridge_solves_the_normal_equations_with_fewer_images_than_numbers_too(images: int, strength: float):
    train, test = draw(0, images, missing=(3,)), draw(1, 200)
    fit = Ridge(strength).fit(train)
    weights, bias = plain_ridge(train, strength)
    there = train.known
    assert isinstance(fit.head, LinearHead) and not there[3] and there.sum() >= 2
    assert np.abs(fit.head.weights[there] - weights).max() < 1e-8 and np.abs(fit.head.bias[there] - bias).max() < 1e-8
    expected = np.flatnonzero(there)[(test.vectors.astype(np.float64) @ weights.T + bias).argmax(axis=1)]
    assert np.array_equal(predicted(fit.head, test), expected)
    assert fit.facts["gradient"] < 1e-12 and fit.facts["strength"] == strength


def test_ridge_is_scikit_learns(reference_python: Path, tmp_path: Path):
    train, test = draw(0, 300, dim=40, spread=0.5), draw(1, 100, dim=40, spread=0.5)
    fit = Ridge(2.5).fit(train)
    np.savez(tmp_path / "in.npz", x=train.vectors.astype(float), y=2.0 * np.eye(5)[train.labels] - 1, test=test.vectors)
    code = (
        "import numpy as np; from sklearn.linear_model import Ridge; given = np.load('in.npz'); "
        "head = Ridge(alpha=2.5, solver='svd').fit(given['x'], given['y']); "
        "np.savez('out.npz', w=head.coef_, b=head.intercept_, best=head.predict(given['test'].astype(float)).argmax(1))"
    )
    subprocess.run([reference_python, "-c", code], cwd=tmp_path, check=True)
    theirs = np.load(tmp_path / "out.npz")
    assert np.abs(fit.head.weights - theirs["w"]).max() < 1e-10 and np.abs(fit.head.bias - theirs["b"]).max() < 1e-10
    assert np.array_equal(predicted(fit.head, test), theirs["best"])


def test_ridge_is_the_same_bits_for_any_number_of_threads():
    train = draw(0, 9000)
    one, three = (Ridge(0.1).fit(train, cores=cores).head for cores in (1, 3))
    assert one.weights.tobytes() == three.weights.tobytes() and one.bias.tobytes() == three.bias.tobytes()


def test_ridges_strength_is_the_strongest_of_the_best_on_held_out_images():
    train, held_out = draw(0, 25, dim=40, spread=0.4), draw(1, 300, dim=40, spread=0.4)
    found = Ridge().choose(train, held_out, cores=2)
    counts = {each: int((predicted(Ridge(each).fit(train).head, held_out) == held_out.labels).sum())
              for each in STRENGTHS[32::4]}  # fmt: skip
    best = int((predicted(Ridge(found.strength).fit(train).head, held_out) == held_out.labels).sum())
    assert found.strength in STRENGTHS and best >= max(counts.values()) - 1
    assert counts[STRENGTHS[32]] < best > counts[STRENGTHS[96]], "the search has something to find"
    alike = Labelled(np.eye(2, 40, dtype=np.float32)[[0, 1]], np.array([0, 1]), 5)
    assert Ridge().choose(alike, alike).strength == STRENGTHS[-1], "all are right: the strongest"


def test_a_penalty_is_positive():
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="positive"):
            Ridge(bad)
