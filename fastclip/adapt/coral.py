"""CORAL (Sun, Feng and Saenko, 2016): a classifier learns on the source with the target's mean and covariance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from fastclip.adapt.base import WithClassifier, check_domains
from fastclip.adapt.moments import Moments, mapped, moments_of
from fastclip.errors import UserError
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.method import Fit


@dataclass(frozen=True, kw_only=True)
class Coral(WithClassifier):
    """x becomes (x - mₛ) Cₛ^-½ Cₜ^½ + mₜ, for images of the source alone; the head needs no folding.

    Each covariance C is shrunk to (1 - γ) C + γ · trace(C) / dim · I first, γ being `shrinkage`.
    """

    shrinkage: float = 0.2
    """The least error of the estimated map over 500 to 20,000 images of 512 numbers: docs/adaptation.md."""

    def __post_init__(self) -> None:
        if not 0 <= self.shrinkage <= 1:
            raise UserError(f"CORAL's shrinkage is from 0 to 1, not {self.shrinkage:g}.", fix="shrinkage=0.2")

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "coral"

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """Fit on the source as the target would show it. `moved` is the part of the source's spread that changed."""
        target = check_domains(self.name, labelled, unlabelled)
        source, wanted = moments_of(labelled.vectors, cores), moments_of(target.vectors, cores)
        matrix = whiten_and_colour(source, wanted, self.shrinkage)
        vectors = mapped(labelled.vectors, source.mean, matrix, cores)
        vectors += wanted.mean
        fit = self.classifier.fit(
            Labelled(vectors, labelled.labels, labelled.classes), prototypes=prototypes, cores=cores
        )
        change = matrix - np.eye(len(matrix))
        moved = np.sqrt(np.vdot(change, source.covariance @ change) / np.trace(source.covariance))
        return Fit(fit.head, {**fit.facts, "shrinkage": self.shrinkage, "moved": float(moved)})


def whiten_and_colour(source: Moments, target: Moments, shrinkage: float) -> Float64[np.ndarray, "dim dim"]:
    """The matrix that gives centred vectors of the source the target's covariance."""
    return _power(source.covariance, -0.5, shrinkage) @ _power(target.covariance, 0.5, shrinkage)


def _power(
    covariance: Float64[np.ndarray, "dim dim"], exponent: float, shrinkage: float
) -> Float64[np.ndarray, "dim dim"]:
    """The shrunk covariance to a power. Raises `UserError` for a negative one where it has no full rank."""
    values, vectors = np.linalg.eigh(covariance)
    # Below this a value is rounding, and its power noise.
    noise = len(values) * np.finfo(np.float64).eps * values[-1]
    values = np.where(values > noise, values, 0.0)
    values = (1 - shrinkage) * values + shrinkage * values.mean()
    if exponent < 0 and not values[0] > 0:
        raise UserError(
            f"The source's images vary in {np.count_nonzero(values)} of {len(values)} directions: "
            "their covariance cannot be inverted.",
            fix="Adapt to more images, or --method prior",
        )
    return (vectors * values**exponent) @ vectors.T
