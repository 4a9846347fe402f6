"""A result against a published table on a terminal: the verdict in one line, tables of differences, reasons, notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fastclip.errors import printable
from fastclip.report.numbers import percent
from fastclip.report.style import plain_table
from fastclip.results.published.verdicts import (
    DIFFERS,
    NEAR_TIES,
    NOT_COMPARABLE,
    SAME,
    Against,
    AverageVerdict,
    CellVerdict,
)

MOST_PLACES = 3
"""Cells that are named one by one where they make no whole backbone, domain or dataset."""

ROUNDING = Fraction(1, 10_000)
"""A printed average is that far from the mean of printed cells if nothing but rounding is between them."""


def verdict_parts(found: Against) -> Iterator[str | Group]:
    """All that there is to print, in order; texts are for a console that breaks lines."""
    yield printable(verdict_line(found))
    for dataset in dict.fromkeys(each.dataset for each in found.cells):
        cells = [each for each in found.cells if each.dataset == dataset]
        if any(each.verdict != NOT_COMPARABLE for each in cells):
            yield Group(Text(printable(f"{dataset}: right answers, more or fewer than in the table"), style="bold"),
                        _differences(cells))  # fmt: skip
    if found.count(NOT_COMPARABLE) < len(found.cells):
        yield "= same count, ≈ within near ties, + and − images more and fewer, ? not comparable."
    yield from _averages(found)
    for where, reason in reasons(found.cells):
        yield printable(f"Not comparable, {where}: {reason}.")
    yield from map(printable, found.notes)


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


def difference(cell: CellVerdict) -> str:
    """`=`, `≈ +2`, `−3`, or `?`."""
    if cell.difference is None:
        return "?"
    sign = "+" if cell.difference > 0 else "−"
    number = f"{sign}{abs(cell.difference):,}"
    return {SAME: "=", NEAR_TIES: f"≈ {number}"}.get(cell.verdict, number)


def _differences(cells: Sequence[CellVerdict]) -> Table:
    domains = list(dict.fromkeys(each.domain for each in cells))
    table = plain_table("backbone", *domains)
    ways = list(dict.fromkeys(each.column.way for each in cells))
    for way in ways:
        if len(ways) > 1:
            table.add_section()
            table.add_row(f"prompts: {way}", style="dim")
        for column in dict.fromkeys(each.column for each in cells if each.column.way == way):
            row = {each.domain: difference(each) for each in cells if each.column == column}
            table.add_row(column.backbone, *(row.get(domain, "") for domain in domains))
    return table


def _averages(found: Against) -> Iterator[str | Group]:
    """Tables of the averages that say more than their cells do: where a cell differs, or the printed one is odd."""
    same = {(each.dataset, each.column) for each in found.averages} - {
        (each.dataset, each.column) for each in found.cells if each.verdict != SAME
    }
    plain: list[str] = []
    for dataset in dict.fromkeys(each.dataset for each in found.averages):
        rows = [each for each in found.averages if each.dataset == dataset and each.yours is not None]
        odd = any(map(_is_odd, rows))
        shown = [each for each in rows if odd or (dataset, each.column) not in same]
        if shown:
            yield Group(Text(printable(f"{dataset}: averages, %"), style="bold"), _average_table(shown, odd))
        elif rows and all(each.printed is not None for each in rows):
            plain.append(dataset)
    if plain:
        yield printable(f"Averages of {', '.join(plain)}: as printed, within 0.01.")


def _is_odd(average: AverageVerdict) -> bool:
    """Whether the printed average is not that of the printed cells."""
    if average.printed is None or average.of_cells is None:
        return False
    return abs(average.printed - average.of_cells) > ROUNDING


def _average_table(averages: Sequence[AverageVerdict], odd: bool) -> Table:
    """With the corrected average beside the printed one where that is odd: the mean of the printed cells."""
    table = plain_table("backbone", *(("as printed", "yours", "corrected", "yours") if odd else ("table", "yours")))
    several = len({each.column.way for each in averages}) > 1
    for each in averages:
        name = each.column.full_name if several else each.column.backbone
        printed = each.of_cells if each.printed is None else each.printed
        numbers = (printed, each.yours_as_printed, each.of_cells, each.yours) if odd else (printed, each.yours)
        table.add_row(name, *map(percent, numbers))
    return table


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
    return [f"{name}/{each.domain} {each.column.backbone}" for each in some]
