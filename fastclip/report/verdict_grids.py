"""A result against a table as grids of texts, for every format: differences in images, and averages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from fastclip.report.numbers import percent
from fastclip.results.cells import Column
from fastclip.results.published.verdicts import NEAR_TIES, NOT_COMPARABLE, SAME, Against, AverageVerdict, CellVerdict

ROUNDING = Fraction(1, 10_000)
"""A printed average is that far from the mean of printed cells if nothing but rounding is between them."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Texts in rows. They are not escaped."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def verdict_grids(found: Against) -> tuple[Grid, ...]:
    """For each dataset, images that each cell has more or fewer right, and averages that say more than the cells do."""
    grids: list[Grid] = []
    for dataset in dict.fromkeys(each.dataset for each in found.cells):
        cells = [each for each in found.cells if each.dataset == dataset]
        if any(each.verdict != NOT_COMPARABLE for each in cells):
            grids.append(_differences(dataset, cells, found.called))
        if averages := _telling(found, dataset):
            grids.append(_averages(dataset, averages, found.called))
    return tuple(grids)


def plain_averages(found: Against) -> list[str]:
    """The datasets whose averages are as printed, because all of their cells are the same."""
    known = [each for each in found.averages if each.yours is not None]
    names = dict.fromkeys(each.dataset for each in known)
    odd = {each.dataset for each in known if each.printed is None}
    return [name for name in names if name not in odd and not _telling(found, name)]


def difference(cell: CellVerdict) -> str:
    """`=`, `≈ +2`, `−3`, or `?`."""
    if cell.difference is None:
        return "?"
    sign = "+" if cell.difference > 0 else "−"
    number = f"{sign}{abs(cell.difference):,}"
    return {SAME: "=", NEAR_TIES: f"≈ {number}"}.get(cell.verdict, number)


def _differences(dataset: str, cells: Sequence[CellVerdict], called: str) -> Grid:
    columns = list(dict.fromkeys(each.column for each in cells))
    domains = tuple(dict.fromkeys(each.domain for each in cells))
    common, names = _names(columns)
    rows = []
    for column, name in zip(columns, names, strict=True):
        row = {each.domain: difference(each) for each in cells if each.column == column}
        rows.append((name, *(row.get(domain, "") for domain in domains)))
    title = f"{dataset}{common}: right answers against {called}"
    return Grid(title=title, headers=("backbone", *domains), rows=tuple(rows))


def _telling(found: Against, dataset: str) -> list[AverageVerdict]:
    """The averages of a dataset that say more than its cells: where one differs, or all if a printed one is odd."""
    rows = [each for each in found.averages if each.dataset == dataset and each.yours is not None]
    changed = {each.column for each in found.cells if each.dataset == dataset and each.verdict != SAME}
    return rows if any(map(_is_odd, rows)) else [each for each in rows if each.column in changed]


def _is_odd(average: AverageVerdict) -> bool:
    """Whether the printed average is not that of the printed cells."""
    if average.printed is None or average.of_cells is None:
        return False
    return abs(average.printed - average.of_cells) > ROUNDING


def _averages(dataset: str, averages: Sequence[AverageVerdict], called: str) -> Grid:
    """With the corrected average beside the printed one where that is odd: the mean of the printed cells."""
    common, names = _names([each.column for each in averages])
    odd = any(map(_is_odd, averages))
    headers = ("other", "this") if called == "the other result" else ("table", "yours")
    rows = []
    for name, each in zip(names, averages, strict=True):
        printed = each.of_cells if each.printed is None else each.printed
        numbers = (printed, each.yours_as_printed, each.of_cells, each.yours) if odd else (printed, each.yours)
        rows.append((name, *map(percent, numbers)))
    return Grid(
        title=f"{dataset}{common}, average: accuracy, %",
        headers=("backbone", *(("as printed", "yours", "corrected", "yours") if odd else headers)),
        rows=tuple(rows),
    )


def _names(columns: Sequence[Column]) -> tuple[str, Iterator[str]]:
    """The prompt set that all columns share, for a title, and the rest of each column's name."""
    ways = {each.way for each in columns}
    if len(ways) == 1:
        return f", {ways.pop()}", (each.backbone for each in columns)
    return "", (f"{each.backbone}, {each.way}" for each in columns)
