"""The exact nearest neighbours of images among many others, found by products in fp32 and decided by exact ones.

fp32 takes half the time of fp64. Its error has a bound, so that everything that may be among the nearest is kept; what
was kept is multiplied again, exactly. Nothing is as large as queries × images: a block of products is looked at and
forgotten.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int16, Int64

from fastclip.heads.blocks import blocks_of
from fastclip.heads.scores import check_finite, exact

QUERIES = 1024
"""Queries that are answered together; below 32,768. Any number gives the same bits."""

ROWS = 4096


class Candidates(NamedTuple):
    """Pairs of a query and a row, ordered by query, with their product."""

    queries: Int16[np.ndarray, " pairs"]
    rows: Int64[np.ndarray, " pairs"]
    products: Float[np.ndarray, " pairs"]


def nearest(
    vectors: Float[np.ndarray, "images dim"], queries: Float64[np.ndarray, "queries dim"], k: int
) -> tuple[Int64[np.ndarray, "queries k"], Float64[np.ndarray, "queries k"]]:
    """The rows of the `k` vectors with the greatest cosine to each query, and these cosines, greatest first.

    All are unit vectors, `queries` rounded by `exact`, and at least `k` vectors. Of equal cosines the lower row is
    first. No block size, BLAS or processor moves a bit.
    """
    rows, cosines = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    for block in blocks_of(len(queries), QUERIES):
        asked = queries[block]
        found, crowded = _search(vectors, asked.astype(np.float32), k, slack=2 * error_bound(queries.shape[1]))
        _decide(vectors, asked, found, rows[block], cosines[block])
        if len(crowded):
            found, _ = _search(vectors, asked[crowded], k, slack=0.0)
            decided = np.empty((len(crowded), k), np.int64), np.empty((len(crowded), k))
            _decide(vectors, asked[crowded], found, *decided)
            rows[block][crowded], cosines[block][crowded] = decided
    return rows, cosines


def error_bound(dim: int) -> float:
    """How far a product of two unit vectors in fp32 may be from the exact one of the rounded vectors.

    Each of two conversions, of a product and of up to `dim` - 1 sums, in any order, is off by 2⁻²⁴ of its result at
    most, and a limit that is rounded to fp32 by as much. A stored fp32 vector is off by 2⁻²⁷ a component from the
    rounded one. 1.02 is for lengths up to 1.005, as rounding to fp16 leaves them, and for errors of errors.
    """
    return 1.02 * ((dim + 3) * 2.0**-24 + dim**0.5 * 2.0**-27)


def _search(
    vectors: Float[np.ndarray, "images dim"], queries: Float[np.ndarray, "queries dim"], k: int, *, slack: float
) -> tuple[Candidates, Int64[np.ndarray, " crowded"]]:
    """Every row whose product is within `slack` of the `k`-th greatest one, in the type of `queries`.

    Queries that would have more than k + 4,096 rows are crowded: they are returned, and have no rows. Without slack
    none is, for an equal product further down is too late.
    """
    cut = np.full(len(queries), -np.inf)
    kept = Candidates(np.empty(0, np.int16), np.empty(0, np.int64), np.empty(0, queries.dtype))
    waiting: list[Candidates] = []
    for rows in blocks_of(len(vectors), ROWS):
        block = exact(vectors[rows]) if queries.dtype == np.float64 else vectors[rows].astype(np.float32)
        products = queries @ block.T
        for edge in (products[:1], products[:, :1]):  # each damaged vector and query shows here
            check_finite(edge.astype(np.float64))
        first = rows.start == 0
        if first and products.shape[1] >= k:
            cut = _greatest(products, k) - slack
        limits = cut.astype(products.dtype)[:, None]
        query, row = np.divmod(np.flatnonzero(products >= limits if first else products > limits), products.shape[1])
        waiting.append(Candidates(query.astype(np.int16), row + rows.start, products[query, row]))
        if sum(len(each.rows) for each in waiting) >= len(kept.rows):
            kept, cut = _shrink([kept, *waiting], cut, k, slack)
            waiting = []
    kept, cut = _shrink([kept, *waiting], cut, k, slack)
    return kept, np.flatnonzero(cut == np.inf)


def _shrink(
    found: list[Candidates], cut: Float64[np.ndarray, " queries"], k: int, slack: float
) -> tuple[Candidates, Float64[np.ndarray, " queries"]]:
    """The candidates that are still ones among all that were `found`, and where the next ones begin."""
    pairs = Candidates(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    order = np.argsort(pairs.queries, kind="stable")
    pairs = Candidates(*(part[order] for part in pairs))
    counts = np.bincount(pairs.queries, minlength=len(cut))
    if counts.max() >= k:
        table = np.full((len(cut), counts.max()), -np.inf, pairs.products.dtype)
        places = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        table[pairs.queries, places] = pairs.products
        cut = np.maximum(cut, _greatest(table, k) - slack)
    kept = pairs.products >= cut.astype(pairs.products.dtype)[pairs.queries]
    if slack:
        counts = np.bincount(pairs.queries[kept], minlength=len(cut))
        cut = np.where(counts > k + ROWS, np.inf, cut)
        kept &= cut[pairs.queries] < np.inf
    return Candidates(*(part[kept] for part in pairs)), cut


def _greatest(products: Float[np.ndarray, "queries rows"], k: int) -> Float64[np.ndarray, " queries"]:
    """The `k`-th greatest product of each query."""
    place = products.shape[1] - k
    return np.partition(products, place, axis=1)[:, place].astype(np.float64)


def _decide(
    vectors: Float[np.ndarray, "images dim"],
    queries: Float64[np.ndarray, "queries dim"],
    found: Candidates,
    rows: Int64[np.ndarray, "queries k"],
    cosines: Float64[np.ndarray, "queries k"],
) -> None:
    """Fill `rows` and `cosines` with the best candidates of every query that has some."""
    ends = np.cumsum(np.bincount(found.queries, minlength=len(queries)))
    for query, (first, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if first < end:
            candidates = np.sort(found.rows[first:end])
            exactly = exact(vectors[candidates]) @ queries[query]
            best = np.argsort(-exactly, kind="stable")[: rows.shape[1]]
            rows[query], cosines[query] = candidates[best], exactly[best]
