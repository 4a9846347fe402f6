"""WiSE: curves between zero-shot classification and a trained head, against the formula."""

from __future__ import annotations

import numpy as np
from drawn_classes import draw, unit

from fastclip.heads.class_means import class_means
from fastclip.heads.linear import LinearHead
from fastclip.heads.scores import classify, exact
from fastclip.heads.wise import ALPHAS, Point, choose_alpha, curve, interpolate


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
