"""Tip-Adapter, against the formula of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_classes import PROTOTYPES, draw

from fastclip.errors import UserError
from fastclip.heads import tip
from fastclip.heads.blocks import blocks_of
from fastclip.heads.labelled import Labelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.scores import exact
from fastclip.heads.tip import Tip
from fastclip.heads.votes import vote


def five_lines(train: Labelled, prototypes: np.ndarray, images: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """The formula of the paper."""
    f, k = images.astype(np.float64), train.vectors.astype(np.float64)
    values = np.eye(train.classes)[train.labels]
    affinity = np.exp(-beta * (1 - f @ k.T))
    return 100 * f @ prototypes.astype(np.float64).T + alpha * affinity @ values


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
