"""Tip-Adapter without training: zero-shot scores plus the votes of a few labelled images.

It was made for a few images a class, each the mean of ten augmented views. Stored embeddings have one view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float64, Int64

from fastclip.errors import UserError
from fastclip.heads.blocks import blocks_of, over_blocks
from fastclip.heads.counting import check_two_classes
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.linear import LOGIT_SCALE, LinearHead
from fastclip.heads.method import Fit
from fastclip.heads.scores import check_finite, exact
from fastclip.heads.votes import vote

BETAS = tuple(step * (7 - 0.1) / 200 + 0.1 for step in range(200))
ALPHAS = tuple(step * (3 - 0.1) / 20 + 0.1 for step in range(20))
"""The grid of the original's configuration for ImageNet."""

IMAGES = 16
"""Images whose votes are counted together: with thousands of keys they stay in a core's cache."""


@dataclass(frozen=True, eq=False)
class TipHead:
    """Scores `100 f·P + α Σ e^(-β (1 - f·K))`, the sum over the images K of each class.

    Every class has a prototype P, so that a class without an image has its zero-shot score.
    """

    prototypes: Float[np.ndarray, "classes dim"]
    keys: Float[np.ndarray, "images dim"]
    """Unit vectors of the training images, as they are stored; rows in the order of their labels."""
    labels: Int64[np.ndarray, " images"]
    alpha: float
    beta: float
    _zero_shot: LinearHead = field(init=False, repr=False)

    def __post_init__(self) -> None:
        in_range = len(self.labels) and self.labels[0] >= 0 and self.labels[-1] < len(self.prototypes)
        if not in_range or np.diff(self.labels).min(initial=0) < 0:
            raise ValueError("its labels are not in order, or no classes")
        object.__setattr__(self, "_zero_shot", LinearHead(self.prototypes))

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.prototypes)

    def __call__(self, embeddings: Float64[np.ndarray, "images dim"]) -> Float64[np.ndarray, "images classes"]:
        """The scores. Products and sums of votes are exact; what is left is rounded element by element."""
        scores = self.zero_shot(embeddings)
        votes = np.zeros_like(scores)
        for keys in blocks_of(len(self.keys)):
            distances = self.distances(embeddings, keys)
            for rows in blocks_of(len(embeddings), IMAGES):
                votes[rows] += self.votes(distances[rows], keys, self.beta)
        return scores + self.alpha * votes

    def zero_shot(self, embeddings: Float64[np.ndarray, "images dim"]) -> Float64[np.ndarray, "images classes"]:
        """The scores without votes."""
        return LOGIT_SCALE * self._zero_shot(embeddings)

    def distances(
        self, embeddings: Float64[np.ndarray, "images dim"], keys: slice
    ) -> Float64[np.ndarray, "images keys"]:
        """1 - cosine of every image to some of the keys."""
        cosines = embeddings @ exact(self.keys[keys]).T
        check_finite(cosines)
        return 1.0 - cosines

    def votes(
        self, distances: Float64[np.ndarray, "images keys"], keys: slice, beta: float
    ) -> Float64[np.ndarray, "images classes"]:
        """The votes of some of the keys for each class."""
        labels = self.labels[keys]
        first = np.flatnonzero(np.diff(labels, prepend=-1))
        votes = np.zeros((len(distances), self.classes))
        votes[:, labels[first]] = np.add.reduceat(vote(-beta * distances), first, axis=1)
        return votes


@dataclass(frozen=True)
class Tip:
    """Tip-Adapter with the original's α and β for ImageNet, or with those that held-out images choose."""

    alpha: float = 1.17
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.alpha < np.inf and 0 <= self.beta < np.inf):
            raise UserError(
                f"α and β are at least 0, not {self.alpha:g} and {self.beta:g}.", fix="Leave both out: they are chosen."
            )

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "tip"

    @property
    def settings(self) -> Mapping[str, float]:
        """The weight of the votes, and how fast they fall with the distance."""
        return {"alpha": self.alpha, "beta": self.beta}

    def choose(
        self,
        train: Labelled,
        held_out: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        cores: int = 1,
    ) -> Tip:
        """The α and β that classify most of `held_out`; of equal ones the smallest β, then the smallest α."""
        head = _head(train, prototypes, self)
        every = slice(0, len(train))

        def right(block: slice) -> Int64[np.ndarray, "betas alphas"]:
            embeddings = exact(held_out.vectors[block])
            labels = held_out.labels[block]
            zero_shot, distances = head.zero_shot(embeddings), head.distances(embeddings, every)
            counts = np.zeros((len(BETAS), len(ALPHAS)), np.int64)
            for row, beta in enumerate(BETAS):
                votes = head.votes(distances, every, beta)
                for column, alpha in enumerate(ALPHAS):
                    best = (zero_shot + alpha * votes).argmax(axis=1)
                    counts[row, column] = np.count_nonzero(best == labels)
            return counts

        blocks = blocks_of(len(held_out), IMAGES)
        counts = sum(over_blocks(right, blocks, cores), np.zeros((len(BETAS), len(ALPHAS)), np.int64))
        row, column = divmod(int(counts.argmax()), len(ALPHAS))
        return replace(self, alpha=ALPHAS[column], beta=BETAS[row])

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """The head that holds all images. Raises `UserError` without prototypes and for fewer than two classes."""
        head = _head(labelled, prototypes, self)
        facts = {"images": float(len(labelled)), "classes": float(labelled.known.sum()), "views": 1.0}
        return Fit(head, {**facts, **self.settings})


def _head(labelled: Labelled, prototypes: Float[np.ndarray, "classes dim"] | None, settings: Tip) -> TipHead:
    check_two_classes(labelled)
    if prototypes is None:
        raise UserError(
            "tip adds votes to zero-shot scores and needs prototypes.", fix="--prompts photo, or --head knn"
        )
    order = np.argsort(labelled.labels, kind="stable")
    return TipHead(
        prototypes, labelled.vectors[order], labelled.labels[order], alpha=settings.alpha, beta=settings.beta
    )
