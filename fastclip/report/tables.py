"""The tables of a result in no format: a row a backbone and head, a column a domain. Every format prints the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
from fastclip.results.statistics import mean_interval, mean_of_intervals, wilson


def accuracy_tables(evaluation: Evaluation, style: TableStyle = UNMARKED) -> list[Table]:
    """A table for each dataset and sample, in the order of the cells; domains in the order of the dataset's card.

    Of adapted heads, the columns are sources and targets. Before the tables of several datasets stands one with all.
    """
    adapted = is_adapted(evaluation)
    if adapted:
        evaluation = by_transfer(evaluation)
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in evaluation.cells:
        groups.setdefault((cell.dataset, cell.sample), []).append(cell)
    tables = [_table(evaluation, *key, cells, style, adapted) for key, cells in groups.items()]
    return tables if adapted else [*_across(evaluation, groups, style), *tables]


def _table(
    evaluation: Evaluation, dataset: str, sample: str, cells: Sequence[Cell], style: TableStyle, adapted: bool
) -> Table:
    domains = _in_order(dataset, list(dict.fromkeys(cell.domain for cell in cells)))
    of_row, random = _by_row(cells), evaluation.random_backbones(dataset)
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
    subject = _title(evaluation, dataset)
    return Table(dataset=dataset, subject=subject, sample=sample, headers=headers, sections=tuple(sections))


def _by_row(cells: Sequence[Cell]) -> dict[Column, list[Cell]]:
    of_row: dict[Column, list[Cell]] = {}
    for cell in cells:
        of_row.setdefault(without_seed(cell.column), []).append(cell)
    return of_row


def without_seed(column: Column) -> Column:
    """The column of all seeds of a head."""
    return column._replace(head=re.sub(r"(, \d+ shots?), seed \d+", r"\1", column.head))


def _title(evaluation: Evaluation, dataset: str) -> str:
    """The title of a dataset; its name if it shares the title with another one."""
    titles = {each.name: each.title for each in evaluation.datasets}
    title = titles.get(dataset, dataset)
    return title if list(titles.values()).count(title) == 1 else dataset


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


def _across(
    evaluation: Evaluation, groups: Mapping[tuple[str, str], Sequence[Cell]], style: TableStyle
) -> Iterator[Table]:
    """A table for each sample of several datasets: the columns that were scored on more than one of them."""
    for sample in dict.fromkeys(sample for _, sample in groups):
        cells = {dataset: _by_row(found) for (dataset, of), found in groups.items() if of == sample}
        columns = dict.fromkeys(column for each in cells.values() for column in each)
        shared = [column for column in columns if sum(column in each for each in cells.values()) > 1]
        if shared:
            yield _joined(evaluation, sample, cells, shared, style)


def _joined(
    evaluation: Evaluation,
    sample: str,
    cells: Mapping[str, Mapping[Column, Sequence[Cell]]],
    columns: Sequence[Column],
    style: TableStyle,
) -> Table:
    names = {_title(evaluation, name): name for name in cells}
    random = {backbone for name in cells for backbone in evaluation.random_backbones(name)}
    rows = []
    for column in columns:
        numbers = [_whole(each, column, evaluation.unreadable_policy, style) for each in cells.values()]
        value = mean([each.value for each in numbers])
        known = [(float(each.value), each.interval) for each in numbers if each.value is not None and each.interval]
        interval = mean_of_intervals(known) if len(known) == len(numbers) else None
        average = Number(value=value, text=percent(value, style.decimals), interval=interval)
        rows.append(Row(column=column, numbers=(*numbers, average), comparable=column.backbone not in random))
    headers, sections = (*names, MACRO), _sections(rows)
    if style.mark != "none":
        of = {name: ties(evaluation, name, each) for name, each in cells.items()} if style.mark == "tied" else {}

        def tied(asked: Sequence[Column], header: str) -> frozenset[Column]:
            return of[names[header]](asked, "") if header else frozenset()  # no test is about several datasets

        marks = tied if of else None
        sections = [replace(e, rows=marked(e.rows, list(names), headers, style.decimals, marks)) for e in sections]
    subject = f"{len(cells)} datasets"
    return Table(dataset="", subject=subject, sample=sample, headers=headers, sections=tuple(sections))


def _whole(of_row: Mapping[Column, Sequence[Cell]], column: Column, policy: str, style: TableStyle) -> Number:
    """The macro average of a row over a dataset's domains, or its one accuracy; none if it lacks one of them."""
    domains = list(dict.fromkeys(cell.domain for cells in of_row.values() for cell in cells))
    numbers = _numbers(of_row.get(column, []), domains, policy, replace(style, average="macro"))
    if not numbers:
        return Number(value=None, text=NO_NUMBER)
    return replace(numbers[-1], right=None, images=sum(each.images or 0 for each in numbers[: len(domains)]))


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
