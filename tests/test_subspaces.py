"""Subspace alignment, TCA, JDA and BDA, against singular vectors and the matrix of images by images."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_domains import Ridge, draw, units

from fastclip.adapt.means import Means, shared, told_apart
from fastclip.adapt.moments import moments_of, pooled
from fastclip.adapt.subspace import SubspaceAlignment
from fastclip.adapt.transfer import TransferComponents, class_weight, mean_gaps, transfer_components
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.scores import exact


def test_subspace_alignment_learns_on_the_sources_axes_turned_onto_the_targets():
    classifier = Ridge()
    source, target = draw(1, 300, twist=0.3), draw(2, 250, shift=1)
    fit = SubspaceAlignment(classifier=classifier, components=6).fit(source, unlabelled=target.unlabelled())
    (moved,) = classifier.seen

    def axes(vectors: np.ndarray) -> np.ndarray:
        return np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[2][:6].T

    here, there = axes(source.vectors), axes(target.vectors)
    expected = (source.vectors - source.vectors.mean(axis=0)) @ here @ here.T @ there
    # An axis may point either way.
    signs = np.sign((expected * moved.vectors).sum(axis=0))
    assert np.abs(expected * signs - moved.vectors).max() < 1e-10
    # The head is the classifier of the target's coordinates.
    inner = Ridge().fit(moved).head
    coordinates = (target.vectors - target.vectors.mean(axis=0)) @ (there * signs)
    scores = coordinates @ inner.weights.T + inner.bias
    assert np.abs(fit.head(exact(target.vectors)) - scores).max() < 1e-6


def dense(source: Labelled, guesses: np.ndarray, target: np.ndarray, weight: float) -> np.ndarray:
    """Xᵀ M X by M itself, images by images."""

    def gap(here: np.ndarray, there: np.ndarray) -> np.ndarray:
        column = np.concatenate([here / here.sum(), there / -there.sum()])
        return np.outer(column, column)

    both = [each for each in range(source.classes) if (source.labels == each).any() and (guesses == each).any()]
    m = (1 - weight) * len(both) * gap(np.ones(len(source)), np.ones(len(target)))
    m += weight * sum(gap(source.labels == each, guesses == each) for each in both)
    vectors = np.vstack([source.vectors, target])
    return vectors.T @ (m / np.linalg.norm(m)) @ vectors


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_gaps_of_means_are_the_discrepancy_that_the_matrix_of_images_gives(weight: float):
    source, target = draw(1, 60), draw(2, 45, shift=1)
    guesses = np.random.default_rng(3).integers(0, 3, 45)  # two classes get no prediction
    here = Means.of(source.vectors, source.labels, 5, 1)
    gaps = mean_gaps(here, Means.of(target.vectors, guesses, 5, 1), weight)
    assert np.abs(gaps.T @ gaps - dense(source, guesses, target.vectors, weight)).max() < 1e-12


def test_transfer_components_are_the_least_of_the_quotient():
    """Against directions of its own and at random, and in order."""
    source, target = draw(1, 60), draw(2, 45, shift=1)
    _, scatter = pooled(moments_of(source.vectors, 1), moments_of(target.vectors, 1))
    both = np.vstack([source.vectors, target.vectors])
    assert np.allclose(scatter, np.cov(both.T, bias=True) * len(both))
    left = dense(source, target.labels, target.vectors, 0.5)
    here, there = (Means.of(each.vectors, each.labels, 5, 1) for each in (source, target))
    found = transfer_components(scatter, mean_gaps(here, there, 0.5), 0.8, 6)

    def quotient(columns: np.ndarray) -> np.ndarray:
        return np.einsum("dk,de,ek->k", columns, left + 0.8 * np.eye(24), columns) / np.einsum(
            "dk,de,ek->k", columns, scatter, columns
        )

    assert np.allclose(np.linalg.norm(found, axis=0), 1)
    values = quotient(found)
    assert (np.diff(values) >= -1e-12).all()
    assert values[0] <= quotient(np.random.default_rng(4).normal(size=(24, 2000))).min()
    # A column with a small change has no smaller quotient, to the first order.
    small = np.random.default_rng(5).normal(size=(24, 50))
    assert (quotient(found[:, :1] + 1e-4 * small) >= values[0] - 1e-12).all()


def test_jda_brings_classes_nearer_than_tca_does():
    """Each class moves its own way, so that the domains' means say little."""
    source = draw(1, 500)
    rng = np.random.default_rng(9)
    ways = 0.8 * rng.normal(size=(5, 24)) / np.sqrt(24)
    target = draw(2, 500)
    moved = units(target.vectors + (ways - ways.mean(axis=0))[target.labels])

    def gap(name: str) -> float:
        classifier = Ridge()
        options = {"components": 5, "penalty": 0.1}
        TransferComponents(name=name, classifier=classifier, **options).fit(source, unlabelled=Unlabelled(moved))
        seen = classifier.seen[-1].vectors
        # The map, from what it made of the source.
        centre = np.vstack([source.vectors, moved]).mean(axis=0)
        matrix = np.linalg.lstsq(source.vectors - centre, seen)[0]
        there = (moved - centre) @ matrix
        gaps = [
            np.linalg.norm(seen[source.labels == each].mean(axis=0) - there[target.labels == each].mean(axis=0))
            for each in range(5)
        ]
        return float(np.mean(gaps) / np.sqrt(np.mean(np.var(seen, axis=0))))

    assert gap("jda") < 0.8 * gap("tca")


