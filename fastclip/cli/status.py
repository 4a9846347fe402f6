"""`fastclip status`: what of an evaluation is embedded, what is missing, and why a part does not count."""

from __future__ import annotations

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
    """Show what `fastclip eval` with the same options has done, what it would do, and why. Exit code 4: not all."""
    from rich.console import Console

    from fastclip.evaluate.run import Run
    from fastclip.evaluate.status import status

    cells = status(Run(replace(options, store=store)))
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(_table(cells))
    for line in _reasons(cells):
        console.print(line)
    if not all(cell.complete for cell in cells):
        raise typer.Exit(EXIT_INCOMPLETE)


def _table(cells: list[CellStatus]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("domain", overflow="fold")
    table.add_column("backbone", overflow="fold")
    for name in ("shards", "images", "missing", "unreadable"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        done = f"{cell.shards - cell.missing_shards:,}/{cell.shards:,}"
        numbers = [f"{number:,}" for number in (cell.images, cell.missing_images, cell.unreadable)]
        table.add_row(printable(f"{cell.dataset}/{cell.domain}"), cell.backbone, done, *numbers)
    return table


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
