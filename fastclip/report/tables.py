"""The tables of a result in no format: rows, columns, numbers and their marks. Every format prints the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from fastclip.errors import UserError
from fastclip.results.cells import Column
from fastclip.results.statistics import Interval

NO_NUMBER = "—"
MARKS = ("best", "tied", "none")
AVERAGES = ("macro", "micro", "both")
BEST, SECOND, TIED = "best", "second", "tied"


@dataclass(frozen=True, kw_only=True)
class TableStyle:
    """How tables are printed."""

    decimals: int = 2
    """Of percentages."""
    mark: str = "best"
    """`best`: the best number of a column and the second; `tied`: all that Holm's test cannot tell from the best."""
    average: str = "macro"
    intervals: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decimals <= 6:
            raise UserError(f"--decimals must be from 0 to 6, not {self.decimals}.", fix="--decimals 2")
        for name, known in (("mark", MARKS), ("average", AVERAGES)):
            if getattr(self, name) not in known:
                raise UserError(f"--{name} does not know {getattr(self, name)!r}.", fix=f"--{name} {' | '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class Number:
    """One accuracy of a table, a fraction of 1, or None where there is none."""

    value: Fraction | None
    text: str
    """The percentage at the table's decimals, half to even from the exact fraction; a dash for none."""
    mark: str = ""
    """`best`, `second`, `tied`, or nothing."""
    interval: Interval | None = None
    right: int | None = None
    images: int | None = None
    """The counts of a cell; None for an average."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One column of answers (a backbone with a head) over the domains of a dataset: a row of its table."""

    column: Column
    numbers: tuple[Number, ...]
    """One a header of the table."""
    comparable: bool
    """False for random weights, which nothing is compared with."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Rows whose best number is marked: the backbones of one prompt set or method, or all rows of one backbone."""

    title: str
    """Empty if the table has only one section."""
    rows: tuple[Row, ...]
    by_backbone: bool
    """Whether rows are called by their backbones; otherwise by their heads."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The table of one dataset."""

    dataset: str
    headers: tuple[str, ...]
    """Domains, and `Avg.` where there are several."""
    sections: tuple[Section, ...]


def percent(value: Fraction | None, decimals: int = 2) -> str:
    """A fraction of 1 in percent: half to even, from the exact fraction. A dash for None."""
    if value is None:
        return NO_NUMBER
    scaled = round(value * 100 * 10**decimals)  # of a Fraction: exact, half to even
    sign, digits = ("-" if scaled < 0 else ""), str(abs(scaled)).rjust(decimals + 1, "0")
    return f"{sign}{digits[: len(digits) - decimals]}.{digits[len(digits) - decimals :]}" if decimals else sign + digits
