"""The base of all methods: a source with labels and a target without, and a classifier that learns on moved images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Float64, Int64

from fastclip.errors import UserError
from fastclip.heads.blocks import blocks_of, over_blocks
from fastclip.heads.counting import check_two_classes
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.method import Fit, Method
from fastclip.heads.scores import Head, exact

Same = TypeVar("Same", bound="WithClassifier")


@dataclass(frozen=True, kw_only=True)
class WithClassifier:
    """A method that moves images and then fits `classifier` on them; the classifier's settings are its settings."""

    classifier: Method

    @property
    def settings(self) -> Mapping[str, float]:
        """The settings of the classifier."""
        return self.classifier.settings

    def choose(
        self: Same,
        train: Labelled,
        held_out: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        cores: int = 1,
    ) -> Same:
        """The method with the settings that the classifier chooses on images of the source as they are."""
        chosen = self.classifier.choose(train, held_out, prototypes=prototypes, cores=cores)
        return replace(self, classifier=chosen)


def check_target(name: str, unlabelled: Unlabelled | None) -> Unlabelled:
    """The target's images. Raises `UserError` if there is less than two."""
    # Labelled is a kind of Unlabelled; labels of the target must not come this far.
    assert not isinstance(unlabelled, Labelled), "The target is passed without its labels: target.unlabelled()."
    if unlabelled is None or len(unlabelled) < 2:
        raise UserError(
            f"{name} adapts to the images of a target; there are {0 if unlabelled is None else len(unlabelled)}.",
            fix="--to DATASET/DOMAIN, one with two images or more",
        )
    return unlabelled


def check_domains(name: str, source: Labelled, unlabelled: Unlabelled | None) -> Unlabelled:
    """The target's images. Raises `UserError` for a source that teaches nothing about them."""
    target = check_target(name, unlabelled)
    check_two_classes(source)
    check_dim(source.dim, target, "the source's vectors")
    return target


def check_dim(dim: int, target: Unlabelled, other: str) -> None:
    """Raise `UserError` unless the target's vectors have `dim` numbers."""
    if dim != target.dim:
        raise UserError(
            f"The target's vectors have {target.dim} numbers, {other} {dim}: they are of two backbones.",
            fix="Use one backbone for both: -b NAME",
        )


def folded(fit: Fit, centre: Float64[np.ndarray, " dim"], matrix: Float64[np.ndarray, "dim columns"]) -> LinearHead:
    """The head on untransformed vectors that scores as a head fitted on `(vectors - centre) @ matrix` does.

    (x - c) A Wᵀ + b = x (W Aᵀ)ᵀ + (b - c A Wᵀ).
    """
    head = linear(fit.head)
    weights = head.weights @ matrix.T
    return LinearHead(weights, (0.0 if head.bias is None else head.bias) - weights @ centre, head.known)


def linear(head: Head) -> LinearHead:
    """`head`, which must be a linear one."""
    assert isinstance(head, LinearHead), f"A {type(head).__name__} cannot be folded with a transform; it is not linear."
    return head


def predicted(head: Head, vectors: Float[np.ndarray, "images dim"], cores: int) -> Int64[np.ndarray, " images"]:
    """The best class of every image; of equal ones the first."""

    def work(rows: slice) -> Int64[np.ndarray, " rows"]:
        return head(exact(vectors[rows])).argmax(axis=1)

    return np.concatenate(list(over_blocks(work, blocks_of(len(vectors)), cores)))
