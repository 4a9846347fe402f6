"""Tests of right and wrong answers to the same images: of two columns, and of any number of columns at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

MOST_COUNTED = 20_000
"""Discordant images up to which p is summed in whole numbers, in 0.1 s at most."""


@dataclass(frozen=True)
class PairTest:
    """Two-sided p-values of McNemar's test: exact, and mid-p, which is less conservative."""

    exact: float
    mid: float


@dataclass(frozen=True)
class QTest:
    """Cochran's Q, its degrees of freedom, and the chance of so large a Q if all columns are alike."""

    q: float
    degrees: int
    p: float


def mcnemar(first: int, second: int) -> PairTest:
    """McNemar's test of `first` against `second` discordant images: is so uneven a split of fair coins likely?

    p is exact up to rounding; above `MOST_COUNTED` images to at least ten digits. Without any discordant image it is 1.
    """
    total, least = first + second, min(first, second)
    if not total:
        return PairTest(1.0, 1.0)
    tail, at_least = _counted(total, least) if total <= MOST_COUNTED else _summed(total, least)
    if first == second:
        return PairTest(1.0, 1 - at_least / 2)
    exact = min(1.0, 2 * tail)
    return PairTest(exact, max(0.0, exact - at_least))


def _counted(total: int, least: int) -> tuple[float, float]:
    """The chances of at most `least`, and of exactly `least`, heads of `total` coins."""
    ways = sum_of_ways = 1
    for heads in range(1, least + 1):
        ways = ways * (total - heads + 1) // heads
        sum_of_ways += ways
    return sum_of_ways / 2**total, ways / 2**total


def _summed(total: int, least: int) -> tuple[float, float]:
    """The same for many coins.

    Stirling's series gives the last term. The difference of log-gammas would lose digits: at a million coins its error
    is 1e-9. Where few coins of many are heads the series fails, but there the chance is less than any float.
    """
    if not least:
        return 0.0, 0.0
    most, lead = total - least, (total - 2 * least) / total
    log = -total / 2 * ((1 - lead) * math.log1p(-lead) + (1 + lead) * math.log1p(lead))
    log += math.log(2 * total / (math.pi * 4 * least * most)) / 2 + (1 / total - 1 / least - 1 / most) / 12
    log -= (1 / total**3 - 1 / least**3 - 1 / most**3) / 360
    at_least = math.exp(log)
    shares, share = [1.0], 1.0
    for heads in range(least, 0, -1):
        share *= heads / (total - heads + 1)
        shares.append(share)
        if share < 1e-18:
            break
    return at_least * math.fsum(shares), at_least


def cochran(counts: Mapping[str, int]) -> QTest:
    """Cochran's Q from the numbers of images by pattern: a character a column, `1` for right and `0` for wrong.

    Images that all columns, or none, answer correctly say nothing. Without others Q is 0 and p is 1.
    """
    columns = len(next(iter(counts)))
    right = [sum(images for bits, images in counts.items() if bits[place] == "1") for place in range(columns)]
    by_image = [(bits.count("1"), images) for bits, images in counts.items()]
    spread = sum(images * ones * (columns - ones) for ones, images in by_image)
    if not spread:
        return QTest(0.0, columns - 1, 1.0)
    q = float(Fraction((columns - 1) * (columns * sum(each**2 for each in right) - sum(right) ** 2), spread))
    return QTest(q, columns - 1, chi_square_tail(q, columns - 1))


def chi_square_tail(value: float, degrees: int) -> float:
    """The chance that a chi-square variable with so many degrees of freedom (at least 1) is `value` or more."""
    half = value / 2
    if half <= 0:
        return 1.0
    terms = [] if degrees % 2 == 0 else [math.erfc(math.sqrt(half))]
    for number in range(degrees // 2):
        power = number + (degrees % 2) / 2
        terms.append(math.exp(power * math.log(half) - half - math.lgamma(power + 1)))
    return min(1.0, math.fsum(terms))
