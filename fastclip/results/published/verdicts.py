"""Verdicts on a result beside a published table, in images: both saw the same images, so only equal counts are same."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from fastclip.results.cells import Column

SAME, NEAR_TIES, DIFFERS, NOT_COMPARABLE = "same", "near ties", "differs", "not comparable"


@dataclass(frozen=True, kw_only=True)
class CellVerdict:
    """One cell of a result beside the published one."""

    dataset: str
    domain: str
    column: Column
    published: Fraction
    """As it is printed, a fraction of 1."""
    decimals: int
    """Of the printed fraction."""
    candidates: tuple[int, int] | None
    """The least and the greatest number of right answers that are printed so; None where no number is."""
    images: int
    """Of the domain, in the result."""
    yours: int | None
    """Right answers in the result; None where there is no number."""
    verdict: str
    """`same`, `near ties`, `differs` or `not comparable`."""
    difference: int | None
    """Right answers that are more than the greatest candidate, or (negative) less than the least; None if unknown."""
    could_gain: int = 0
    could_lose: int = 0
    epsilon: float | None = None
    """Near ties have a margin below it."""
    reasons: tuple[str, ...] = ()
    """Why the two cannot be compared, a phrase each."""

    @property
    def words(self) -> str:
        """The verdict as tables print it: `same`, `differs by -3`."""
        return f"differs by {self.difference:+,}" if self.verdict == DIFFERS else self.verdict


@dataclass(frozen=True, kw_only=True)
class AverageVerdict:
    """One average beside the published one."""

    dataset: str
    column: Column
    printed: Fraction | None
    """The average that the table prints."""
    of_cells: Fraction | None
    """The mean of the cells that the table prints: another number where it leaves a domain out."""
    yours: Fraction | None
    """Over the same cells; None unless all of them are comparable."""
    yours_as_printed: Fraction | None = None
    """Over the domains that the printed average is of."""


@dataclass(frozen=True, kw_only=True)
class Against:
    """A result against a published table."""

    source: str
    """Where the table stands."""
    commit: str
    cells: tuple[CellVerdict, ...]
    averages: tuple[AverageVerdict, ...]
    notes: tuple[str, ...] = ()
    """Sentences that a reader of the table has to know."""
    called: str = "the published table"
    """By readers."""

    def count(self, verdict: str) -> int:
        """How many cells have a verdict."""
        return sum(each.verdict == verdict for each in self.cells)
