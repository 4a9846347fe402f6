"""Ranks of columns by their macro average, and a test of it, by drawing.

The draws are NumPy's from PCG64, and their seed is a digest of the counts: equal counts give equal numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from fastclip.files import digest
from fastclip.results.statistics.intervals import LEVEL

DRAWS = 10_000
FLIPS = 20_000
AT_ONCE = 2_000_000
"""Numbers that are drawn at once: 16 MB."""
SAME = 1e-12
"""Averages that differ by less are equal: sums of fractions are rounded."""


@dataclass(frozen=True)
class DrawnRank:
    """The rank of one column in a joint bootstrap, 1 for the best; equal averages share the better rank."""

    best: float
    """The share of draws in which no other column is better."""
    low: int
    high: int
    """The ends of an interval that holds at least LEVEL of the draws."""


def joint_ranks(domains: Sequence[Mapping[str, int]], draws: int = DRAWS) -> list[DrawnRank]:
    """The rank of each column by its macro average over the domains, if other images like these had been taken.

    Each domain is given by its numbers of images by pattern: a character a column, `1` for right and `0` for wrong.
    There is at least one domain, and in each at least one image. A draw takes as many images as there are, with
    replacement, apart in each domain: for right and wrong answers, multinomial numbers of the patterns. All columns
    answer the same drawn images.
    """
    with ThreadPoolExecutor() as pool:  # NumPy draws without the interpreter's lock
        drawn = list(pool.map(lambda number: _drawn_accuracies(number, domains[number], draws), range(len(domains))))
    averages = np.sum(drawn, axis=0).round(round(-math.log10(SAME)))
    ranks = 1 + (averages[:, None, :] > averages[:, :, None]).sum(axis=2)
    ranks.sort(axis=0)
    cut = int(draws * (1 - LEVEL) / 2)
    low, high = ranks[cut], ranks[draws - 1 - cut]
    return [DrawnRank(float((ranks[:, each] == 1).mean()), int(low[each]), int(high[each])) for each in range(len(low))]


def macro_test(domains: Sequence[tuple[int, int, int]], flips: int = FLIPS) -> float:
    """The p-value of the difference of two macro averages on the same images: McNemar's test over several domains.

    Each domain is `(only_a, only_b, images)`. If the two columns are alike, every discordant image might as well have
    been the other column's, so a coin is flipped for each. p is the share of flips, and of what was seen, with so
    large a difference: at least 1 / 20,001.

    It assumes that images are independent, within a domain and between domains, and that the two are alike in every
    domain. If they are alike on average only, and differ in domains, flips scatter more than samples do, so p is rather
    too large.
    """
    random = _generator(domains)
    seen, drawn = 0.0, np.zeros(flips)
    for only_a, only_b, images in domains:
        seen += (only_a - only_b) / images
        drawn += (2 * random.binomial(only_a + only_b, 0.5, flips) - (only_a + only_b)) / images
    return float((1 + (np.abs(drawn) >= abs(seen) - SAME).sum()) / (1 + flips))


def _generator(counts: object) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(int(digest(json.dumps(counts).encode()), 16)))


def _drawn_accuracies(number: int, counts: Mapping[str, int], draws: int) -> Float64[np.ndarray, "draws columns"]:
    """The accuracy of every column in each draw from one domain, the one of this number."""
    random = _generator([number, sorted(counts.items())])
    patterns = sorted(counts)
    right = np.array([[float(bit) for bit in bits] for bits in patterns])
    images: Int64[np.ndarray, " patterns"] = np.array([counts[bits] for bits in patterns], np.int64)
    total = int(images.sum())
    block = max(1, AT_ONCE // len(patterns))
    sizes = [min(block, draws - start) for start in range(0, draws, block)]
    # Whole numbers below 2**53: no order of the sums changes them.
    return np.concatenate([random.multinomial(total, images / total, size) @ right for size in sizes]) / total
