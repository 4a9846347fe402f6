"""Texts of the page: numbers, intervals and names."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from fastclip.report.numbers import NO_NUMBER, percent
from fastclip.results.cells import ZERO_SHOT, Column

MOST_LISTED = 6
"""Names of a list in a sentence."""


def plural(count: int, noun: str) -> str:
    """`1 image`, `1,234 images`; `noun` may give both forms, `class|classes`."""
    one, _, many = noun.partition("|")
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """`a, b, c`; of a long list the beginning, and how many there are."""
    shown = ", ".join(names[:MOST_LISTED])
    return shown if len(names) <= MOST_LISTED else f"{shown} … ({len(names):,} in all)"


def called(columns: Sequence[Column]) -> dict[Column, str]:
    """Each column by as much of its name as tells it from the others."""
    fitted = any(each.head != ZERO_SHOT for each in columns)
    ways = {each: each.full_way if fitted else each.way for each in columns}
    if len(set(ways.values())) <= 1:
        return {each: each.backbone for each in columns}
    if len({each.backbone for each in columns}) == 1:
        return ways
    return {each: f"{each.backbone}, {name}" for each, name in ways.items()}


def ratio(right: int, images: int, decimals: int) -> str:
    """A share of counts in percent."""
    return percent(Fraction(right, images), decimals) if images else NO_NUMBER
