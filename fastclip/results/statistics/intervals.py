"""Confidence intervals of shares of images, of means of such shares, and of differences on the same images."""

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


def wilson(right: int, images: int, level: float = LEVEL) -> Interval:
    """The Wilson score interval of a share, `right` of `images` (at least 1), without a continuity correction."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, z2 = right / images, z * z
    middle = (share + z2 / (2 * images)) / (1 + z2 / images)
    half = z / (1 + z2 / images) * math.sqrt(share * (1 - share) / images + z2 / (4 * images * images))
    low, high = (0.0 if right == 0 else middle - half), (1.0 if right == images else middle + half)
    return Interval(low=low, high=high, method="Wilson", level=level)


def mean_interval(counts: Sequence[tuple[int, int]], level: float = LEVEL) -> Interval:
    """The interval of the unweighted mean of shares, each `(right, images)` and images at least 1, by MOVER.

    The distances of Wilson's limits from the shares are squared and added.
    """
    return mean_of_intervals([(right / images, wilson(right, images, level)) for right, images in counts])


def mean_of_intervals(estimates: Sequence[tuple[float, Interval]]) -> Interval:
    """The interval of the unweighted mean of independent estimates, each with its own one, by MOVER."""
    mean = math.fsum(value for value, _ in estimates) / len(estimates)
    down = math.sqrt(math.fsum((value - each.low) ** 2 for value, each in estimates)) / len(estimates)
    up = math.sqrt(math.fsum((each.high - value) ** 2 for value, each in estimates)) / len(estimates)
    first = estimates[0][1]
    return Interval(low=mean - down, high=mean + up, method=f"MOVER of {first.method}", level=first.level)


def newcombe(both: int, only_a: int, only_b: int, neither: int, level: float = LEVEL) -> Interval:
    """Newcombe's square-and-add interval of the difference of two shares of the same images, of `a` less of `b`.

    There is at least one image. Wilson's limits and the correlation are without a continuity correction.
    """
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
