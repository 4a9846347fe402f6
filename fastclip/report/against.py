"""A result against a published table: the verdict in one line, reasons and notes, and all of it on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.text import Text

from fastclip.errors import printable
from fastclip.report.terminal import grid_table
from fastclip.report.verdict_grids import plain_averages, verdict_grids
from fastclip.results.published.verdicts import DIFFERS, NEAR_TIES, NOT_COMPARABLE, SAME, Against, CellVerdict

MOST_PLACES = 3
"""Cells that are named one by one where they make no whole backbone, domain or dataset."""


def verdict_parts(found: Against) -> Iterator[str | Text | Group]:
    """All that there is to print on a terminal, in order; texts are for a console that breaks lines."""
    line, *notes = verdict_notes(found)
    yield ""
    yield Text(printable(line), style="bold")
    yield ""
    for grid in verdict_grids(found):
        yield grid_table(grid)
    yield from map(printable, notes)


def verdict_notes(found: Against) -> tuple[str, ...]:
    """The verdict in one line, the signs of the grids, plain averages, why cells are not comparable, and notes."""
    signs = "= same count, ≈ within near ties, + and − images more and fewer, ? not comparable."
    plain = plain_averages(found)
    return (
        verdict_line(found),
        *([signs] if verdict_grids(found) else []),
        *([f"Averages of {', '.join(plain)}: as printed, within 0.01."] if plain else []),
        *(f"Not comparable, {where}: {reason}." for where, reason in reasons(found.cells)),
        *found.notes,
    )


def verdict_line(found: Against) -> str:
    """`36 cells: 34 same, 1 within near ties, 1 differs (against SOURCE, 7d2e42f).`"""
    source = ", ".join(filter(None, (found.source, found.commit[:7])))
    if not found.cells:
        return f"No cell of this result is in {source}."
    several = {NEAR_TIES: "within near ties", DIFFERS: "differ"}
    counts = [
        f"{number:,} {DIFFERS if (name, number) == (DIFFERS, 1) else several.get(name, name)}"
        for name in (SAME, NEAR_TIES, DIFFERS, NOT_COMPARABLE)
        if (number := found.count(name))
    ]
    cells = "cell" if len(found.cells) == 1 else "cells"
    return f"{len(found.cells):,} {cells}: {', '.join(counts)} (against {source})."


def reasons(cells: Sequence[CellVerdict]) -> list[tuple[str, str]]:
    """Each reason for which cells are not comparable once, after the cells that it holds for, in few words."""
    groups: dict[str, list[CellVerdict]] = {}
    for cell in cells:
        for reason in cell.reasons:
            groups.setdefault(reason, []).append(cell)
    return [(_where(group, cells), reason) for reason, group in groups.items()]


def _where(some: Sequence[CellVerdict], cells: Sequence[CellVerdict]) -> str:
    """The cells of `some`, which are some of `cells`, in as few words as they allow."""
    if len(some) == len(cells):
        return "all cells"
    backbones = list(dict.fromkeys(each.column.backbone for each in some))
    if len(some) == sum(each.column.backbone in backbones for each in cells):
        return ", ".join(backbones)
    parts = []
    for dataset in dict.fromkeys(each.dataset for each in some):
        parts += _of_dataset([each for each in some if each.dataset == dataset], cells)
    more = f" and {len(parts) - MOST_PLACES} more" if len(parts) > MOST_PLACES + 1 else ""
    return ", ".join(parts[:MOST_PLACES] if more else parts) + more


def _of_dataset(some: Sequence[CellVerdict], cells: Sequence[CellVerdict]) -> list[str]:
    name = some[0].dataset
    whole = [each for each in cells if each.dataset == name]
    backbones = list(dict.fromkeys(each.column.backbone for each in some))
    domains = list(dict.fromkeys(each.domain for each in some))
    if len(some) == len(whole):
        return [name]
    if len(some) == sum(each.column.backbone in backbones for each in whole):
        return [f"{name} {backbone}" for backbone in backbones]
    if len(some) == sum(each.domain in domains for each in whole):
        return [f"{name}/{domain}" for domain in domains]
    return list(dict.fromkeys(_of_cell(each, some, whole) for each in some))


def _of_cell(cell: CellVerdict, some: Sequence[CellVerdict], whole: Sequence[CellVerdict]) -> str:
    """The cell's place, with its prompt set unless all prompt sets at that place are among `some`."""
    beside = [each for each in whole if (each.domain, each.column.backbone) == (cell.domain, cell.column.backbone)]
    way = "" if all(each in some for each in beside) else f", {cell.column.way}"
    return f"{cell.dataset}/{cell.domain} {cell.column.backbone}{way}"
