"""Scores of candidates that need no label: how sure an image's best class is, on average, once all classes are level.

This is the score of zero-shot prompt ensembling (ZPE, arXiv 2302.06235), with the bias of a class estimated on the very
images: a template under which images lie close to some class, and not to all alike, scores high.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from jaxtyping import Float, Float32, Float64

from fastclip.data.shards.manifest import Shard
from fastclip.heads.scores import check_finite, exact
from fastclip.prompts.scoring import ROWS, Source, chunks
from fastclip.threads import threads


def label_free_scores(
    source: Source, prototypes: Float32[np.ndarray, "sets classes dim"], cores: int
) -> Float64[np.ndarray, " sets"]:
    """The mean over all images of the largest cosine, after each class's mean cosine is taken off, to nine digits."""
    by_class = np.ascontiguousarray(prototypes.transpose(1, 0, 2))
    shards = list(source.target.shards)
    with threads(cores, "prompts") as pool:
        sums = list(pool.map(partial(_sum, source), shards))
        images = sum(count for _, count in sums)
        middle = np.sum([each for each, _ in sums], axis=0) / images
        found = pool.map(partial(_largest, source, by_class, by_class.astype(np.float64) @ middle), shards)
        total: Float64[np.ndarray, " sets"] = np.sum(list(found), axis=0)
    return np.round(total / images, 9)


def _sum(source: Source, shard: Shard) -> tuple[Float64[np.ndarray, " dim"], int]:
    vectors = _vectors(source, shard)
    return exact(vectors).sum(axis=0), len(vectors)


def _largest(
    source: Source,
    by_class: Float32[np.ndarray, "classes sets dim"],
    means: Float64[np.ndarray, "classes sets"],
    shard: Shard,
) -> Float64[np.ndarray, " sets"]:
    vectors = _vectors(source, shard)
    classes, sets, dim = by_class.shape
    found = np.zeros(sets)
    for start in range(0, len(vectors), ROWS):
        block = exact(vectors[start : start + ROWS])
        check_finite(block)
        for first, last in chunks(sets, classes):
            scores = (block @ exact(by_class[:, first:last].reshape(-1, dim)).T).reshape(len(block), classes, -1)
            found[first:last] += (scores - means[:, first:last]).max(axis=1).sum(axis=0)
    return found


def _vectors(source: Source, shard: Shard) -> Float[np.ndarray, "images dim"]:
    """The images without their labels."""
    return source.read(shard).vectors
