"""p-values of a family of tests, corrected together."""

from __future__ import annotations

from collections.abc import Sequence


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values: the family's chance of any false positive stays below the level."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, largest = [0.0] * len(ps), 0.0
    for place, number in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - place) * ps[number]))
        adjusted[number] = largest
    return adjusted


def bh(ps: Sequence[float]) -> list[float]:
    """Benjamini's and Hochberg's step-up adjustment: the expected share of false ones among positives stays below."""
    order = sorted(range(len(ps)), key=ps.__getitem__, reverse=True)
    adjusted, least = [0.0] * len(ps), 1.0
    for place, number in enumerate(order):
        least = min(least, ps[number] * len(ps) / (len(ps) - place))
        adjusted[number] = least
    return adjusted
