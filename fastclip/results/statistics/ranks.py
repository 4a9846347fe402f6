"""Ranks of columns by their macro average, by drawing, and a test of it.

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
STEPS = 2048
LEAST_P = 1e-12
"""Chances are sums of numbers that are rounded at 1e-16."""
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


def macro_test(domains: Sequence[tuple[int, int, int]]) -> float:
    """The p-value of the difference of two macro averages on the same images: McNemar's test over several domains.

    Each domain is `(only_a, only_b, images)`. If the two columns are alike, every discordant image might as well have
    been the other column's, as if a coin were flipped for each. p is the chance of so large a difference. Differences
    are counted in steps of 1/STEPS of their standard deviation and rounded up, so p is rather too large, by about
    1% of itself at most, and never below LEAST_P.

    It assumes that images are independent, within a domain and between domains, and that the two are alike in every
    domain. If they are alike on average only, and differ in domains, flips scatter more than samples do, so p is rather
    too large then, too.
    """
    step = math.sqrt(math.fsum((only_a + only_b) / images**2 for only_a, only_b, images in domains)) / STEPS
    if not step:
        return 1.0
    size = 32 * STEPS  # 16 standard deviations to either side
    transform = np.ones(size // 2 + 1, complex)
    for only_a, only_b, images in domains:
        coins = only_a + only_b
        heads = np.arange(coins + 1)
        ways = np.concatenate([[0.0], np.cumsum(np.log((coins - heads[:-1]) / heads[1:]))])
        places = np.rint((2 * heads - coins) / images / step).astype(int)
        near = np.abs(places) < size // 2
        chances = np.exp(ways - coins * math.log(2))
        transform = transform * np.fft.rfft(np.bincount(places[near] % size, chances[near], size))
    seen = abs(math.fsum((only_a - only_b) / images for only_a, only_b, images in domains)) / step
    first = math.ceil(seen - len(domains) / 2 - SAME)  # each domain was rounded by half a step at most
    tail = float(np.fft.irfft(transform, size)[first : size // 2].sum()) if first > 0 else 0.5
    return min(1.0, max(LEAST_P, 2 * tail))


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
