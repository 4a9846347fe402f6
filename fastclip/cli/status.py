"""`fastclip status`: what of an evaluation is embedded, what is missing, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fastclip.cli.options import Store, takes_eval_options
from fastclip.errors import EXIT_INCOMPLETE, printable

if TYPE_CHECKING:
    from rich.table import Table

    from fastclip.evaluate.options import EvalOptions
    from fastclip.evaluate.status import CellStatus


@takes_eval_options
def command(options: EvalOptions, store: Store = Path("embeddings")) -> None:
    """Show what of an evaluation is embedded, what is missing, and why.

    Takes the options of `fastclip eval`. Exit code 4 if anything is missing.
    """
    from fastclip.cli.console import out
    from fastclip.cli.progress import silence
    from fastclip.evaluate.setup import resolve
    from fastclip.evaluate.status import status
    from fastclip.report.style import titled

    with silence.at("reading manifests, store and weights"):
        setup = resolve(replace(options, store=store), only_look=True)
        cells = status(setup)
    console = out()
    console.print(titled("what is embedded", _table(cells)))
    for line in _recipes(cells, {name: each.path for name, each in setup.weights.items()}):
        console.print(line, style="dim")
    for line in _reasons(cells):
        console.print(line)
    if not all(cell.complete for cell in cells):
        raise typer.Exit(EXIT_INCOMPLETE)


def _table(cells: list[CellStatus]) -> Table:
    from fastclip.report.style import plain_table

    table = plain_table("domain", "backbone", "shards", "images", "missing", "unreadable", left=2)
    for cell in cells:
        done = f"{cell.shards - cell.missing_shards:,}/{cell.shards:,}"
        numbers = [f"{number:,}" for number in (cell.images, cell.missing_images, cell.unreadable)]
        table.add_row(printable(f"{cell.dataset}/{cell.domain}"), cell.backbone, done, *numbers)
    return table


def _recipes(cells: list[CellStatus], files: Mapping[str, Path | None]) -> list[str]:
    """The recipe of each dataset and backbone that has a part, a line each. `files` are the weights that were given."""
    from fastclip.models.weights import describe_weights

    lines = {}
    for cell in cells:
        if cell.recipe and cell.missing_shards < cell.shards:
            recipe, weights = cell.recipe, describe_weights(cell.recipe, files.get(cell.backbone))
            made = f"recipe {recipe.id[:12]}, {weights}, {recipe.how}, on {recipe.machine}"
            lines[cell.dataset, cell.backbone] = f"{cell.dataset}, {cell.backbone}: {made}."
    return [printable(line) for line in lines.values()]


def _reasons(cells: list[CellStatus]) -> list[str]:
    """Why shards are missing, a line a reason, with what it applies to."""
    where: dict[str, dict[str, int]] = {}
    for cell in cells:
        for reason, shards in cell.reasons.items():
            places = where.setdefault(reason, {})
            place = f"{cell.dataset}, {cell.backbone}"
            places[place] = places.get(place, 0) + shards
    lines = []
    for reason, places in where.items():
        what = "; ".join(f"{place}: {shards:,} shard{'s' * (shards > 1)}" for place, shards in places.items())
        lines.append(printable(f"{what}: {reason}."))
    return lines
