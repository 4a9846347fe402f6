"""The table of accuracies at top 1 in percent: a row a backbone, a column a domain. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from rich.console import Group
from rich.text import Text

from fastclip.errors import printable
from fastclip.models.weights import describe_weights
from fastclip.report.style import plain_table
from fastclip.results.cells import Cell, Evaluation, mean

NO_NUMBER = "—"


def tables(evaluation: Evaluation) -> Iterator[Group]:
    """One table a dataset under its title; with several prompt sets, a section for each."""
    for dataset in _unique(cell.dataset for cell in evaluation.cells):
        cells = [cell for cell in evaluation.cells if cell.dataset == dataset]
        yield _table(dataset, cells, evaluation)


def _table(dataset: str, cells: list[Cell], evaluation: Evaluation) -> Group:
    domains = _unique(cell.domain for cell in cells)
    title = f"{dataset}: accuracy, %{random_warning(evaluation)}"
    table = plain_table("backbone", *domains, *(["average"] if len(domains) > 1 else []))
    if len(domains) > 1:
        table.columns[-1].style = "bold"
    for prompts in _unique(cell.prompts for cell in cells):
        table.add_section()
        table.add_row(Text(printable(f"prompts: {prompts}"), style="dim"))
        for backbone in _unique(cell.backbone for cell in cells):
            row = {c.domain: c for c in cells if (c.prompts, c.backbone) == (prompts, backbone)}
            numbers = _numbers([row[domain] for domain in domains], evaluation.unreadable_policy)
            table.add_row(Text(printable(backbone)), *numbers)
    return Group(Text(printable(title), style="bold"), table)


def random_warning(evaluation: Evaluation) -> str:
    """The end of a title where weights were drawn; empty otherwise."""
    random = any(used.recipe.random_weights for used in evaluation.recipes)
    return " — RANDOM WEIGHTS, NOT A RESULT" if random else ""


def _numbers(cells: list[Cell], policy: str) -> list[str]:
    accuracies = [cell.accuracy(policy) for cell in cells]
    shown = [percent(accuracy) for accuracy in accuracies]
    return shown if len(cells) == 1 else [*shown, percent(mean(accuracies))]


def percent(accuracy: Fraction | None) -> str:
    """An accuracy in percent with two decimals; a dash for none."""
    return NO_NUMBER if accuracy is None else f"{float(accuracy * 100):.2f}"


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
    """The weights behind each backbone: their digest, their file where the digest tells, and their activation."""
    described = ((used.backbone, describe_weights(used.recipe)) for used in evaluation.recipes)
    for backbone, weights in dict.fromkeys(described):
        yield f"{backbone}: {weights}"


def footnotes(evaluation: Evaluation, *, can_go_on: bool = True) -> list[str]:
    """The notes that a reader needs beside the numbers, a sentence a line.

    `can_go_on`: whether running the same command again would embed what is missing.
    """
    images = {(cell.dataset, cell.domain): cell.images for cell in evaluation.cells}
    lines = [f"{sum(images.values()):,} images; {'; '.join(_made(evaluation))}.", f"{'; '.join(_weights(evaluation))}."]
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


def _unique(values: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(values))
