"""Texts of the page: numbers, intervals and names."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from fastclip.report.tables import NO_NUMBER, percent
from fastclip.results.cells import Column
from fastclip.results.statistics import Interval

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
    ways, backbones = {each.way for each in columns}, {each.backbone for each in columns}
    if len(ways) <= 1:
        return {each: each.backbone for each in columns}
    if len(backbones) == 1:
        return {each: each.way for each in columns}
    return {each: f"{each.backbone}, {each.way}" for each in columns}


def full_name(column: Column) -> str:
    """`RN50, photo`: a backbone and its prompt set or head."""
    return f"{column.backbone}, {column.way}" if column.way else column.backbone


def interval_text(interval: Interval | None, decimals: int, *, signed: bool = False) -> str:
    """`[93.09, 98.33]` in percent; empty for none."""
    if interval is None:
        return ""
    return f"[{_percent(interval.low, decimals, signed)}, {_percent(interval.high, decimals, signed)}]"


def points(value: float | None, decimals: int) -> str:
    """A difference of accuracies in points of percent, with its sign."""
    return NO_NUMBER if value is None else _percent(value, decimals, True)


def p_text(value: float) -> str:
    """A p-value: three decimals, or its power of ten."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def ratio(right: int, images: int, decimals: int) -> str:
    """A share of counts in percent."""
    return percent(Fraction(right, images), decimals) if images else NO_NUMBER


def _percent(value: float, decimals: int, signed: bool) -> str:
    text = f"{value * 100:{'+' if signed else ''}.{decimals}f}".replace("-", "−")
    return text[1:] if text[:1] in "−+" and not float(text[1:]) else text
