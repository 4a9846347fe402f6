"""The one style of fastclip's tables on a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table


def plain_table(*columns: str, left: int = 1) -> Table:
    """A table without borders. The first `left` columns hold names, which fold where it is narrow; the others hold
    numbers, which stand on the right and never fold.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        if number < left:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table
