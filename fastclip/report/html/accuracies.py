"""A stand-in for `fastclip.report.tables.accuracy_tables`, until both are in one tree: then this file goes."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from fastclip.report.tables import BEST, NO_NUMBER, SECOND, Number, Row, Section, Table, TableStyle, percent
from fastclip.results.cells import Cell, Column, Evaluation, mean
from fastclip.results.statistics import mean_interval, wilson


def accuracy_tables(evaluation: Evaluation, style: TableStyle) -> tuple[Table, ...]:
    """A table a dataset, with a section a prompt set."""
    found = []
    for dataset in dict.fromkeys(cell.dataset for cell in evaluation.cells):
        cells = {(c.column, c.domain): c for c in evaluation.cells if c.dataset == dataset}
        domains = list(dict.fromkeys(domain for _, domain in cells))
        columns = list(dict.fromkeys(column for column, _ in cells))
        ways = list(dict.fromkeys(each.way for each in columns))
        single = len({each.backbone for each in columns}) == 1 and len(ways) > 1
        groups = [("", columns)] if single else [(way, [c for c in columns if c.way == way]) for way in ways]
        headers = (*domains, "Avg.") if len(domains) > 1 else tuple(domains)
        sections = []
        for title, group in groups:
            rows = [
                _row(evaluation, dataset, column, [cells.get((column, d)) for d in domains], style) for column in group
            ]
            title = title if len(groups) > 1 else ""
            sections.append(Section(title=title, rows=tuple(_marked(rows, style)), by_backbone=not single))
        found.append(Table(dataset=dataset, headers=headers, sections=tuple(sections)))
    return tuple(found)


def _row(evaluation: Evaluation, dataset: str, column: Column, cells: Sequence[Cell | None], style: TableStyle) -> Row:
    policy = evaluation.unreadable_policy
    numbers = [_number(cell, policy, style) for cell in cells]
    if len(cells) > 1:
        average = mean([each.value for each in numbers])
        counts = [(each.right, each.images) for each in numbers if each.right is not None and each.images is not None]
        interval = mean_interval(counts) if average is not None else None
        numbers.append(Number(value=average, text=percent(average, style.decimals), interval=interval))
    random = any(
        used.recipe.random_weights
        for used in evaluation.recipes
        if (used.dataset, used.backbone) == (dataset, column.backbone)
    )
    return Row(column=column, numbers=tuple(numbers), comparable=not random)


def _number(cell: Cell | None, policy: str, style: TableStyle) -> Number:
    seen = cell.seen(policy) if cell else None
    if cell is None or not seen:
        return Number(value=None, text=NO_NUMBER)
    value = Fraction(cell.top1, seen)
    return Number(
        value=value, text=percent(value, style.decimals), interval=wilson(cell.top1, seen), right=cell.top1, images=seen
    )


def _marked(rows: Sequence[Row], style: TableStyle) -> list[Row]:
    marked = [list(row.numbers) for row in rows]
    for place in range(len(rows[0].numbers) if style.mark != "none" else 0):
        texts = {
            float(row.numbers[place].text) for row in rows if row.comparable and row.numbers[place].value is not None
        }
        for mark, value in zip((BEST, SECOND), sorted(texts, reverse=True), strict=False):
            for number, row in enumerate(rows):
                old = row.numbers[place]
                if row.comparable and old.value is not None and float(old.text) == value:
                    marked[number][place] = Number(**{**vars(old), "mark": mark})
    return [Row(column=row.column, numbers=tuple(new), comparable=row.comparable)
            for row, new in zip(rows, marked, strict=True)]  # fmt: skip
