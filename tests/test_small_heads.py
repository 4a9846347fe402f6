"""Class means, ridge, Tip-Adapter and WiSE, against formulas of a few lines, loops and scikit-learn."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fastclip.errors import IntegrityError, UserError
from fastclip.heads import tip
from fastclip.heads.blocks import blocks_of
from fastclip.heads.class_means import ClassMeans, class_means, class_sums
from fastclip.heads.labelled import Labelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.method import Method
from fastclip.heads.neighbours import Neighbours
from fastclip.heads.ridge import Ridge
from fastclip.heads.scores import classify, exact
from fastclip.heads.search import STRENGTHS
from fastclip.heads.tip import Tip
from fastclip.heads.votes import vote
from fastclip.heads.wise import ALPHAS, Point, choose_alpha, curve, interpolate


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw(
    seed: int, images: int, *, classes: int = 5, dim: int = 16, spread: float = 0.3, missing: tuple[int, ...] = ()
) -> Labelled:
    """Images of classes that overlap, in fp16 as they are stored. Any seed has the same classes."""
    centres = unit(np.random.default_rng(99).normal(size=(classes, dim)))
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.setdiff1d(np.arange(classes), missing), images)
    vectors = unit(centres[labels] + spread * rng.normal(size=(images, dim)))
    return Labelled(vectors.astype(np.float16), labels, classes)


def predicted(head, images: Labelled) -> np.ndarray:
    return classify(images.vectors, {"": head}, images.labels)[""].predicted


ONE_CLASS = Labelled(draw(0, 4).vectors, np.zeros(4, np.int64), 5)


# Class means


def test_class_means_are_those_of_a_loop_over_images():
    train = draw(0, 300, missing=(3,))
    sums: dict[int, np.ndarray] = {}
    for vector, label in zip(train.vectors.astype(np.float64), train.labels.tolist(), strict=True):
        sums[label] = sums.get(label, np.zeros(16)) + vector
    found = class_means(train)
    assert sorted(sums) == [0, 1, 2, 4] and not found[3].any()
    for label, total in sums.items():
        assert np.abs(found[label] - total / np.linalg.norm(total)).max() < 1e-15


def test_sums_of_classes_are_exact_so_that_order_and_threads_move_no_bit():
    vectors = unit(np.random.default_rng(1).normal(size=(9000, 6))).astype(np.float32)
    train = Labelled(vectors, np.arange(9000) % 4, 4)
    expected = [sum(map(Fraction, exact(vectors)[label::4, 0].tolist())) for label in range(4)]
    order = np.random.default_rng(2).permutation(9000)
    for found in (class_sums(train), class_sums(train, cores=3), class_sums(train.take(order))):
        assert [Fraction(value) for value in found[:, 0].tolist()] == expected
        assert found.tobytes() == class_sums(train).tobytes()


def test_the_nearest_class_mean_wins_and_a_class_without_images_never_does():
    train, test = draw(0, 200, missing=(3,)), draw(1, 100)
    fit = ClassMeans().fit(train)
    means = np.stack([unit(train.vectors[train.labels == c].mean(axis=0, dtype=float)[None])[0] for c in (0, 1, 2, 4)])
    nearest = np.array([0, 1, 2, 4])[(test.vectors.astype(np.float64) @ means.T).argmax(axis=1)]
    assert np.array_equal(predicted(fit.head, test), nearest) and len(set(nearest.tolist())) == 4
    assert fit.facts == {"images": 200, "classes": 4}


# Ridge


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


# Tip-Adapter


def five_lines(train: Labelled, prototypes: np.ndarray, images: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """The formula of the paper."""
    f, k = images.astype(np.float64), train.vectors.astype(np.float64)
    values = np.eye(train.classes)[train.labels]
    affinity = np.exp(-beta * (1 - f @ k.T))
    return 100 * f @ prototypes.astype(np.float64).T + alpha * affinity @ values


PROTOTYPES = unit(np.random.default_rng(5).normal(size=(5, 16))).astype(np.float32)


@pytest.mark.parametrize(("alpha", "beta"), [(1.17, 1.0), (3.0, 7.0), (0.0, 0.5)])
def test_tip_is_the_formula_of_the_paper_and_zero_shot_for_a_class_without_images(alpha: float, beta: float):
    train, test = draw(0, 80, missing=(3,)), draw(1, 60)
    fit = Tip(alpha, beta).fit(train, prototypes=PROTOTYPES)
    expected = five_lines(train, PROTOTYPES, test.vectors, alpha, beta)
    found = fit.head(exact(test.vectors))
    assert np.abs(found - expected).max() < 2e-5 and np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    assert np.array_equal(found[:, 3], 100 * LinearHead(PROTOTYPES)(exact(test.vectors))[:, 3])
    assert fit.facts == {"images": 80.0, "classes": 4.0, "views": 1.0, "alpha": alpha, "beta": beta}


def test_tips_votes_are_exact_whatever_the_order_of_keys_and_the_blocks(monkeypatch: pytest.MonkeyPatch):
    train, test = draw(0, 300), draw(1, 70)
    scores = Tip().fit(train, prototypes=PROTOTYPES).head(exact(test.vectors))
    other = train.take(np.random.default_rng(6).permutation(300))
    monkeypatch.setattr(tip, "IMAGES", 7)
    monkeypatch.setattr(tip, "blocks_of", lambda count, size=50: blocks_of(count, size))
    assert Tip().fit(other, prototypes=PROTOTYPES).head(exact(test.vectors)).tobytes() == scores.tobytes()
    distances = [1 - a for a in (exact(test.vectors)[0] @ exact(train.vectors).T).tolist()]
    steps = [round(vote(np.array([-each])).item() * 2**26) for each in distances]
    votes = [sum(step for step, label in zip(steps, train.labels, strict=True) if label == c) for c in range(5)]
    zero_shot = 100 * LinearHead(PROTOTYPES)(exact(test.vectors))[0]
    assert scores[0].tolist() == [z + 1.17 * (v / 2**26) for z, v in zip(zero_shot.tolist(), votes, strict=True)]


def test_tips_grid_is_the_originals_and_the_first_of_the_best_is_taken():
    train, held_out = draw(0, 20, spread=0.5), draw(1, 90, spread=0.5)
    betas = [i * (7 - 0.1) / 200 + 0.1 for i in range(200)]
    alphas = [i * (3 - 0.1) / 20 + 0.1 for i in range(20)]
    assert (list(tip.BETAS), list(tip.ALPHAS)) == (betas, alphas)
    prototypes = PROTOTYPES / 30  # else votes of at most 4 an image change little of 100 · cosine
    best, found = 0, (0.0, 0.0)
    for beta in betas:
        for alpha in alphas:
            scores = five_lines(train, prototypes, held_out.vectors, alpha, beta)
            right = int((scores.argmax(axis=1) == held_out.labels).sum())
            if right > best:
                best, found = right, (beta, alpha)
    chosen = Tip().choose(train, held_out, prototypes=prototypes, cores=2)
    assert (chosen.beta, chosen.alpha) == found and found != (betas[0], alphas[0])


def test_tip_needs_prototypes_and_settings_in_range():
    with pytest.raises(UserError, match="prototypes") as raised:
        Tip().fit(draw(0, 10))
    assert "--prompts" in raised.value.fix
    for bad in ({"alpha": -1.0}, {"beta": float("nan")}):
        with pytest.raises(UserError, match="at least 0"):
            Tip(**bad)


# Every method


@pytest.mark.parametrize("method", [ClassMeans(), Ridge(), Tip(), Neighbours()])
def test_a_method_refuses_one_class_with_a_cure(method: Method):
    with pytest.raises(UserError, match="two classes; there are 1") as raised:
        method.fit(ONE_CLASS, prototypes=np.eye(5, 16))
    assert raised.value.fix


@pytest.mark.parametrize("method", [ClassMeans(), Ridge(), Neighbours()])
def test_a_damaged_vector_is_an_error_of_integrity(method: Method):
    train = draw(0, 40)
    train.vectors[7, 3] = np.nan
    with pytest.raises(IntegrityError, match="not finite"):
        method.fit(train)


@pytest.mark.parametrize("method", [ClassMeans(), Ridge(), Tip(), Neighbours()])
def test_the_order_of_images_and_classes_without_any_do_not_matter(method: Method):
    """Rows are in the order of digests everywhere; for these methods even another order predicts the same."""
    train, test = draw(0, 120, missing=(3,)), draw(1, 100)
    shuffled = train.take(np.random.default_rng(1).permutation(120))
    one, other = (method.fit(each, prototypes=PROTOTYPES).head for each in (train, shuffled))
    assert one.classes == 5 and np.array_equal(predicted(one, test), predicted(other, test))


# WiSE


def test_both_ends_of_a_curve_predict_as_the_two_heads_do_and_the_middle_as_the_formula():
    images = draw(1, 400)
    zero_shot = LinearHead(unit(np.random.default_rng(3).normal(size=(5, 16))).astype(np.float32))
    trained = LinearHead(30 * class_means(draw(0, 50)), np.array([0.0, 5.0, -1.0, 0.5, 2.0]))
    for alpha, head in ((0.0, zero_shot), (1.0, trained)):
        ours, theirs = (classify(images.vectors, {"": each}, images.labels)[""]
                        for each in (interpolate(zero_shot, trained, alpha), head))  # fmt: skip
        assert np.array_equal(ours.rank, theirs.rank) and np.array_equal(ours.margin, theirs.margin)
    middle = interpolate(zero_shot, trained, 0.3)
    assert np.allclose(middle.weights, 70 * zero_shot.weights.astype(float) + 0.3 * trained.weights, atol=1e-12)
    assert np.allclose(middle.bias, 0.3 * trained.bias, atol=0)
    points = curve(zero_shot, trained, images, cores=2)
    assert [each.alpha for each in points] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    x = images.vectors.astype(np.float64)
    for point in points:
        scores = (1 - point.alpha) * 100 * x @ zero_shot.weights.T + point.alpha * (
            x @ trained.weights.T + trained.bias
        )
        assert point == Point(point.alpha, int((scores.argmax(axis=1) == images.labels).sum()), 400)
    assert points[0].right != points[10].right


def test_alpha_is_the_best_on_held_out_images_and_of_equal_ones_the_nearest_to_zero_shot():
    images = draw(1, 300)
    good, bad = LinearHead(class_means(images)), LinearHead(-class_means(images))
    assert choose_alpha(good, good, images) == 0.0
    assert choose_alpha(good, bad, images) == 0.0
    turned = LinearHead(100 * class_means(images))
    alpha = choose_alpha(bad, turned, images)
    counts = {point.alpha: point.right for point in curve(bad, turned, images)}
    assert alpha == min(each for each in ALPHAS if counts[each] == max(counts.values())) == 0.6


def test_a_class_that_was_not_trained_stays_unknown_but_at_zero_shot():
    images = draw(1, 50)
    zero_shot = LinearHead(class_means(images))
    trained = LinearHead(class_means(images), known=np.array([True, True, False, True, True]))
    for alpha in ALPHAS:
        scores = interpolate(zero_shot, trained, alpha)(exact(images.vectors))
        assert np.isneginf(scores[:, 2]).all() == (alpha > 0) and np.isfinite(np.delete(scores, 2, axis=1)).all()


# Machines

SCORES = """
import hashlib, sys
import numpy as np
from fastclip.heads.blocks import blocks_of
from fastclip.heads.class_means import ClassMeans
from fastclip.heads.labelled import Labelled
from fastclip.heads.neighbours import Neighbours
from fastclip.heads.scores import exact
from fastclip.heads.tip import Tip

