"""Ridge regression on ±1 targets in closed form: one decomposition for all strengths of the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float64

from fastclip.errors import UserError
from fastclip.heads.blocks import blocks_of, sum_over_blocks
from fastclip.heads.class_means import class_sums
from fastclip.heads.counting import check_two_classes, count_right
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.method import Fit
from fastclip.heads.scores import exact
from fastclip.heads.search import BOUND, check_strength, search_strength


@dataclass(frozen=True)
class Ridge:
    """Least squares with targets of 1 for the class and -1 for the others, as scikit-learn's Ridge with α = `strength`.

    The objective is the sum of the squared errors plus `strength` · ‖W‖². The intercept is free. Classes without an
    image are left out.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        check_strength(self.strength)

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "ridge"

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
    ) -> Ridge:
        """The strength with which a fit on `train` classifies most of `held_out`; of equal ones the stronger."""
        problem = prepare(train, cores)
        strength, _ = search_strength(lambda each: count_right(problem.solve(each), held_out, cores))
        return replace(self, strength=strength)

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """The head at the optimum. Raises `UserError` for one class and if rounding keeps the optimum away."""
        problem = prepare(labelled, cores)
        head = problem.solve(self.strength)
        gradient = problem.gradient(head, self.strength)
        if not gradient <= BOUND:
            raise UserError(
                f"Ridge with λ = {self.strength:g} has not reached its optimum: the gradient is {gradient:.1e}.",
                fix=f"--strength {self.strength * 10:g}",
            )
        facts = {"images": float(len(labelled)), "classes": float(labelled.known.sum())}
        return Fit(head, {**facts, "strength": self.strength, "gradient": gradient})


@dataclass(frozen=True, eq=False)
class Problem:
    """All that the fits with every strength share, of vectors from which their mean was taken."""

    images: int
    known: Bool[np.ndarray, " classes"]
    mean: Float64[np.ndarray, " dim"]
    targets: Float64[np.ndarray, " classes"]
    """The mean target of each class."""
    products: Float64[np.ndarray, "dim dim"]
    """Vectors times vectors."""
    answers: Float64[np.ndarray, "dim classes"]
    """Vectors times targets."""
    values: Float64[np.ndarray, " dim"]
    directions: Float64[np.ndarray, "dim dim"]
    """Eigenvalues of `products`, and their vectors in columns."""
    turned: Float64[np.ndarray, "dim classes"]
    """`answers` along the directions."""

    def solve(self, strength: float) -> LinearHead:
        """The head at the optimum with this strength."""
        weights = (self.directions @ (self.turned / (self.values + strength)[:, None])).T
        return LinearHead(weights, np.where(self.known, self.targets - weights @ self.mean, 0.0), self.known)

    def gradient(self, head: LinearHead, strength: float) -> float:
        """The greatest entry of half the gradient of the mean objective, by the weights."""
        slope = self.products @ head.weights.T + strength * head.weights.T - self.answers
        return float(np.abs(slope).max() / self.images)


def prepare(labelled: Labelled, cores: int) -> Problem:
    """The problem of these images. Raises `UserError` for fewer than two classes.

    Sums of vectors are exact. Products are taken after the mean, of small differences: so no digit is lost where
    images are alike.
    """
    check_two_classes(labelled)
    sums = class_sums(labelled, cores)
    mean = sums.sum(axis=0) / len(labelled)

    def of(rows: slice) -> Float64[np.ndarray, "dim dim"]:
        centred = exact(labelled.vectors[rows]) - mean
        products: Float64[np.ndarray, "dim dim"] = centred.T @ centred
        return products

    products = sum_over_blocks(of, blocks_of(len(labelled)), cores)
    counts = np.bincount(labelled.labels, minlength=labelled.classes)
    # A target is twice the mark of the class less 1, and the 1 meets vectors whose sum is 0.
    answers = 2 * (sums - counts[:, None] * mean).T
    values, directions = np.linalg.eigh(products)
    targets = 2 * counts / len(labelled) - 1
    return Problem(
        len(labelled), labelled.known, mean, targets, products, answers, values, directions, directions.T @ answers
    )