def test_domains_that_cannot_be_told_apart_have_distance_0_and_those_that_always_can_2():
    rng = np.random.default_rng(1)
    labels = np.arange(400) % 2
    source = rng.normal(size=(400, 6))
    matrix = np.eye(6)

    def distances(target: np.ndarray) -> tuple[np.ndarray, float]:
        here, there = Means.of(source, labels, 3, 1), Means.of(target, labels, 3, 1)
        apart = told_apart(here, there, (source, target), (labels, labels), matrix, 2)
        return apart, class_weight(apart, shared(here, there))

    assert distances(source)[0].tolist() == [0, 0, 0, 0] and distances(source)[1] == 0.5
    assert distances(source + 100)[0].tolist() == [2, 2, 2, 0] and distances(source + 100)[1] == 0.5
    # Only the classes differ: one goes up, the other down, and the domains' means stay together.
    apart, weight = distances(source + 100 * np.where(labels, 1, -1)[:, None])
    assert apart[0] < 1 and apart[1:].tolist() == [2, 2, 0] and weight > 0.66


def test_bda_gives_classes_the_greater_weight_where_they_differ_more_than_the_domains():
    source, target = draw(1, 500), draw(2, 500)
    ways = np.random.default_rng(9).normal(size=(5, 24)) / np.sqrt(24)
    moved = Unlabelled(units(target.vectors + (ways - ways.mean(axis=0))[target.labels]))
    weights = {
        name: TransferComponents(name=name, classifier=Ridge()).fit(source, unlabelled=moved).facts["weight"]
        for name in ("tca", "jda", "bda")
    }
    assert weights["tca"] == 0 and weights["jda"] == 0.5 and 0.6 < weights["bda"] < 1


@pytest.mark.parametrize("name", ["jda", "bda"])
def test_rounds_end_where_nothing_changes(name: str):
    source, target = draw(1, 300, noise=0.2), draw(2, 300, noise=0.2)
    fit = TransferComponents(name=name, classifier=Ridge()).fit(source, unlabelled=target.unlabelled())
    assert fit.facts["changed"] == 0 and fit.facts["rounds"] < 10
    if name == "jda":
        longer = TransferComponents(name=name, classifier=Ridge(), rounds=50)
        assert np.array_equal(longer.fit(source, unlabelled=target.unlabelled()).head.weights, fit.head.weights)
