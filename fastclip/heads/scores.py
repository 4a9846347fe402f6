"""Heads give scores; scores become the best class, the rank of the true one and a margin.

Embeddings are rounded to multiples of 2⁻²⁶, an error below 8e-9 a component, and so is all that they are multiplied
by. Products of two such numbers are multiples of 2⁻⁵². Where no partial sum reaches 2, fp64 holds every one of them
exactly: no order of summation, no block size and no BLAS can move a bit, and equal classes tie.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64, Int64

from fastclip.errors import IntegrityError

IMAGES_PER_BLOCK = 1024
"""Any number gives the same bits. Against 512, products take 5 to 15 % less where BLAS has threads of its own, to which
it hands every product; blocks of 128 take up to five times as long there."""

STEPS = 2.0**26

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Predictions:
    """Per image: the best class, the rank of the true one (0 is best) and the best score's lead over the second."""

    predicted: Int64[np.ndarray, " images"]
    rank: Int64[np.ndarray, " images"]
    margin: Float64[np.ndarray, " images"]


def exact(vectors: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, "rows dim"]:
    """`vectors` rounded to multiples of 2⁻²⁶."""
    rounded = vectors.astype(np.float64)
    rounded *= STEPS
    np.rint(rounded, out=rounded)
    rounded /= STEPS
    return rounded


@runtime_checkable
class Head(Protocol):
    """Scores of images for every class of a dataset, greater for a better one. Gives the same bits on every machine."""

    @property
    def classes(self) -> int:
        """How many classes there are: those of the dataset, in its order."""

    def __call__(self, embeddings: Float64[np.ndarray, "images dim"]) -> Float64[np.ndarray, "images classes"]:
        """The scores of unit vectors that `exact` has rounded. -inf for a class that the head does not know.

        The caller may change the result. Raises `IntegrityError` for a score that is not a number.
        """


def check_finite(numbers: Float64[np.ndarray, "*shape"]) -> None:
    """Raise `IntegrityError` unless every score, or sum of embeddings, is finite."""
    if not np.isfinite(numbers).all():
        raise IntegrityError(
            "A number is not finite: an embedding, a prototype or a head is damaged.",
            fix="Check the weights file, remove the embeddings (fastclip store) and run the same command again.",
        )


def classify(
    embeddings: Float[np.ndarray, "images dim"],
    heads: Mapping[Name, Head],
    labels: Int64[np.ndarray, " images"],
) -> dict[Name, Predictions]:
    """Rank the true class of every image under each of `heads`; of equal scores the lower class index is better."""
    blocks: dict[Name, list[Predictions]] = {name: [] for name in heads}
    for first in range(0, max(1, len(embeddings)), IMAGES_PER_BLOCK):
        block = exact(embeddings[first : first + IMAGES_PER_BLOCK])
        for name, head in heads.items():
            blocks[name].append(_rank(head(block), labels[first : first + IMAGES_PER_BLOCK]))
    return {
        name: Predictions(
            np.concatenate([each.predicted for each in found]),
            np.concatenate([each.rank for each in found]),
            np.concatenate([each.margin for each in found]),
        )
        for name, found in blocks.items()
    }


def _rank(scores: Float64[np.ndarray, "images classes"], labels: Int64[np.ndarray, " images"]) -> Predictions:
    images = np.arange(len(labels))
    true = scores[images, labels][:, None]
    rank = np.count_nonzero(scores > true, axis=1)
    # Ties are rare; only their rows are looked at again.
    tied = np.flatnonzero(np.count_nonzero(scores == true, axis=1) > 1)
    earlier = np.arange(scores.shape[1]) < labels[tied, None]
    rank[tied] += np.count_nonzero((scores[tied] == true[tied]) & earlier, axis=1)
    predicted = scores.argmax(axis=1)  # the first of equal ones
    best = scores[images, predicted]
    if scores.shape[1] == 1:
        return Predictions(predicted, rank, np.zeros(len(labels)))
    scores[images, predicted] = -np.inf
    return Predictions(predicted, rank, best - scores.max(axis=1, initial=-np.inf))
