"""Printed accuracies, and the numbers of right answers behind them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

PRINT = re.compile(r"(?=\.?[0-9])[0-9]{0,3}(\.(?P<after>[0-9]{0,20}))?(e-(?P<exponent>[0-9]{1,2}))?")
"""The exponent is one that a program writes for less than 0.0001."""

MOST_DECIMALS = 6
"""Digits that are believed. Those beyond are of a binary float: single precision errs by up to 6e-8."""


@dataclass(frozen=True)
class Printed:
    """An accuracy as it is printed: a fraction of 1, exactly, and how many decimals the print has of it."""

    value: Fraction
    decimals: int

    @property
    def half_unit(self) -> Fraction:
        """Half of the last printed digit: rounding moves a number by no more."""
        return Fraction(1, 2 * 10**self.decimals)


def parse_printed(text: str, *, percent: bool) -> Printed:
    """The accuracy in `0.7268`, or in `72.68` percent. Raises `ValueError` for anything else."""
    digits = text.strip().removesuffix("%").rstrip()
    if not (found := PRINT.fullmatch(digits)):
        raise ValueError(f"{text.strip()!r} is no number such as {'72.68' if percent else '0.7268'}")
    decimals = min(len(found["after"] or "") + int(found["exponent"] or 0) + 2 * percent, MOST_DECIMALS)
    value = Fraction("0" + digits.replace(".e", "e").rstrip(".")) / (100 if percent else 1)
    if value > 1:
        raise ValueError(f"{text.strip()!r} is more than {'100%' if percent else '1'}")
    return Printed(value, decimals)


def candidates(printed: Printed, images: int) -> tuple[int, int] | None:
    """The least and the greatest number of right answers of `images` that is printed so; None if no number is.

    Ends are included: programs round halves up, down and to even.
    """
    return _counts(printed.value - printed.half_unit, printed.value + printed.half_unit, images)


def candidates_if_cut(printed: Printed, images: int) -> tuple[int, int] | None:
    """The same for a number whose further digits were cut off, not rounded."""
    return _counts(printed.value, printed.value + 2 * printed.half_unit, images)


def _counts(low: Fraction, high: Fraction, images: int) -> tuple[int, int] | None:
    least, greatest = max(0, math.ceil(low * images)), min(images, math.floor(high * images))
    return (least, greatest) if least <= greatest else None
