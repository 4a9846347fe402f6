"""The nearest class mean: each class is the direction of the mean of its images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from fastclip.heads.blocks import blocks_of, sum_over_blocks
from fastclip.heads.counting import check_two_classes
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.method import Fit
from fastclip.heads.scores import check_finite, exact


@dataclass(frozen=True)
class ClassMeans:
    """The class whose mean has the greatest cosine. Nothing is chosen; a class without an image is not known."""

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "prototype"

    @property
    def settings(self) -> Mapping[str, float]:
        """None."""
        return {}

    def choose(
        self,
        train: Labelled,
        held_out: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        cores: int = 1,
    ) -> ClassMeans:
        """This method: it has no setting."""
        return self

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """The head of the class means. Raises `UserError` for fewer than two classes."""
        check_two_classes(labelled)
        head = LinearHead(class_means(labelled, cores), known=labelled.known)
        return Fit(head, {"images": float(len(labelled)), "classes": float(labelled.known.sum())})


def class_sums(labelled: Labelled, cores: int = 1) -> Float64[np.ndarray, "classes dim"]:
    """The sum of each class's vectors, which `exact` has rounded: no order of summation moves a bit.

    Every sum is a multiple of 2⁻²⁶, and stays below 2²⁷ for 134 million images. Raises `IntegrityError` for a number
    that is not finite.
    """

    def of(rows: slice) -> Float64[np.ndarray, "classes dim"]:
        labels = labelled.labels[rows]
        order = np.argsort(labels, kind="stable")
        there, first = np.unique(labels[order], return_index=True)
        sums = np.zeros((labelled.classes, labelled.dim))
        sums[there] = np.add.reduceat(exact(labelled.vectors[rows][order]), first, axis=0)
        return sums

    total = sum_over_blocks(of, blocks_of(len(labelled)), cores)
    check_finite(total)
    return total


def class_means(labelled: Labelled, cores: int = 1) -> Float64[np.ndarray, "classes dim"]:
    """The unit vector along the mean of each class, the same bits on every machine; zeros for a class without one."""
    sums = class_sums(labelled, cores)
    for row in sums:
        # fsum rounds once, however the numbers are ordered; a sum of NumPy's depends on the processor.
        if length := math.sqrt(math.fsum(row * row)):
            row /= length
    return sums
