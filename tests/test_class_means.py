"""Class means, against a loop over images and exact sums of fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from drawn_classes import draw, predicted, unit

from fastclip.heads.class_means import ClassMeans, class_means, class_sums
from fastclip.heads.labelled import Labelled
from fastclip.heads.scores import exact


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
