"""The tables of a result in no format: a row a backbone and head, a column a domain. Every format prints the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from statistics import stdev

from fastclip.report.marks import marked, ties
from fastclip.report.numbers import (
    MACRO,
    NO_NUMBER,
    UNMARKED,
    Number,
    Row,
    Section,
    Table,
    TableStyle,
    percent,
)
from fastclip.report.transfers import by_transfer, is_adapted
from fastclip.results.cells import ZERO_SHOT, Cell, Column, Evaluation, mean
from fastclip.results.statistics import mean_interval, wilson


def accuracy_tables(evaluation: Evaluation, style: TableStyle = UNMARKED) -> list[Table]:
    """A table for each dataset and sample, in the order of the cells; domains in the order of the dataset's card.

    Of adapted heads, the columns are sources and targets.
    """
    adapted = is_adapted(evaluation)
    if adapted:
        evaluation = by_transfer(evaluation)
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in evaluation.cells:
        groups.setdefault((cell.dataset, cell.sample), []).append(cell)
    return [_table(evaluation, *key, cells, style, adapted) for key, cells in groups.items()]


def _table(
    evaluation: Evaluation, dataset: str, sample: str, cells: Sequence[Cell], style: TableStyle, adapted: bool
) -> Table:
    domains = _in_order(dataset, list(dict.fromkeys(cell.domain for cell in cells)))
    of_row: dict[Column, list[Cell]] = {}
    for cell in cells:
        of_row.setdefault(without_seed(cell.column), []).append(cell)
    random = {each.backbone for each in evaluation.recipes if each.dataset == dataset and each.recipe.random_weights}
    rows = [
        Row(
            column=column,
            numbers=tuple(_numbers(found, domains, evaluation.unreadable_policy, style)),
            comparable=column.backbone not in random,
        )
        for column, found in of_row.items()
    ]
    headers = (*domains, *(style.averages if len(domains) > 1 else ()))
    sections = _sections(rows)
    if style.mark != "none":
        # Columns of one target are about the same images, so no test takes their average for one of new images each.
        tied = ties(evaluation, dataset, of_row, of_averages=not adapted) if style.mark == "tied" else None
        sections = [replace(each, rows=marked(each.rows, domains, headers, style.decimals, tied)) for each in sections]
    return Table(dataset=dataset, sample=sample, headers=headers, sections=tuple(sections))


def without_seed(column: Column) -> Column:
    """The column of all seeds of a head."""
    return column._replace(head=re.sub(r", seed \d+", "", column.head))


def _in_order(dataset: str, domains: list[str]) -> list[str]:
    """The domains in the order of the dataset's card, if it has one that knows all of them."""
    from fastclip.data.catalogue import find_card

    card = find_card(dataset) if re.fullmatch(r"[A-Za-z0-9_-]+", dataset) else None
    known = [each.name for each in card.domains] if card else []
    return sorted(domains, key=known.index) if set(domains) <= set(known) else domains


def _sections(rows: Sequence[Row]) -> list[Section]:
    if len({row.column.backbone for row in rows}) == 1:
        return [Section(title="", rows=tuple(rows), by_backbone=False)]
    ways: dict[str, list[Row]] = {}
    for row in rows:
        prompts = row.column.head == ZERO_SHOT
        ways.setdefault(f"prompts: {row.column.prompts}" if prompts else row.column.head, []).append(row)
    titles = list(ways) if len(ways) > 1 else [""]
    return [Section(title=title, rows=tuple(found), by_backbone=True)
            for title, found in zip(titles, ways.values(), strict=True)]  # fmt: skip


def _numbers(cells: Sequence[Cell], domains: Sequence[str], policy: str, style: TableStyle) -> list[Number]:
    """The numbers of a row, of which several seeds have a cell each in every domain."""
    seeds: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        seeds.setdefault(cell.head, {})[cell.domain] = cell
    of_seeds = [[_number_of(each.get(domain), policy, style) for domain in domains] for each in seeds.values()]
    if len(domains) > 1:
        for numbers in of_seeds:
            numbers += [_average(name, numbers[: len(domains)], style) for name in style.averages]
    return [_of_seeds(each, style) for each in zip(*of_seeds, strict=True)]


def _number_of(cell: Cell | None, policy: str, style: TableStyle) -> Number:
    seen = cell.seen(policy) if cell else None
    if not cell or not seen:
        return Number(value=None, text=NO_NUMBER)
    value = Fraction(cell.top1, seen)
    return Number(
        value=value, text=percent(value, style.decimals), interval=wilson(cell.top1, seen), right=cell.top1, images=seen
    )


def _average(name: str, numbers: Sequence[Number], style: TableStyle) -> Number:
    counts = [(each.right, each.images) for each in numbers if each.right is not None and each.images]
    if len(counts) < len(numbers):
        return Number(value=None, text=NO_NUMBER)
    right, images = sum(right for right, _ in counts), sum(images for _, images in counts)
    value = mean([each.value for each in numbers]) if name == MACRO else Fraction(right, images)
    interval = mean_interval(counts) if name == MACRO else wilson(right, images)
    return Number(value=value, text=percent(value, style.decimals), interval=interval)


def _of_seeds(numbers: Sequence[Number], style: TableStyle) -> Number:
    values = [each.value for each in numbers if each.value is not None]
    if len(numbers) == 1 or len(values) < len(numbers):
        return numbers[0] if len(numbers) == 1 else Number(value=None, text=NO_NUMBER)
    middle, spread = mean(values), Fraction(stdev(map(float, values)))
    images = {each.images for each in numbers}
    return Number(
        value=middle,
        text=f"{percent(middle, style.decimals)} ±{percent(spread, style.decimals)}",
        images=images.pop() if len(images) == 1 else None,
    )
