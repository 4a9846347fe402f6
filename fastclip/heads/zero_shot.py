"""Zero-shot classification: embeddings times prototypes, exactly, as ranks of the true class.

Both are rounded to multiples of 2⁻²⁶, an error below 8e-9 a component. Products of two such numbers are multiples of
2⁻⁵², and no partial sum of unit vectors' products reaches 2, so fp64 holds every one of them exactly: no order of
summation, no block size and no BLAS can move a bit, and equal prototypes tie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from fastclip.errors import IntegrityError

IMAGES_PER_BLOCK = 1024
"""Any number gives the same bits. Against 512, products take 5 to 15 % less where BLAS has threads of its own, to which
it hands every product; blocks of 128 take up to five times as long there."""

STEPS = 2.0**26


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


class ZeroShotHead:
    """Scores of images by the cosine with each class's prototype."""

    def __init__(self, prototypes: Float[np.ndarray, "classes dim"]) -> None:
        self._prototypes = np.ascontiguousarray(exact(prototypes).T)

    def __call__(self, embeddings: Float64[np.ndarray, "images dim"]) -> Float64[np.ndarray, "images classes"]:
        """The scores of embeddings that `exact` has rounded. Raises `IntegrityError` for one that is not finite.

        CLIP's logit scale is left out: it changes no rank.
        """
        scores = embeddings @ self._prototypes
        if not np.isfinite(scores).all():
            raise IntegrityError(
                "A score is not finite: an embedding or a prototype is damaged.",
                fix="Check the weights file, remove the embeddings (fastclip store) and run the same command again.",
            )
        return scores


def classify(
    embeddings: Float[np.ndarray, "images dim"],
    heads: Mapping[str, ZeroShotHead],
    labels: Int64[np.ndarray, " images"],
) -> dict[str, Predictions]:
    """Rank the true class of every image under each of `heads`; of equal scores the lower class index is better."""
    blocks: dict[str, list[Predictions]] = {name: [] for name in heads}
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
