"""Transfer components: a subspace in which the means of two domains meet. TCA, JDA and BDA are three weightings.

TCA: Pan, Tsang, Kwok and Yang, 2011. JDA: Long, Wang, Ding, Sun and Yu, 2013. BDA: Wang, Chen, Hao, Feng and Shen,
2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64

from fastclip.adapt.base import WithClassifier, check_domains, folded, predicted
from fastclip.adapt.means import Means, shared, told_apart
from fastclip.adapt.moments import mapped, moments_of, pooled
from fastclip.adapt.subspace import check_components, default_components
from fastclip.errors import UserError
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.method import Fit


@dataclass(frozen=True, kw_only=True)
class TransferComponents(WithClassifier):
    """The classifier learns on x A, where A's columns minimise aᵀ (D + λ I) a / aᵀ S a.

    S is the scatter of all images, D the maximum mean discrepancy: for `tca` that of the domains, for `jda` and `bda`
    also those of the classes, for which the target's images have the predictions of the round before. `jda` weighs
    domains and classes alike, `bda` by how well each can be told apart. Columns have length one, so that the
    classifier's penalty means what it means on the vectors themselves.
    """

    name: Literal["tca", "jda", "bda"]
    components: int | None = None
    """None takes `default_components`."""
    penalty: float = 1.0
    """λ."""
    rounds: int = 10
    """For `jda` and `bda`. The first is that of `tca`; the rest is left out once a round would repeat the last one."""

    def __post_init__(self) -> None:
        check_components(self.components)
        if not 0 < self.penalty < np.inf:
            raise UserError(f"The penalty of {self.name} is positive, not {self.penalty:g}.", fix="penalty=1")
        if self.rounds < 1:
            raise UserError(f"{self.name} takes one round at least, not {self.rounds}.", fix="rounds=10")

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """Fit in the subspace; the head's weights are turned back into the space of the vectors.

        `weight` is that of the classes, `changed` how many predictions differ between the last two rounds.
        """
        del prototypes
        target = check_domains(self.name, labelled, unlabelled)
        centre, scatter = pooled(moments_of(labelled.vectors, cores), moments_of(target.vectors, cores))
        components = min(self.components or default_components(int(labelled.known.sum())), labelled.dim)
        here = Means.of(labelled.vectors, labelled.labels, labelled.classes, cores)

        def learn(there: Means, weight: float) -> tuple[Float64[np.ndarray, "dim columns"], Fit, LinearHead]:
            matrix = transfer_components(scatter, mean_gaps(here, there, weight), self.penalty, components)
            vectors = mapped(labelled.vectors, centre, matrix, cores)
            fit = self.classifier.fit(Labelled(vectors, labelled.labels, labelled.classes), cores=cores)
            return matrix, fit, folded(fit, centre, matrix)

        labels, weight, changed, done = np.zeros(len(target), np.int64), 0.0, len(target), 1
        matrix, fit, head = learn(Means.of(target.vectors, labels, labelled.classes, cores), weight)
        while self.name != "tca" and done < self.rounds:
            before, labels = (weight, labels), predicted(head, target.vectors, cores)
            there = Means.of(target.vectors, labels, labelled.classes, cores)
            weight = 0.5
            if self.name == "bda":
                both = (labelled.vectors, target.vectors), (labelled.labels, labels)
                weight = class_weight(told_apart(here, there, *both, matrix, cores), shared(here, there))
            changed = int(np.count_nonzero(labels != before[1]))
            if changed == 0 and weight == before[0]:
                break
            matrix, fit, head = learn(there, weight)
            done += 1
        facts = {"components": components, "rounds": done, "weight": weight, "changed": changed}
        return Fit(head, {**fit.facts, **{name: float(value) for name, value in facts.items()}})


def transfer_components(
    scatter: Float64[np.ndarray, "dim dim"],
    gaps: Float64[np.ndarray, "groups dim"],
    penalty: float,
    components: int,
) -> Float64[np.ndarray, "dim components"]:
    """The first columns a, of length one, by ascending aᵀ (gapsᵀ gaps + penalty · I) a / aᵀ scatter a.

    The first matrix is positive definite, the second need not be: with more numbers than images it has no full rank.
    So the inverse quotient is maximised, by a symmetric problem after Cholesky.
    """
    lower = np.linalg.cholesky(gaps.T @ gaps + penalty * np.eye(len(scatter)))
    reduced = np.linalg.solve(lower, np.linalg.solve(lower, scatter).T)
    _, vectors = np.linalg.eigh(reduced)
    found = np.linalg.solve(lower.T, vectors[:, ::-1][:, :components])
    return found / np.linalg.norm(found, axis=0)


def mean_gaps(source: Means, target: Means, weight: float) -> Float64[np.ndarray, "groups dim"]:
    """The gaps between two domains' means, so that gapsᵀ gaps is Xᵀ M X for the images X and their matrix M.

    M = (1 - weight) · C · M₀ + weight · Σ M꜀ over the C classes that both domains have, divided by its Frobenius norm.
    Each term is e eᵀ, where e is 1 / images for the source's images and -1 / images for the target's. So M's norm
    follows from the products of the e, and M itself is never made.
    """
    both = shared(source, target)
    weights = np.where(both, weight, 0.0)
    weights[0] = (1 - weight) * max(1, int(both[1:].sum()))
    lengths = (1 / np.maximum(source.images, 1)) + 1 / np.maximum(target.images, 1)
    products = np.diag(lengths)
    products[0] = products[:, 0] = lengths[0]
    norm = np.sqrt(weights @ products**2 @ weights)
    return np.sqrt(weights / norm)[:, None] * (source.means - target.means)


def class_weight(apart: Float64[np.ndarray, " groups"], both: Bool[np.ndarray, " groups"]) -> float:
    """BDA's weight of the classes, from 0 to 1, by proxy A-distances: the classes' mean against the domains'."""
    domains, classes = float(apart[0]), float(apart[1:][both[1:]].mean())
    return classes / (classes + domains) if classes + domains else 0.5
