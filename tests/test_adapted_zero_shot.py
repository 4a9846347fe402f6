"""Zero-shot classification, corrected by frequencies or by class means, against planted ones and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_domains import draw, right, texts

from fastclip.adapt.base import predicted
from fastclip.adapt.zero_shot import Prior, Prototypes, em_factors
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.scores import exact


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
