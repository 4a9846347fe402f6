"""Averages over the domains of a dataset: of accuracies, of images, and the worst."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from fastclip.results.cells import Cell, Column, Evaluation, mean
from fastclip.results.statistics import Interval, mean_interval


@dataclass(frozen=True, kw_only=True)
class Average:
    """One column over the domains of one dataset that it was scored on. None where a domain has no number."""

    dataset: str
    column: Column
    domains: tuple[str, ...]
    macro: Fraction | None
    """The unweighted mean of the domains' accuracies, as published tables have it."""
    micro: Fraction | None
    """All right answers divided by all images."""
    worst: Fraction | None
    interval: Interval | None
    """Of the macro average."""


def averages(evaluation: Evaluation) -> list[Average]:
    """The averages of every dataset and column, in the order of the cells."""
    groups: dict[tuple[str, Column], list[Cell]] = {}
    for cell in evaluation.cells:
        groups.setdefault((cell.dataset, cell.column), []).append(cell)
    return [_average(*key, cells, evaluation.unreadable_policy) for key, cells in groups.items()]


def _average(dataset: str, column: Column, cells: list[Cell], policy: str) -> Average:
    accuracies = [cell.accuracy(policy) for cell in cells]
    numbers = [each for each in accuracies if each is not None]
    counts = [(cell.top1, seen) for cell in cells if (seen := cell.seen(policy))]
    complete = len(numbers) == len(cells)
    return Average(
        dataset=dataset,
        column=column,
        domains=tuple(cell.domain for cell in cells),
        macro=mean(accuracies),
        micro=Fraction(sum(right for right, _ in counts), sum(seen for _, seen in counts)) if complete else None,
        worst=min(numbers) if complete else None,
        interval=mean_interval(counts) if complete else None,
    )