rng = np.random.Generator(np.random.PCG64(0))
drawn = rng.integers(-1000, 1000, (3000, 96)).astype(np.float64)
vectors = (drawn / np.sqrt((drawn * drawn).sum(axis=1, keepdims=True))).astype(np.float16)
train, images = Labelled(vectors[:2500], np.arange(2500) % 7, 8), exact(vectors[2500:2992])
prototypes = vectors[2992:].astype(np.float32)
for method in (ClassMeans(), Neighbours(k=100), Tip(beta=5.5)):
    print(method.name, hashlib.sha256(method.fit(train, prototypes=prototypes).head(images).tobytes()).hexdigest())
print("torch" in sys.modules)
"""


def test_fits_and_scores_are_the_same_bits_with_the_instructions_and_threads_of_other_machines():
    config = np.show_config(mode="dicts")
    instructions = " ".join(config.get("SIMD Extensions", {}).get("found", []))
    machines = [
        {"OPENBLAS_NUM_THREADS": "1"},
        {"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Haswell"},
        {"OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": instructions},
    ]
    printed = {
        subprocess.run(
            [sys.executable, "-c", SCORES], env={**os.environ, **machine}, capture_output=True, text=True, check=True
        ).stdout
        for machine in machines
    }
    (lines,) = printed
    assert [line.split()[0] for line in lines.splitlines()] == ["prototype", "knn", "tip", "False"]
