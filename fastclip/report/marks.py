"""Which numbers of a table are marked: the best and the second, or all that a test cannot tell from the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from fastclip.report.numbers import BEST, MICRO, SECOND, TIED, Row, scaled
from fastclip.results.cells import Cell, Column, Evaluation
from fastclip.results.pairs import find_pair

Ties = Callable[[Sequence[Column], str], frozenset[Column]]
"""Of some columns those that cannot be told from the best: in a domain, or, if it is empty, on average."""


def best_and_second(values: Sequence[Fraction | None], decimals: int) -> list[str]:
    """A mark for each value. Values that are printed alike are marked alike; one value alone is not marked."""
    printed = [None if value is None else scaled(value, decimals) for value in values]
    numbers = [each for each in printed if each is not None]
    if len(numbers) < 2:
        return [""] * len(values)
    order = sorted(set(numbers), reverse=True)
    marks = dict(zip(order, (BEST, SECOND), strict=False))
    return ["" if each is None else marks.get(each, "") for each in printed]


def marked(
    rows: Sequence[Row], domains: Sequence[str], headers: Sequence[str], decimals: int, tied: Ties | None
) -> tuple[Row, ...]:
    """The rows of a section with their marks; those of `tied` if it is given, which has none for micro averages."""
    columns = []
    for place, header in enumerate(headers):
        if tied and header == MICRO:
            columns.append([""] * len(rows))
        else:
            domain = header if place < len(domains) else ""
            columns.append(_column_marks(rows, place, domain, len(domains), decimals, tied))
    return tuple(
        replace(row, numbers=tuple(replace(n, mark=mark) for n, mark in zip(row.numbers, marks, strict=True)))
        for row, marks in zip(rows, zip(*columns, strict=True), strict=True)
    )


def _column_marks(
    rows: Sequence[Row], place: int, domain: str, domains: int, decimals: int, tied: Ties | None
) -> list[str]:
    values = [row.numbers[place].value if row.comparable else None for row in rows]
    behind = slice(place, place + 1) if domain else slice(0, domains)
    images = {tuple(number.images for number in row.numbers[behind])
              for row, value in zip(rows, values, strict=True) if value is not None}  # fmt: skip
    if len(images) > 1:  # some images could be read for one row only
        return [""] * len(rows)
    if tied is None:
        return best_and_second(values, decimals)
    columns = [row.column for row, value in zip(rows, values, strict=True) if value is not None]
    best = tied(columns, domain)
    return [TIED if row.column in best else "" for row in rows]


def ties(
    evaluation: Evaluation, dataset: str, cells: Mapping[Column, Sequence[Cell]], *, of_averages: bool = True
) -> Ties:
    """The test of the columns of one dataset. `cells` are those of each row; several seeds have no one answer.

    It finds none where the result does not say which images two of the columns have both right.
    """
    from fastclip.results.comparing.columns import tied_with_best

    own = {row: found[0].column for row, found in cells.items() if len({cell.head for cell in found}) == 1}

    def tied(rows: Sequence[Column], domain: str) -> frozenset[Column]:
        asked = {own[row]: row for row in rows if row in own}
        domains = [domain] if domain else list(dict.fromkeys(cell.domain for row in rows for cell in cells[row]))
        first = next(iter(asked), None)
        pairs = [find_pair(evaluation, dataset, each, first, column) for column in asked for each in domains if first]
        if len(asked) < 2 or not all(pairs) or not (domain or of_averages):
            return frozenset()
        return frozenset(asked[each] for each in tied_with_best(evaluation, dataset, list(asked), domain or None))

    return tied
