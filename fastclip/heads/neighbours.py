"""The vote of the nearest neighbours, weighted as DINO's, exact and the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float64, Int64

from fastclip.errors import UserError
from fastclip.heads.blocks import blocks_of, over_blocks
from fastclip.heads.class_means import class_means
from fastclip.heads.counting import check_two_classes
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.method import Fit
from fastclip.heads.nearest import QUERIES, nearest
from fastclip.heads.scores import exact
from fastclip.heads.votes import vote

NEIGHBOURS = (1, 5, 10, 20, 50, 100, 200)
"""The numbers of neighbours that are tried."""


@dataclass(frozen=True, eq=False)
class NeighboursHead:
    """The `k` training images with the greatest cosine vote for their classes, each with e^(cosine / temperature).

    Votes are relative to the nearest image's, which is 1. Classes without a vote come after all others, in the order of
    the cosine to their mean: a rank among them then says something. A class without an image is not known.
    """

    vectors: Float[np.ndarray, "images dim"]
    """Unit vectors of the training images, as they are stored."""
    labels: Int64[np.ndarray, " images"]
    means: Float64[np.ndarray, "classes dim"]
    """From `class_means`."""
    k: int
    temperature: float
    _by_mean: LinearHead = field(init=False, repr=False)

    def __post_init__(self) -> None:
        in_range = self.labels.min(initial=0) >= 0 and self.labels.max(initial=0) < len(self.means)
        if not in_range or not 1 <= self.k <= len(self.labels) or not self.temperature > 0:
            raise ValueError("its labels, its k or its temperature are outside their range")
        known = np.bincount(self.labels, minlength=len(self.means)) > 0
        object.__setattr__(self, "_by_mean", LinearHead(self.means, known=known))

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.means)

    def __call__(self, embeddings: Float64[np.ndarray, "images dim"]) -> Float64[np.ndarray, "images classes"]:
        """The votes for each class; below 0 for one that has none."""
        rows, cosines = nearest(self.vectors, embeddings, self.k)
        votes = _count(self.labels[rows], cosines, self.temperature, self.classes)
        scores = self._by_mean(embeddings)
        scores -= 2.0
        return np.where(votes > 0, votes, scores)


@dataclass(frozen=True)
class Neighbours:
    """Classification by the `k` nearest training images."""

    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.k < 1 or not self.temperature >= 0.01:
            raise UserError(
                f"k is at least 1 and the temperature at least 0.01, not {self.k} and {self.temperature:g}.",
                fix="Leave both out: k is chosen on held-out images, and DINO's temperature is 0.07.",
            )

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "knn"

    @property
    def settings(self) -> Mapping[str, float]:
        """The number of neighbours."""
        return {"k": float(self.k)}

    def choose(
        self,
        train: Labelled,
        held_out: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        cores: int = 1,
    ) -> Neighbours:
        """The k that classifies most of `held_out`; of equal ones the greatest, the smoothest."""
        tried = sorted({min(k, len(train)) for k in NEIGHBOURS})

        def right(block: slice) -> Int64[np.ndarray, " tried"]:
            rows, cosines = nearest(train.vectors, exact(held_out.vectors[block]), tried[-1])
            labels = train.labels[rows]
            votes = (_count(labels[:, :k], cosines[:, :k], self.temperature, train.classes) for k in tried)
            return np.array([np.count_nonzero(each.argmax(axis=1) == held_out.labels[block]) for each in votes])

        counts = sum(over_blocks(right, blocks_of(len(held_out), QUERIES), cores), np.zeros(len(tried), np.int64))
        return replace(self, k=max(zip(counts.tolist(), tried, strict=True))[1])

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """The head that holds all images. With fewer than `k` of them all vote."""
        check_two_classes(labelled)
        k = min(self.k, len(labelled))
        head = NeighboursHead(labelled.vectors, labelled.labels, class_means(labelled, cores), k, self.temperature)
        facts = {"images": float(len(labelled)), "classes": float(labelled.known.sum()), "k": float(k)}
        return Fit(head, {**facts, "temperature": self.temperature})


def _count(
    labels: Int64[np.ndarray, "queries k"], cosines: Float64[np.ndarray, "queries k"], temperature: float, classes: int
) -> Float64[np.ndarray, "queries classes"]:
    """The votes for each class. Neighbours stand in order, nearest first."""
    votes = vote((cosines - cosines[:, :1]) / temperature)
    cells = labels + classes * np.arange(len(labels))[:, None]
    counted = np.bincount(cells.ravel(), votes.ravel(), classes * len(labels)).reshape(len(labels), classes)
    return counted.astype(np.float64, copy=False)  # of no images NumPy counts in whole numbers
