"""CORAL: the moved source has the mean and the covariance of the target."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_domains import Ridge, draw

from fastclip.adapt.coral import Coral
from fastclip.errors import UserError
from fastclip.heads.labelled import Labelled, Unlabelled


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
    before, after = (each.vectors - each.vectors.mean(axis=0) for each in (source, moved))
    matrix = np.linalg.lstsq(before, after)[0]
    assert np.abs(matrix.T @ shrunk(source.vectors) @ matrix - shrunk(target.vectors)).max() < 1e-8
    if shrinkage == 0:
        assert np.abs(np.cov(moved.vectors.T, bias=True) - np.cov(target.vectors.T, bias=True)).max() < 1e-8


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
