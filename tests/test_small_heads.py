"""Class means, ridge, Tip-Adapter and WiSE, against formulas of a few lines, loops and scikit-learn."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fastclip.errors import UserError
from fastclip.heads.class_means import ClassMeans, class_means, class_sums
from fastclip.heads.labelled import Labelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.method import Method
from fastclip.heads.scores import classify, exact
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


# Every method


@pytest.mark.parametrize("method", [ClassMeans()])
def test_a_method_refuses_one_class_with_a_cure(method: Method):
    with pytest.raises(UserError, match="two classes; there are 1") as raised:
        method.fit(ONE_CLASS, prototypes=np.eye(5, 16))
    assert raised.value.fix


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
