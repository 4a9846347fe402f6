"""A published table: its numbers, and what they are numbers of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from fastclip.results.cells import Evaluation
from fastclip.results.published.printed import Printed, candidates


@dataclass(frozen=True, kw_only=True)
class PublishedCell:
    """One number of a table."""

    dataset: str
    domain: str
    backbone: str
    prompts: str = ""
    """The name of its prompt set; empty where the table names none."""
    printed: Printed
    right: int | None = None
    """Right answers, where they are known and not only the accuracy."""
    images: int | None = None
    """Images of the domain, where the table says it."""

    def candidates(self, images: int) -> tuple[int, int] | None:
        """The least and the greatest number of right answers of `images` that it can stand for."""
        return candidates(self.printed, images) if self.right is None else (self.right, self.right)


@dataclass(frozen=True, kw_only=True)
class PublishedDataset:
    """The images and prompts of the published numbers of one dataset."""

    title: str
    variant: str | None
    """The variant of the dataset's card; None where nobody knows, so that any known one may be it."""
    images: Mapping[str, int]
    """Of each domain; empty if the variant is not known."""
    fingerprints: Mapping[str, str]
    """Domain → fingerprint, where the card knows it."""
    prompts: Mapping[str, tuple[str, ...]]
    """Class folder → its prompts, in label order."""
    template: str
    """As a reader is told."""


@dataclass(frozen=True)
class PublishedAverage:
    """The average that a table prints in one row."""

    value: Fraction
    domains: tuple[str, ...]
    """Those that it is the mean of: not all of them in every table."""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """Numbers that a result is compared with."""

    source: str
    commit: str = ""
    cells: tuple[PublishedCell, ...]
    averages: Mapping[tuple[str, str], PublishedAverage] = field(default_factory=dict)
    """By dataset and backbone."""
    datasets: Mapping[str, PublishedDataset] = field(default_factory=dict)
    """The images and prompts of the numbers, where they are known; else only a table's own columns are checked."""
    result: Evaluation | None = None
    """The result that the numbers are of, if they are of one."""
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Dataset → sentences that a reader has to know."""

    @property
    def called(self) -> str:
        """`the published table` for the one that comes with fastclip; else `the other result` or `the table`."""
        return "the published table" if self.datasets else "the other result" if self.result else "the table"
