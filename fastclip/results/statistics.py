"""Intervals and exact tests of counts. Python and NumPy only; the tests ask SciPy and statsmodels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval, and how it was made."""

    low: float
    high: float
    method: str
    level: float = LEVEL


@dataclass(frozen=True)
class PairTest:
    """Two-sided p-values of McNemar's test: exact, and mid-p, which is less conservative."""

    exact: float
    mid: float


def wilson(right: int, images: int, level: float = LEVEL) -> Interval:
    """The Wilson score interval of a share, `right` of `images` (at least 1). No continuity correction."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, z2 = right / images, z * z
    middle = (share + z2 / (2 * images)) / (1 + z2 / images)
    half = z / (1 + z2 / images) * math.sqrt(share * (1 - share) / images + z2 / (4 * images * images))
    low, high = (0.0 if right == 0 else middle - half), (1.0 if right == images else middle + half)
    return Interval(low=low, high=high, method="Wilson", level=level)


def mean_interval(counts: Sequence[tuple[int, int]], level: float = LEVEL) -> Interval:
    """The interval of the unweighted mean of shares, each `(right, images)`, by MOVER.

    The distances of Wilson's limits from the shares are squared and added.
    """
    shares = [right / images for right, images in counts]
    limits = [wilson(right, images, level) for right, images in counts]
    mean = math.fsum(shares) / len(shares)
    down = math.sqrt(math.fsum((p - each.low) ** 2 for p, each in zip(shares, limits, strict=True))) / len(shares)
    up = math.sqrt(math.fsum((each.high - p) ** 2 for p, each in zip(shares, limits, strict=True))) / len(shares)
    return Interval(low=mean - down, high=mean + up, method="MOVER of Wilson", level=level)


def newcombe(both: int, only_a: int, only_b: int, neither: int, level: float = LEVEL) -> Interval:
    """Newcombe's square-and-add interval of the difference of two paired shares, of `a` less of `b`."""
    images = both + only_a + only_b + neither
    a, b = both + only_a, both + only_b
    of_a, of_b = wilson(a, images, level), wilson(b, images, level)
    spread = a * b * (images - a) * (images - b)
    phi = (both * neither - only_a * only_b) / math.sqrt(spread) if spread else 0.0
    p, q = a / images, b / images
    down_a, up_a, down_b, up_b = p - of_a.low, of_a.high - p, q - of_b.low, of_b.high - q
    low = p - q - math.sqrt(max(0.0, down_a**2 - 2 * phi * down_a * up_b + up_b**2))
    high = p - q + math.sqrt(max(0.0, up_a**2 - 2 * phi * up_a * down_b + down_b**2))
    return Interval(low=low, high=high, method="Newcombe, paired", level=level)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values: the family's chance of any false positive stays below the level."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, largest = [0.0] * len(ps), 0.0
    for place, number in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - place) * ps[number]))
        adjusted[number] = largest
    return adjusted


def mcnemar(first: int, second: int) -> PairTest:
    """McNemar's test of `first` against `second` discordant images: is so uneven a split of fair coins likely?"""
    total, least = first + second, min(first, second)
    if first == second:
        return PairTest(1.0, 1.0 - _probability(total, least) / 2 if total else 1.0)
    logs: Sequence[float] = [_log_choose(total, each) for each in range(least + 1)]
    largest = max(logs)
    log_tail = largest + math.log(math.fsum(math.exp(each - largest) for each in logs)) - total * math.log(2)
    exact = min(1.0, 2 * math.exp(log_tail))
    return PairTest(exact, max(0.0, exact - _probability(total, least)))


def _probability(total: int, least: int) -> float:
    return math.exp(_log_choose(total, least) - total * math.log(2))


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
