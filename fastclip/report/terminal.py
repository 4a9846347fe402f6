"""The tables of a result on a terminal, and the lines below them. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import rich.table
from rich.console import Group
from rich.text import Text

from fastclip.errors import printable
from fastclip.models.weights import describe_weights
from fastclip.report.head_notes import weights_lines
from fastclip.report.numbers import (
    BEST,
    MACRO,
    MICRO,
    RANDOM,
    SECOND,
    TIED,
    UNMARKED,
    Number,
    Row,
    Section,
    Table,
    TableStyle,
    interval_text,
)
from fastclip.report.style import plain_table, titled
from fastclip.report.tables import accuracy_tables
from fastclip.results.cells import Evaluation

if TYPE_CHECKING:
    from fastclip.report.verdict_grids import Grid

STYLES = {BEST: "bold", TIED: "bold", SECOND: "underline"}
HEADERS = {MACRO: "average", MICRO: "micro"}


def tables(evaluation: Evaluation, style: TableStyle = UNMARKED) -> Iterator[Group]:
    """One table a dataset under its title; with several prompt sets, a section for each.

    The heads of a single backbone are rows beside each other.
    """
    for table in accuracy_tables(evaluation, style):
        only_prompts = all(section.heading != "head" for section in table.sections)
        drawn = by_section(table) if only_prompts else by_backbone(table)
        yield titled(title_of(table, evaluation), drawn)


def title_of(table: Table, evaluation: Evaluation) -> str:
    """The title of a table, which says so where weights were drawn."""
    sample = f", on {table.sample}" if table.sample else ""
    return f"{table.dataset or table.subject}: accuracy, %{sample}{random_warning(evaluation)}"


def by_section(table: Table) -> rich.table.Table:
    """A row a backbone, below the name of its prompt set or head."""
    drawn = _empty(table, "backbone")
    for section in table.sections:
        title = None
        for row in section.rows:
            if title != (title := _title(section, row)):
                drawn.add_section()
                drawn.add_row(Text(printable(title), style="dim"))
            drawn.add_row(Text(printable(row.column.backbone)), *map(_number, row.numbers))
    return drawn


def by_backbone(table: Table) -> rich.table.Table:
    """A row a head, with a section for each backbone."""
    drawn = _empty(table, "backbone", "head")
    for backbone in dict.fromkeys(row.column.backbone for row in table.rows):
        drawn.add_section()
        for number, row in enumerate(each for each in table.rows if each.column.backbone == backbone):
            names = (backbone if not number else "", row.column.full_way)
            drawn.add_row(*(Text(printable(name)) for name in names), *map(_number, row.numbers))
    return drawn


def interval_tables(evaluation: Evaluation, style: TableStyle) -> Iterator[Group]:
    """One table a dataset: a row a number, with its confidence interval and its counts."""
    for table in accuracy_tables(evaluation, style):
        heading = table.sections[0].heading
        place = "domain" if table.dataset else "dataset"
        drawn = plain_table(heading, place, "accuracy", "interval", "right", "images", left=2)
        for section in table.sections:
            if section.title:
                drawn.add_section()
                drawn.add_row(Text(printable(section.title), style="dim"))
            for row in section.rows:
                for column, (header, number) in enumerate(zip(table.headers, row.numbers, strict=True)):
                    name = printable(section.name(row)) if not column else ""
                    counts = ["" if each is None else f"{each:,}" for each in (number.right, number.images)]
                    interval = interval_text(number.interval, style.decimals)
                    drawn.add_row(Text(name), HEADERS.get(header, header), _number(number), interval, *counts)
        yield titled(title_of(table, evaluation), drawn)


def grid_table(grid: Grid) -> Group:
    """A grid under its title."""
    drawn = plain_table(*grid.headers)
    for row in grid.rows:
        drawn.add_row(*row)
    return titled(grid.title, drawn)


def _title(section: Section, row: Row) -> str:
    return section.title or (f"prompts: {row.column.prompts}" if row.column.prompts else row.column.head)


def _empty(table: Table, *names: str) -> rich.table.Table:
    shown = [HEADERS.get(header, header) for header in table.headers]
    drawn = plain_table(*names, *shown, left=len(names))
    marked = any(number.mark for row in table.rows for number in row.numbers)
    if not marked and table.headers[-1] in HEADERS:
        drawn.columns[-1].style = "bold"
    return drawn


def _number(number: Number) -> Text:
    """A number in the style of its mark."""
    middle, blank, spread = number.text.partition(" ")
    return Text.assemble((middle, STYLES.get(number.mark, "")), blank + spread)


def random_warning(evaluation: Evaluation) -> str:
    """The end of a title where weights were drawn; empty otherwise."""
    return f" — {RANDOM}" if evaluation.random_backbones() else ""


def _made(evaluation: Evaluation) -> Iterator[str]:
    """How and where embeddings were made: a phrase for each way, with its backbones if there are several ways."""
    ways: dict[str, list[str]] = {}
    for used in evaluation.recipes:
        way = f"{used.recipe.how}, on {used.recipe.machine}"
        place = used.backbone if len(evaluation.datasets) == 1 else f"{used.dataset} {used.backbone}"
        ways.setdefault(way, []).append(place)
    for way in sorted(ways):
        yield way if len(ways) == 1 else f"{', '.join(ways[way])}: {way}"


def _weights(evaluation: Evaluation) -> Iterator[str]:
    """The weights behind each backbone: their digest, their file where the digest tells, and their activation.

    `training_notes` say how they were fine-tuned.
    """
    recipes = ((used.backbone, replace(used.recipe, training=None)) for used in evaluation.recipes)
    described = ((backbone, describe_weights(recipe)) for backbone, recipe in recipes)
    for backbone, weights in dict.fromkeys(described):
        yield f"{backbone}: {weights}"


def footnotes(evaluation: Evaluation, *, can_go_on: bool = True) -> list[str]:
    """The notes that a reader needs beside the numbers, a sentence a line.

    `can_go_on`: whether running the same command again would embed what is missing.
    """
    images = {(cell.dataset, cell.domain): cell.images for cell in evaluation.cells}
    lines = [f"{sum(images.values()):,} images; {'; '.join(_made(evaluation))}.", f"{'; '.join(_weights(evaluation))}."]
    lines += weights_lines(evaluation)
    for dataset in evaluation.datasets:
        if dataset.protocol != "full":
            lines.append(f"{dataset.name}: only the images of the protocol {dataset.protocol}.")
        elif dataset.variant:
            lines.append(f"{dataset.name} is {dataset.title}, {dataset.variant}.")
        elif dataset.has_variants:
            lines.append(
                f"{dataset.name} is no known variant of {dataset.title}: not comparable with published numbers."
            )
    if count := len(evaluation.unreadable):
        meaning = {
            "stop": "their cells have no number; choose --unreadable wrong or exclude",
            "wrong": "each counts as wrong",
            "exclude": "left out of the counts",
        }[evaluation.unreadable_policy]
        first = evaluation.unreadable[0]
        lines.append(f"{count:,} unreadable: {meaning}. The first: {first.path}: {first.reason}.")
    missing = {(cell.dataset, cell.domain, cell.backbone): cell for cell in evaluation.cells if cell.missing_shards}
    for cell in missing.values():
        domain = cell.domain if len(evaluation.datasets) == 1 else f"{cell.dataset}/{cell.domain}"
        lines.append(f"{domain}, {cell.backbone}: {cell.missing_shards} of {cell.shards} shards are missing.")
    if missing and can_go_on:
        lines.append("Incomplete: run the same command again to go on.")
    return [printable(line) for line in lines]
