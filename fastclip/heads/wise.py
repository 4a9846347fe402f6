"""WiSE by heads: interpolation between zero-shot classification and a trained linear head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from fastclip.heads.counting import count_right
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.linear import LOGIT_SCALE, LinearHead
from fastclip.heads.method import Fit, Method

ALPHAS = tuple(step / 10 for step in range(11))
"""From zero-shot (0) to the trained head (1)."""


@dataclass(frozen=True)
class Point:
    """How many of a number of images the head at `alpha` classifies correctly."""

    alpha: float
    right: int
    images: int


def interpolate(zero_shot: LinearHead, trained: LinearHead, alpha: float) -> LinearHead:
    """The head with weights (1 - α) · 100 · prototypes + α · trained ones, in fp64, and the bias times α.

    `trained` gives logits, as logistic probes do: scores of ridge or of class means are 100 times smaller than
    zero-shot's and would hardly count. At 0 and 1 it is the given head itself, so that both ends predict the same bits.
    In between, a class that the trained head does not know stays unknown: its weights were never fitted.
    """
    assert zero_shot.bias is None, "zero-shot has prototypes and nothing else"
    if alpha == 0:
        return zero_shot
    if alpha == 1:
        return trained
    weights = (1 - alpha) * LOGIT_SCALE * zero_shot.weights.astype(np.float64)
    weights += alpha * trained.weights.astype(np.float64)
    return LinearHead(weights, None if trained.bias is None else alpha * trained.bias, trained.known)


def curve(
    zero_shot: LinearHead, trained: LinearHead, images: Labelled, *, alphas: Sequence[float] = ALPHAS, cores: int = 1
) -> tuple[Point, ...]:
    """The counts of every head between two, in the order of `alphas`."""
    heads = [interpolate(zero_shot, trained, alpha) for alpha in alphas]
    return tuple(
        Point(alpha, count_right(head, images, cores), len(images)) for alpha, head in zip(alphas, heads, strict=True)
    )


def choose_alpha(zero_shot: LinearHead, trained: LinearHead, held_out: Labelled, *, cores: int = 1) -> float:
    """The α of `ALPHAS` that classifies most of `held_out`, images of the source; of equal ones the smallest.

    The smallest is nearest to zero-shot classification.
    """
    return max(curve(zero_shot, trained, held_out, cores=cores), key=lambda each: (each.right, -each.alpha)).alpha


@dataclass(frozen=True)
class Wise:
    """A head between zero-shot and that of `trained`, a method whose head is linear."""

    trained: Method
    alpha: float = 0.5
    given: bool = False
    """Whether `trained` keeps its settings, so that only α is chosen."""

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "wise"

    @property
    def settings(self) -> Mapping[str, float]:
        """Those of the trained head, and α."""
        return {**self.trained.settings, "alpha": self.alpha}

    def choose(
        self,
        train: Labelled,
        held_out: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        cores: int = 1,
    ) -> Wise:
        """The trained method with its best settings, and the α that is best with them, both on `held_out`."""
        trained = self.trained
        if not self.given:
            trained = trained.choose(train, held_out, prototypes=prototypes, cores=cores)
        zero_shot, head = _ends(trained, train, prototypes, cores)[:2]
        return replace(self, trained=trained, alpha=choose_alpha(zero_shot, head, held_out, cores=cores))

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """The head at α; beside it those at 0, 0.1 … 1, the curve."""
        zero_shot, head, facts = _ends(self.trained, labelled, prototypes, cores)
        others = {f"α {alpha:.1f}": interpolate(zero_shot, head, alpha) for alpha in ALPHAS}
        return Fit(interpolate(zero_shot, head, self.alpha), facts, others)


def _ends(
    trained: Method, labelled: Labelled, prototypes: Float[np.ndarray, "classes dim"] | None, cores: int
) -> tuple[LinearHead, LinearHead, Mapping[str, float]]:
    """Zero-shot, the trained head, and the figures of its fit."""
    assert prototypes is not None, "wise takes prototypes"
    fit = trained.fit(labelled, prototypes=prototypes, cores=cores)
    assert isinstance(fit.head, LinearHead), f"{trained.name} is not linear"
    return LinearHead(prototypes), fit.head, fit.facts
