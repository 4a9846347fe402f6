"""Logistic probes: the exact optimum of the penalised cross-entropy on stored embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Float64

from fastclip.errors import UserError
from fastclip.heads.counting import check_two_classes, count_right
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.lbfgs import minimise
from fastclip.heads.linear import LOGIT_SCALE, LinearHead
from fastclip.heads.method import Fit
from fastclip.heads.search import BOUND, check_strength, search_strength
from fastclip.heads.softmax import Point, Softmax

SLACK = 0.01
"""While strengths are compared, the gradient may also have this share of the penalty's strongest pull on a weight. A
fixed bound would be met before a weak penalty is felt at all."""
PATIENCE = 50
"""Iterations without progress after which fp32 is at the end of its digits."""


@dataclass(frozen=True)
class Logistic:
    """Multinomial logistic regression on unit vectors, as scikit-learn's with C = 1 / `strength`.

    The objective is the sum of the images' cross-entropies plus `strength` / 2 · ‖W‖². With `to_text` the penalty is
    on ‖W - 100 · prototypes‖² instead, so that a great strength gives the weights of zero-shot. The intercept is free.
    Classes without an image are left out.
    """

    strength: float = 1.0
    to_text: bool = False
    iterations: int = 10_000
    """The most that are made in fp32, and then again in fp64, before the fit counts as failed."""
    device: str | None = None
    """A device of PyTorch's that evaluates the objective. By default NumPy does."""

    def __post_init__(self) -> None:
        check_strength(self.strength)

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "text-logistic" if self.to_text else "logistic"

    @property
    def settings(self) -> Mapping[str, float]:
        """The strength of the penalty."""
        return {"strength": self.strength}

    def choose(
        self,
        train: Labelled,
        held_out: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        cores: int = 1,
    ) -> Logistic:
        """The strength with which a fit on `train` classifies most of `held_out`; of equal ones the stronger."""
        problem = self._problem(train, prototypes, cores)
        fitted: dict[float, Float64[np.ndarray, "known columns"]] = {}

        def right(strength: float) -> int:
            point, _ = replace(self, strength=strength)._solve(problem, _start(fitted, strength), SLACK)
            fitted[strength] = point.parameters
            return count_right(_head(problem, point, train.known), held_out, cores)

        strength, _ = search_strength(right)
        return replace(self, strength=strength)

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """The head at the optimum. Raises `UserError` for one class and if the optimum is not reached."""
        del unlabelled
        problem = self._problem(labelled, prototypes, cores)
        point, iterations = self._solve(problem, None)
        facts = {
            "strength": self.strength,
            "iterations": float(iterations),
            "gradient": point.steepest,
            "objective": point.value * len(labelled),
        }
        return Fit(_head(problem, point, labelled.known), facts)

    def _problem(self, labelled: Labelled, prototypes: Float[np.ndarray, "classes dim"] | None, cores: int) -> Softmax:
        """The objective over the classes that have images, numbered from 0."""
        check_two_classes(labelled)
        known = labelled.known
        origin = np.zeros((int(known.sum()), labelled.dim))
        if self.to_text:
            if prototypes is None:
                raise UserError("text-logistic needs prototypes.", fix="--head logistic")
            origin = LOGIT_SCALE * prototypes[known].astype(np.float64)
        return Softmax(labelled.vectors, (np.cumsum(known) - 1)[labelled.labels], origin, cores, self.device)

    def _solve(
        self, problem: Softmax, start: Float64[np.ndarray, "known columns"] | None, slack: float = 0.0
    ) -> tuple[Point, int]:
        """The optimum and the iterations that it took: in fp32 as far as that leads, then in fp64.

        With `slack` fp32 is enough, and the bound on the gradient is looser for strong penalties.
        """
        parameters = np.zeros((len(problem.origin), len(problem.variances))) if start is None else start
        penalty = self.strength / len(problem.labels)
        # Where classes are separated the curvature is nearly 0 at one point and great at the next. Without a least
        # value steps overshoot: 10,000 × 512 × 65 take 104 evaluations instead of 50 at λ = 0.1, and no end at 0.001.
        shares = np.bincount(problem.labels) / len(problem.labels)
        least = 0.1 * shares * (1 - shares)

        def curvature(point: Point) -> Float64[np.ndarray, "known columns"]:
            found = np.outer(np.maximum(point.spread, least), problem.variances) + penalty * problem.penalised
            return np.maximum(found, 1e-12 * found.max())

        def reached(bound: float, point: Point) -> bool:
            return point.steepest <= max(bound, slack * penalty * float(np.abs(point.parameters[:, :-1]).max()))

        total = 0
        for exact, bound in ((False, BOUND / 2), (True, BOUND)):
            point, iterations = minimise(
                partial(problem.at, strength=self.strength, exact=exact),
                parameters,
                curvature,
                reached=partial(reached, bound),
                iterations=self.iterations,
                patience=self.iterations if exact else PATIENCE,
            )
            parameters, total = point.parameters, total + iterations
            if slack and reached(BOUND, point):
                break
        if not reached(BOUND, point):
            raise UserError(
                f"The fit with λ = {self.strength:g} is not at its optimum after {total:,} iterations: the gradient is "
                f"{point.steepest:.1e}, not {BOUND:g}.",
                fix=f"--strength {self.strength * 10:g}",
            )
        return point, total


def _start(
    fitted: Mapping[float, Float64[np.ndarray, "known columns"]], strength: float
) -> Float64[np.ndarray, "known columns"] | None:
    """Parameters near the optimum: between the next stronger and the next weaker fit, or those of the nearest one."""
    stronger = min((each for each in fitted if each > strength), default=None)
    weaker = max((each for each in fitted if each < strength), default=None)
    if stronger is None or weaker is None:
        return fitted.get(stronger or weaker or 0.0)
    share = float(np.log(strength / weaker) / np.log(stronger / weaker))
    return share * fitted[stronger] + (1 - share) * fitted[weaker]


def _head(problem: Softmax, point: Point, known: Bool[np.ndarray, " classes"]) -> LinearHead:
    """The head over all classes; those that had no image are unknown to it."""
    weights, bias = np.zeros((len(known), problem.vectors.shape[1])), np.zeros(len(known))
    weights[known], intercept = problem.head(point.parameters)
    bias[known] = intercept - intercept.mean()  # any number may be added to all
    return LinearHead(weights, bias, known)
