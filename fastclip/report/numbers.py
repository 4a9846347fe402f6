"""A table in no format: its rows, numbers and marks, and how a number is printed."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from fastclip.errors import UserError
from fastclip.results.cells import ZERO_SHOT, Column
from fastclip.results.statistics import Interval

BEST, SECOND, TIED = "best", "second", "tied"
NO_NUMBER = "—"
RANDOM = "RANDOM WEIGHTS, NOT A RESULT"
MARKS = ("best", "tied", "none")
AVERAGES = ("macro", "micro", "both")
MACRO, MICRO = "Avg.", "Micro avg."
"""Headers: the unweighted mean over the domains, and all right answers divided by all images."""


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

    @property
    def averages(self) -> tuple[str, ...]:
        """The headers of the averages that are shown."""
        return {"macro": (MACRO,), "micro": (MICRO,), "both": (MACRO, MICRO)}[self.average]


UNMARKED = TableStyle(mark="none")


@dataclass(frozen=True, kw_only=True)
class Number:
    """One accuracy of a table, a fraction of 1, or None where there is none."""

    value: Fraction | None
    text: str
    """The percentage at the table's decimals, half to even from the exact fraction; a dash for none.

    Of several seeds: their mean, a blank, `±` and their sample standard deviation.
    """
    mark: str = ""
    """`best`, `second`, `tied`, or nothing."""
    interval: Interval | None = None
    right: int | None = None
    """Of a cell; None for an average, and for several seeds."""
    images: int | None = None
    """That `right` is counted of, or that an average of a dataset beside others is about; None for other averages."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One column of answers (a backbone with a head) over the domains of a dataset: a row of its table."""

    column: Column
    """The head of several seeds is called without them."""
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

    def name(self, row: Row) -> str:
        """The name of one of its rows: its backbone, its prompt set, or its head."""
        if self.by_backbone:
            return row.column.backbone
        return row.column.prompts if self.heading == "prompts" else row.column.full_way

    @property
    def heading(self) -> str:
        """The header of the rows' names."""
        if self.by_backbone:
            return "backbone"
        return "prompts" if all(row.column.head == ZERO_SHOT for row in self.rows) else "head"


@dataclass(frozen=True, kw_only=True)
class Table:
    """The table of one dataset, or of several with a column each."""

    dataset: str
    """Empty for several."""
    subject: str
    """The dataset's title; of several datasets, their number."""
    headers: tuple[str, ...]
    """Domains, or the titles of datasets, and the averages where there are several."""
    sections: tuple[Section, ...]
    sample: str = ""
    """Which of the images it is about; empty for all."""

    @property
    def rows(self) -> list[Row]:
        """The rows of all sections."""
        return [row for section in self.sections for row in section.rows]

    @property
    def title(self) -> str:
        """The dataset, and all that the rows have in common: a backbone, a head, a prompt set."""
        names = [list(dict.fromkeys(each)) for each in zip(*(row.column for row in self.rows), strict=True)]
        backbone, head, prompts = (each[0] if len(each) == 1 else "" for each in names)
        common = [backbone, head, prompts and f"prompt set {prompts}", self.sample and f"on {self.sample}"]
        return ", ".join([f"Top-1 accuracy (%) on {self.subject}", *filter(None, common)])


def points(value: float | None, decimals: int = 2) -> str:
    """`+1.25`: a difference of accuracies in points of percent. Zero has no sign."""
    if value is None:
        return NO_NUMBER
    text = f"{value * 100:+.{decimals}f}".replace("-", "−")
    return text if float(text[1:]) else text[1:]


def points_interval(interval: Interval | None, decimals: int = 2) -> str:
    """`[−0.50, +3.00]`; empty for none."""
    return f"[{points(interval.low, decimals)}, {points(interval.high, decimals)}]" if interval else ""


def signed(count: int) -> str:
    """`+1,234`, `−1`: a difference of counts. Zero has no sign."""
    return f"{count:+,}".replace("-", "−") if count else "0"


def scaled(value: Fraction, decimals: int) -> int:
    """A fraction of 1 in percent, in units of the last printed digit: half to even, from the exact fraction."""
    return round(value * 100 * 10**decimals)


def percent(value: Fraction | None, decimals: int = 2) -> str:
    """A fraction of 1 in percent: half to even, from the exact fraction. A dash for None."""
    if value is None:
        return NO_NUMBER
    whole = scaled(value, decimals)
    sign, digits = ("-" if whole < 0 else ""), str(abs(whole)).rjust(decimals + 1, "0")
    return f"{sign}{digits[: len(digits) - decimals]}.{digits[len(digits) - decimals :]}" if decimals else sign + digits


def interval_ends(interval: Interval, decimals: int) -> tuple[str, str]:
    """Both ends in percent."""
    low, high = (percent(Fraction(max(0.0, min(1.0, end))), decimals) for end in (interval.low, interval.high))
    return low, high


def interval_text(interval: Interval | None, decimals: int) -> str:
    """`[82.10, 87.01]`; nothing for None."""
    return f"[{', '.join(interval_ends(interval, decimals))}]" if interval else ""
