"""Zero-shot classification: embeddings times prototypes, as ranks of the true class and integer counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

# One row at a time differs from whole blocks in fp32, so the last block is padded.
IMAGES_PER_BLOCK = 256


@dataclass(frozen=True)
class Predictions:
    """Per image: the best class, the rank of the true one (0 is best) and the best score's lead over the second."""

    predicted: Int64[np.ndarray, " images"]
    rank: Int64[np.ndarray, " images"]
    margin: Float32[np.ndarray, " images"]


def classify(
    embeddings: Float[np.ndarray, "images dim"],
    prototypes: Float32[np.ndarray, "classes dim"],
    labels: Int64[np.ndarray, " images"],
) -> Predictions:
    """Rank the true class of every image by cosine similarity; of equal scores the lower class index is better.

    CLIP's logit scale is left out: it changes no rank. `margin` is a difference of cosines.
    """
    blocks = []
    transposed = torch.from_numpy(prototypes).T.contiguous()
    for first in range(0, max(1, len(embeddings)), IMAGES_PER_BLOCK):
        block = torch.zeros(IMAGES_PER_BLOCK, embeddings.shape[1])
        rows = torch.from_numpy(embeddings[first : first + IMAGES_PER_BLOCK])
        block[: len(rows)] = rows
        scores = (block @ transposed)[: len(rows)]
        blocks.append(_rank(scores, torch.from_numpy(labels[first : first + IMAGES_PER_BLOCK])))
    predicted, rank, margin = (torch.cat(parts).numpy() for parts in zip(*blocks, strict=True))
    return Predictions(predicted, rank, margin)


def _rank(
    scores: Float32[Tensor, "images classes"], labels: Int64[Tensor, " images"]
) -> tuple[Int64[Tensor, " images"], Int64[Tensor, " images"], Float32[Tensor, " images"]]:
    true = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1]) < labels[:, None]
    rank = ((scores > true) | ((scores == true) & earlier)).sum(dim=1)
    best = scores.max(dim=1).values
    # Not argmax: which of equal maxima it returns is not promised.
    predicted = (scores == best[:, None]).to(torch.uint8).argmax(dim=1)
    two = scores.topk(min(2, scores.shape[1]), dim=1).values
    return predicted, rank, two[:, 0] - two[:, -1]
