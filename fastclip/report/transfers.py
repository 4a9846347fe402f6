"""Adaptation as papers print it: a column for each source and target, and a row a method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fastclip.results.cells import ZERO_SHOT, Cell, Column, Evaluation, Patterns, UsedHead


def method_of(head: UsedHead) -> str:
    """The name of a head without its source."""
    return head.name.partition(" from ")[0]


def source_of(head: UsedHead) -> str:
    """The source in the name of a head; empty if it has none."""
    return head.name.partition(" from ")[2]


def is_adapted(evaluation: Evaluation) -> bool:
    """Whether the heads of a result were adapted from sources to targets."""
    return all(map(source_of, evaluation.heads)) and any(each.transductive for each in evaluation.heads)


def by_transfer(evaluation: Evaluation) -> Evaluation:
    """The cells and patterns with `source → target` for domains and methods for heads. Zero-shot is at every target."""
    transfers = list(
        dict.fromkeys((each.dataset, source_of(each), target) for each in evaluation.heads for target in each.domains)
    )
    return replace(
        evaluation,
        cells=tuple(cell for each in transfers for cell in _cells(evaluation, *each)),
        patterns=tuple(found for each in transfers for found in _patterns(evaluation, *each)),
        near_ties=(),
    )


def _cells(evaluation: Evaluation, dataset: str, source: str, target: str) -> Iterator[Cell]:
    for cell in evaluation.cells:
        if (cell.dataset, cell.domain) == (dataset, target) and (column := _renamed(cell.column, source)):
            yield replace(cell, domain=f"{source} → {target}", head=column.head)


def _patterns(evaluation: Evaluation, dataset: str, source: str, target: str) -> Iterator[Patterns]:
    for each in evaluation.patterns:
        names = {column: name for column in each.columns if (name := _renamed(column, source))}
        if (each.dataset, each.domain) == (dataset, target) and names:
            counts = each.project(list(names))
            domain = f"{source} → {target}"
            yield Patterns(dataset=dataset, domain=domain, columns=tuple(names.values()), counts=counts)


def _renamed(column: Column, source: str) -> Column | None:
    """The column of a method's head from `source`, without the source; zero-shot's as it is; None for others."""
    method, found, of = column.head.partition(" from ")
    if column.head == ZERO_SHOT:
        return column
    return column._replace(head=method) if found and of == source else None
