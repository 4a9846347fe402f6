"""Adaptation: the formulas hold, labels of the target cannot come in, and no matrix is as long as the images twice."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY

from fastclip.adapt.base import predicted
from fastclip.adapt.coral import Coral
from fastclip.adapt.means import Means, shared, told_apart
from fastclip.adapt.methods import METHODS
from fastclip.adapt.moments import moments_of, pooled
from fastclip.adapt.subspace import SubspaceAlignment, principal_axes
from fastclip.adapt.transfer import TransferComponents, class_weight, mean_gaps, transfer_components
from fastclip.adapt.transport import check_size
from fastclip.adapt.zero_shot import Prior, Prototypes, em_factors
from fastclip.errors import IntegrityError, UserError
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.method import Fit, Method
from fastclip.heads.scores import exact

LINEAR = [name for name in METHODS if not name.startswith("ot")]
"""Those that need no extra."""
SOURCE_ONLY = ("coral", "sa", "tca", "jda", "bda")
"""Of these, the ones with a classifier."""


@dataclass(frozen=True)
class Ridge:
    """Least squares on classes coded as 0 and 1, with an intercept: a stand-in for the logistic head."""

    strength: float = 1e-3
    seen: list[Labelled] = field(default_factory=list)
    """All that it was fitted on."""
    name: str = "ridge"

    @property
    def settings(self) -> Mapping[str, float]:
        return {"strength": self.strength}

    def choose(self, train: Labelled, held_out: Labelled, *, prototypes=None, cores: int = 1) -> Ridge:
        self.seen.extend([train, held_out])
        return replace(self, strength=0.25)

    def fit(self, labelled: Labelled, *, prototypes=None, unlabelled=None, cores: int = 1) -> Fit:
        assert unlabelled is None
        self.seen.append(labelled)
        vectors = labelled.vectors.astype(np.float64)
        coded = np.eye(labelled.classes)[labelled.labels]
        centre, mean = vectors.mean(axis=0), coded.mean(axis=0)
        left = (vectors - centre).T @ (vectors - centre) + self.strength * np.eye(labelled.dim)
        weights = np.linalg.solve(left, (vectors - centre).T @ (coded - mean)).T
        return Fit(LinearHead(weights, mean - weights @ centre, labelled.known), {"strength": self.strength})


def units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def draw(
    seed: int,
    images: int,
    *,
    dim: int = 24,
    classes: int = 5,
    shift: float = 0.0,
    twist: float = 0.0,
    noise: float = 0.6,
) -> Labelled:
    """Unit vectors around class centres that all seeds share, after a shift and a map near the identity."""
    fixed, rng = np.random.default_rng(7), np.random.default_rng(seed)
    centres, way, turn = fixed.normal(size=(classes, dim)), fixed.normal(size=dim), fixed.normal(size=(dim, dim))
    labels = np.sort(rng.integers(0, classes, images))
    labels[:classes] = np.arange(classes)
    vectors = centres[labels] + noise * rng.normal(size=(images, dim)) * np.geomspace(3, 0.3, dim)
    return Labelled(units(vectors @ (np.eye(dim) + twist * turn / np.sqrt(dim)) + shift * way), labels, classes)


def texts(dim: int = 24, classes: int = 5) -> np.ndarray:
    fixed = np.random.default_rng(7)
    return units(fixed.normal(size=(classes, dim)) + 0.3 * np.random.default_rng(8).normal(size=(classes, dim)))


def method(name: str) -> Method:
    made = METHODS[name](Ridge())
    # The default, 30, would keep all of the 24 numbers that vectors have here.
    return replace(made, components=8) if isinstance(made, (SubspaceAlignment, TransferComponents)) else made


def fit_head(name: str, source: Labelled, target: Unlabelled, cores: int = 1) -> LinearHead:
    prototypes = texts(source.dim, source.classes)
    return method(name).fit(source, prototypes=prototypes, unlabelled=target, cores=cores).head


def right(head: LinearHead, target: Labelled) -> float:
    return float(np.mean(predicted(head, target.vectors, 1) == target.labels))


def angle(first: np.ndarray, second: np.ndarray) -> float:
    """The sine of the greatest principal angle between two subspaces."""
    one, other = np.linalg.qr(first)[0], np.linalg.qr(second)[0]
    return float(np.linalg.norm(other - one @ (one.T @ other), 2))


# CORAL


@pytest.mark.parametrize("shrinkage", [0.0, 0.2, 1.0])
def test_after_coral_the_source_has_the_targets_mean_and_covariance(shrinkage: float):
    classifier = Ridge()
    source, target = draw(1, 300, twist=0.3), draw(2, 250, shift=1, twist=0.6)
    Coral(classifier=classifier, shrinkage=shrinkage).fit(source, unlabelled=target.unlabelled())
    (moved,) = classifier.seen
    assert np.array_equal(moved.labels, source.labels)
    assert np.abs(moved.vectors.mean(axis=0) - target.vectors.mean(axis=0)).max() < 1e-12

    def shrunk(vectors: np.ndarray) -> np.ndarray:
        covariance = np.cov(vectors.T, bias=True)
        return (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / source.dim * np.eye(source.dim)

    # A map by shrunk covariances gives the shrunk one; at zero shrinkage that is the target's own.
    found, matrix = np.cov(moved.vectors.T, bias=True), None
    matrix = np.linalg.lstsq(source.vectors - source.vectors.mean(axis=0), moved.vectors - moved.vectors.mean(axis=0))[
        0
    ]
    assert np.abs(matrix.T @ shrunk(source.vectors) @ matrix - shrunk(target.vectors)).max() < 1e-8
    if shrinkage == 0:
        assert np.abs(found - np.cov(target.vectors.T, bias=True)).max() < 1e-8


def test_coral_undoes_a_scaling_along_the_sources_axes_image_by_image():
    classifier = Ridge()
    source = draw(1, 400)
    axes = np.linalg.eigh(np.cov(source.vectors.T, bias=True))[1]
    scaling = 1.7 * (axes * np.geomspace(0.5, 2, source.dim)) @ axes.T
    target = Unlabelled(source.vectors @ scaling + 0.3)
    Coral(classifier=classifier, shrinkage=0.0).fit(source, unlabelled=target)
    assert np.abs(classifier.seen[0].vectors - target.vectors).max() < 1e-10


def test_coral_undoes_a_rotation_and_scaling_of_a_gaussian():
    """Two Gaussians are equal where their means and covariances are."""
    rng = np.random.default_rng(3)
    classifier = Ridge()
    source = Labelled(rng.normal(size=(500, 12)) @ rng.normal(size=(12, 12)), np.arange(500) % 2, 2)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    target = 3 * source.vectors @ rotation + rng.normal(size=12)
    Coral(classifier=classifier, shrinkage=0.0).fit(source, unlabelled=Unlabelled(target))
    moved = classifier.seen[0].vectors
    assert np.abs(np.cov(moved.T) - np.cov(target.T)).max() < 1e-9 * np.abs(np.cov(target.T)).max()
    assert np.abs(moved.mean(axis=0) - target.mean(axis=0)).max() < 1e-10


def test_coral_says_that_it_moves_nothing_where_there_is_nothing_to_move():
    source = draw(1, 300)
    fit = Coral(classifier=Ridge()).fit(source, unlabelled=source.unlabelled())
    assert fit.facts["moved"] < 1e-10
    moved = Coral(classifier=Ridge()).fit(source, unlabelled=draw(2, 300, twist=0.6).unlabelled())
    assert moved.facts["moved"] > 0.05


def test_coral_without_shrinkage_refuses_a_source_that_does_not_span_the_space():
    with pytest.raises(UserError, match="vary in 9 of 24 directions") as refused:
        Coral(classifier=Ridge(), shrinkage=0.0).fit(draw(1, 10), unlabelled=draw(2, 60).unlabelled())
    assert "--method prior" in refused.value.fix


# Subspaces


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


# Zero-shot, corrected


def planted(images: int, prior: np.ndarray, dim: int = 30) -> tuple[np.ndarray, Labelled]:
    """Prototypes, and images for which softmax(100 · cosines) are the true probabilities under equal priors.

    Along their prototype's own axis images of two classes are Gaussians; the scale makes the log-odds those of CLIP.
    """
    rng = np.random.default_rng(5)
    classes = len(prior)
    labels = rng.choice(classes, images, p=prior)
    # x = s·e_c + s·noise on the axes gives log-odds (x_i - x_j) · s / s² per unit; times 100 with s = 0.1 · spread.
    spread = 0.02
    vectors = np.zeros((images, dim))
    vectors[:, :classes] = spread * rng.normal(size=(images, classes))
    vectors[np.arange(images), labels] += 100 * spread**2
    vectors[:, -1] = np.sqrt(1 - (vectors**2).sum(axis=1))
    return np.eye(dim)[:classes], Labelled(vectors, labels, classes)


def test_em_finds_planted_frequencies_and_answers_better_with_them():
    prior = np.array([0.6, 0.25, 0.1, 0.05, 0.0])
    prototypes, target = planted(20_000, prior)
    fit = Prior().fit(target, prototypes=prototypes, unlabelled=target.unlabelled())
    found = np.exp(100 * fit.head.bias)
    assert np.abs(found - prior).max() < 0.01 and fit.facts["gap"] <= 1e-6 and fit.facts["rounds"] < 200
    assert right(fit.head, target) > right(LinearHead(prototypes), target) + 0.02


def test_em_is_a_plain_loop_over_images_and_never_loses_likelihood():
    prototypes, target = planted(300, np.array([0.7, 0.2, 0.1]))
    logits = 100 * target.vectors @ prototypes.T
    given = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    prior, likelihoods = np.full(3, 1 / 3), []
    for _ in range(25):
        likelihoods.append(np.mean([np.log(3 * sum(row * prior)) for row in given]))
        answers = [row * prior / sum(row * prior) for row in given]
        prior = sum(answers) / len(answers)
    fit = Prior(rounds=25, bound=0.0).fit(target, prototypes=prototypes, unlabelled=target.unlabelled())
    assert fit.facts["rounds"] == 25
    assert np.abs(np.exp(100 * fit.head.bias) - prior).max() < 1e-6
    assert (np.diff(likelihoods) >= -1e-14).all() and fit.facts["gain"] >= likelihoods[-1] - 1e-7
    # The certificate holds at every round: no frequencies are more likely than the gap allows.
    best = Prior(bound=1e-12).fit(target, prototypes=prototypes, unlabelled=target.unlabelled()).facts["gain"]
    factors, gain = em_factors([given[:100], given[100:]], np.full(3, 1 / 3), 2)
    assert gain == pytest.approx(0, abs=1e-12) and best <= gain + np.log(factors.max())


def test_a_class_that_the_target_lacks_keeps_a_finite_bias():
    """Its frequency falls by a factor of e^100 each round, and is 0 after eight."""
    target = Unlabelled(np.eye(6)[np.arange(100) % 2])
    head = Prior(rounds=20, bound=-1.0).fit(draw(1, 60), prototypes=np.eye(6)[:3], unlabelled=target).head
    assert np.isfinite(head.bias).all() and head.bias[2] < -0.3
    assert np.array_equal(predicted(head, target.vectors, 1), np.arange(100) % 2)


def test_prototypes_are_soft_class_means_and_texts_in_equal_voices():
    target, prototypes = draw(2, 300, shift=0.3), texts()
    head = Prototypes(share=0.25).fit(target, prototypes=prototypes, unlabelled=target.unlabelled()).head
    logits = 100 * target.vectors @ prototypes.T
    given = np.exp(logits - logits.max(axis=1, keepdims=True))
    given /= given.sum(axis=1, keepdims=True)
    centred = target.vectors - target.vectors.mean(axis=0)
    images = np.array([(given[:, [c]] * centred).sum(axis=0) / (given[:, c].sum() + 1) for c in range(5)])

    def voice(weights: np.ndarray) -> np.ndarray:
        scores = centred @ weights.T
        scores -= scores.mean(axis=1, keepdims=True)
        return scores / np.sqrt((scores**2).mean())

    expected = 0.25 * voice(images) + 0.75 * voice(prototypes)
    scores = head(exact(target.vectors))
    # Up to a number for each image or class, which the mean over classes and images takes away.
    scores -= scores.mean(axis=0)
    scores -= scores.mean(axis=1, keepdims=True)
    assert np.abs(scores - expected).max() < 1e-5


def test_without_a_share_of_images_prototypes_answer_as_zero_shot():
    target, prototypes = draw(2, 300, shift=0.3), texts()
    head = Prototypes(share=0.0).fit(target, prototypes=prototypes, unlabelled=target.unlabelled()).head
    zero_shot = LinearHead(prototypes)
    assert np.array_equal(predicted(head, target.vectors, 1), predicted(zero_shot, target.vectors, 1))


# All methods


def test_every_method_is_one():
    for name in METHODS:
        assert isinstance(method(name), Method) and method(name).name == name


def test_adaptation_loads_neither_torch_nor_the_extra():
    code = "import sys, fastclip.adapt.methods; print({'torch', 'scipy', 'sklearn', 'skada'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize("name", SOURCE_ONLY)
def test_a_source_that_is_the_target_gives_the_answers_of_the_source_alone(name: str):
    """With all components: fewer forget something."""
    source = draw(1, 400)
    head = METHODS[name](Ridge()).fit(source, unlabelled=source.unlabelled()).head
    alone = Ridge().fit(source).head
    assert np.array_equal(predicted(head, source.vectors, 1), predicted(alone, source.vectors, 1))


@pytest.mark.parametrize("name", SOURCE_ONLY)
def test_adaptation_makes_up_for_a_shift(name: str):
    source, target = draw(1, 600), draw(2, 600, shift=1.5)
    assert right(fit_head(name, source, target.unlabelled()), target) > right(Ridge().fit(source).head, target) + 0.05


@pytest.mark.parametrize("name", LINEAR)
def test_the_order_of_the_targets_images_permutes_the_answers_and_nothing_else(name: str):
    source, target = draw(1, 300), draw(2, 5000, shift=1)
    order = np.random.default_rng(3).permutation(len(target))
    answers = predicted(fit_head(name, source, target.unlabelled()), target.vectors, 1)
    shuffled = Unlabelled(target.vectors[order])
    assert np.array_equal(predicted(fit_head(name, source, shuffled), shuffled.vectors, 1), answers[order])


@pytest.mark.parametrize("name", LINEAR)
def test_the_number_of_cores_moves_no_bit(name: str):
    source, target = draw(1, 9000), draw(2, 9500, shift=1).unlabelled()
    one, three = fit_head(name, source, target), fit_head(name, source, target, cores=3)
    assert one.weights.tobytes() == three.weights.tobytes()
    assert (one.bias is None) == (three.bias is None)
    assert one.bias is None or one.bias.tobytes() == three.bias.tobytes()


@pytest.mark.parametrize("name", METHODS)
def test_labels_of_the_target_are_refused_by_type(name: str):
    target = draw(2, 50)
    with pytest.raises(AssertionError, match="without its labels"):
        fit_head(name, draw(1, 50), target)
    assert not hasattr(target.unlabelled(), "labels")


@pytest.mark.parametrize("name", LINEAR)
def test_other_labels_of_the_target_change_no_byte(name: str):
    source, target = draw(1, 200), draw(2, 150, shift=1)
    other = replace(target, labels=np.random.default_rng(3).permutation(target.labels))
    heads = [fit_head(name, source, each.unlabelled()) for each in (target, other)]
    assert heads[0].weights.tobytes() == heads[1].weights.tobytes()


@pytest.mark.parametrize("name", LINEAR)
def test_a_class_may_lack_in_either_domain(name: str):
    source, target = draw(1, 300), draw(2, 300, shift=1)
    source = source.take(source.labels != 1)
    few = target.take((target.labels == 0) | (target.labels == 1))
    head = fit_head(name, source, few.unlabelled())
    scores = head(exact(few.vectors))
    if name in SOURCE_ONLY:
        assert (scores[:, 1] == -np.inf).all() and np.isfinite(np.delete(scores, 1, axis=1)).all()
    assert 1 not in predicted(head, few.vectors, 1) or name not in SOURCE_ONLY


@pytest.mark.parametrize("name", LINEAR)
def test_vectors_may_have_more_numbers_than_there_are_images(name: str):
    source, target = draw(1, 40, dim=96), draw(2, 30, dim=96, shift=0.5)
    assert right(fit_head(name, source, target.unlabelled()), target) > 0.6


@pytest.mark.parametrize("name", LINEAR)
def test_stored_half_precision_is_read_as_it_is(name: str):
    source, target = draw(1, 300), draw(2, 300, shift=1)
    halves = [replace(each, vectors=each.vectors.astype(np.float16)) for each in (source, target)]
    wide = [replace(each, vectors=each.vectors.astype(np.float64)) for each in halves]
    narrow, expected = (fit_head(name, here, there.unlabelled()) for here, there in (halves, wide))
    assert np.array_equal(narrow.weights, expected.weights)


@pytest.mark.parametrize("name", LINEAR)
def test_twenty_thousand_images_need_no_matrix_of_images_by_images(name: str):
    """That would be 800 MB for one domain, 3.2 GB for both."""
    source, target = draw(1, 10_000), draw(2, 10_000, shift=1).unlabelled()
    tracemalloc.start()
    try:
        fit_head(name, source, target)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_settings_are_chosen_by_the_classifier_on_the_source_as_it_is():
    train, held_out = draw(1, 60), draw(2, 30)
    for name in SOURCE_ONLY:
        classifier = Ridge()
        before = METHODS[name](classifier)
        chosen = before.choose(train, held_out, prototypes=texts())
        assert [id(each) for each in classifier.seen] == [id(train), id(held_out)]
        assert chosen.settings == {"strength": 0.25} and chosen == replace(before, classifier=chosen.classifier)
    for name in ("prior", "prototype"):
        assert method(name).choose(train, held_out) == method(name) and method(name).settings == {}


@pytest.mark.parametrize("name", [*SOURCE_ONLY, "ot"])
def test_a_source_of_one_class_is_refused(name: str):
    source = draw(1, 60)
    with pytest.raises(UserError, match="two classes; there are 1"):
        fit_head(name, source.take(source.labels == 2), draw(2, 30).unlabelled())


@pytest.mark.parametrize("name", METHODS)
def test_vectors_of_two_backbones_are_refused(name: str):
    with pytest.raises(UserError, match="of two backbones"):
        fit_head(name, draw(1, 60), draw(2, 30, dim=32).unlabelled())


@pytest.mark.parametrize("name", METHODS)
def test_a_target_without_images_is_refused(name: str):
    with pytest.raises(UserError, match="there are 1"):
        fit_head(name, draw(1, 60), Unlabelled(draw(2, 30).vectors[:1]))
    with pytest.raises(UserError, match="there are 0"):
        method(name).fit(draw(1, 60), prototypes=texts())


@pytest.mark.parametrize("name", ["prior", "prototype"])
def test_a_method_that_corrects_zero_shot_needs_prototypes(name: str):
    with pytest.raises(UserError, match="there are no prototypes"):
        method(name).fit(draw(1, 60), unlabelled=draw(2, 30).unlabelled())


def test_a_vector_that_is_not_finite_is_an_error():
    damaged = draw(2, 30).unlabelled()
    damaged.vectors[3, 3] = np.nan
    for name in LINEAR:
        with pytest.raises(IntegrityError, match="not finite"):
            fit_head(name, draw(1, 60), damaged)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Coral(classifier=Ridge(), shrinkage=1.1), "from 0 to 1, not 1.1"),
        (lambda: SubspaceAlignment(classifier=Ridge(), components=0), "at least, not 0"),
        (lambda: TransferComponents(name="tca", classifier=Ridge(), penalty=0.0), "positive, not 0"),
        (lambda: TransferComponents(name="jda", classifier=Ridge(), rounds=0), "one round at least, not 0"),
        (lambda: Prototypes(share=-0.5), "from 0 to 1, not -0.5"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message: str):
    with pytest.raises(UserError, match=message):
        make()


# Other people's code


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, reference_python: Path) -> tuple[Labelled, Labelled, Mapping]:
    """A source, a target, and what skada and the long way make of them."""
    if not list(reference_python.parent.parent.glob("lib/*/site-packages/skada")):
        pytest.skip("no skada in .venv-reference: `make test` sets it up")
    folder = tmp_path_factory.mktemp("adaptation")
    source, target = draw(1, 200, twist=0.3), draw(2, 150, shift=1)
    arrays = {"source": source.vectors, "labels": source.labels, "target": target.vectors, "guesses": target.labels}
    numbers = {"classes": 5, "shrinkage": 0.2, "components": 6, "penalty": 0.7, "entropy": 0.2}
    np.savez(folder / "in.npz", **arrays, **numbers)
    program = REPOSITORY / "tests" / "reference" / "adaptation.py"
    command = [str(reference_python), str(program), str(folder / "in.npz"), str(folder / "out.npz")]
    subprocess.run(command, check=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    return source, target, np.load(folder / "out.npz")


def test_coral_moves_as_skadas_does(reference):
    source, target, found = reference
    classifier = Ridge()
    Coral(classifier=classifier, shrinkage=0.2).fit(source, unlabelled=target.unlabelled())
    # skada takes the target's mean away from both domains, fastclip gives it to the source.
    moved = classifier.seen[0].vectors - target.vectors.mean(axis=0)
    assert np.abs(moved - found["coral"][:200]).max() < 1e-10


def test_subspace_alignment_moves_as_skadas_does(reference):
    source, target, found = reference
    classifier = Ridge()
    SubspaceAlignment(classifier=classifier, components=6).fit(source, unlabelled=target.unlabelled())
    moved, expected = classifier.seen[0].vectors, found["sa"]
    signs = np.sign((moved * expected[:200]).sum(axis=0))
    assert np.abs(moved * signs - expected[:200]).max() < 1e-10
    there = (target.vectors - target.vectors.mean(axis=0)) @ principal_axes(moments_of(target.vectors, 1), 6)
    assert np.abs(there * signs - expected[200:]).max() < 1e-10


@pytest.mark.parametrize(("name", "weight"), [("tca", 0.0), ("jda", 0.5)])
def test_transfer_components_are_those_of_the_whole_matrix(name: str, weight: float, reference):
    source, target, found = reference
    here, there = (Means.of(each.vectors, each.labels, 5, 1) for each in (source, target))
    _, scatter = pooled(moments_of(source.vectors, 1), moments_of(target.vectors, 1))
    components = transfer_components(scatter, mean_gaps(here, there, weight), 0.7, 6)
    assert angle(components, found[name]) < 1e-8


# Optimal transport


def test_optimal_transport_without_skada_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "skada", None)
    with pytest.raises(UserError, match="Optimal transport needs skada") as missing:
        fit_head("ot", draw(1, 60), draw(2, 30).unlabelled())
    assert missing.value.fix == "pip install 'fastclip[adapt]'"


def test_a_plan_that_would_not_fit_into_memory_is_refused():
    check_size("ot", 15_000, 15_000)
    with pytest.raises(UserError, match=r"173,000 images to 120,000 would take 1,392 GiB") as refused:
        check_size("ot", 173_000, 120_000)
    assert "coral" in refused.value.fix


def with_skada(reference_python: Path, code: str) -> str:
    """The output of `code` where this environment has skada besides."""
    packages = next(iter(reference_python.parent.parent.glob("lib/*/site-packages/skada")), None)
    if packages is None:
        pytest.skip("no skada in .venv-reference: `make test` sets it up")
    start = (
        f"import sys; sys.path += [{str(packages.parent)!r}, {str(REPOSITORY / 'tests')!r}]\n"
        "import numpy as np, sklearn\n"
        "from fastclip.heads.labelled import Labelled, Unlabelled\n"
        "from test_adapt import Ridge, draw\n"
        "from fastclip.adapt.transport import Transport\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_optimal_transport_moves_as_skadas_does_and_leaves_scikit_learns_settings(reference, reference_python: Path):
    _, _, found = reference
    code = (
        "before = sklearn.get_config()\n"
        "seen, exactly = Ridge(), Ridge()\n"
        "source, target = draw(1, 200, twist=0.3), draw(2, 150, shift=1)\n"
        "distance = np.mean([((source.vectors - each) ** 2).sum(axis=1).mean() for each in target.vectors])\n"
        "fit = Transport(name='ot-entropic', classifier=seen, entropy=0.2 / distance)\n"
        "facts = fit.fit(source, unlabelled=target.unlabelled()).facts\n"
        "assert abs(facts['distance'] / distance - 1) < 1e-12\n"
        "again = np.random.default_rng(3).permutation(200)\n"
        "Transport(name='ot', classifier=exactly).fit(source, unlabelled=Unlabelled(source.vectors[again]))\n"
        "assert np.abs(exactly.seen[0].vectors - source.vectors).max() < 1e-12\n"
        "assert sklearn.get_config() == before and 'skada' in sys.modules\n"
        "print(seen.seen[0].vectors.tolist())\n"
    )
    moved = np.array(eval(with_skada(reference_python, code)))
    assert np.abs(moved - found["entropic"][:200]).max() < 1e-5
