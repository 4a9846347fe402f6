"""Subspace alignment (Fernando, Habrard, Sebban and Tuytelaars, 2013): principal axes are turned onto the target's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from fastclip.adapt.base import WithClassifier, check_domains, folded
from fastclip.adapt.moments import Moments, mapped, moments_of
from fastclip.errors import UserError
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.method import Fit


@dataclass(frozen=True, kw_only=True)
class SubspaceAlignment(WithClassifier):
    """The classifier learns on (x - mₛ) Pₛ Pₛᵀ Pₜ and is applied to (x - mₜ) Pₜ.

    P are the first `components` principal axes of each domain, in columns. None takes `default_components`.
    """

    components: int | None = None

    def __post_init__(self) -> None:
        check_components(self.components)

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "sa"

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """Fit in the target's principal axes; the head's weights are turned back into the space of the vectors."""
        del prototypes
        target = check_domains(self.name, labelled, unlabelled)
        source, wanted = moments_of(labelled.vectors, cores), moments_of(target.vectors, cores)
        components = self.components or default_components(int(labelled.known.sum()))
        components = min(components, labelled.dim, source.images - 1, wanted.images - 1)
        here, there = principal_axes(source, components), principal_axes(wanted, components)
        vectors = mapped(labelled.vectors, source.mean, here @ (here.T @ there), cores)
        fit = self.classifier.fit(Labelled(vectors, labelled.labels, labelled.classes), cores=cores)
        return Fit(folded(fit, wanted.mean, there), {**fit.facts, "components": float(components)})


def principal_axes(moments: Moments, components: int) -> Float64[np.ndarray, "dim components"]:
    """The orthonormal directions in which images vary most, the first one most."""
    _, vectors = np.linalg.eigh(moments.covariance)
    return vectors[:, ::-1][:, :components]


def default_components(classes: int) -> int:
    """As many as the classes, so that their means fit in, and 30 at least, as the methods' authors used."""
    return max(30, classes)


def check_components(components: int | None) -> None:
    """Raise `UserError` for less than one."""
    if components is not None and components < 1:
        raise UserError(f"A subspace has one component at least, not {components}.", fix="components=30")
