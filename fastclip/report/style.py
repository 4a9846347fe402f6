"""The one style of fastclip's tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from fastclip.errors import printable

NARROWEST_NAME = 12
"""Columns that a folded name keeps, however many numbers stand beside it."""


def titled(title: str, table: Table) -> Group:
    """A table under its title."""
    return Group(Text(printable(title), style="bold"), table)


def plain_table(*columns: str, left: int = 1) -> Table:
    """A table without borders. Its first `left` columns hold names, which fold where it is narrow.

    The other columns hold numbers, which stand on the right and never fold. A table that is still too wide is wider
    than the terminal; nothing is cut. Headers and cells are text: they hold no markup, and control characters are
    shown as their numbers.
    """
    table = _PlainTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        if number < left:
            table.add_column(_text(name), overflow="fold")
        else:
            table.add_column(_text(name), justify="right", no_wrap=True)
    table.widen([column.header for column in table.columns])
    return table


class _PlainTable(Table):
    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        texts = [_text(cell) if isinstance(cell, str) else cell for cell in cells]
        super().add_row(*texts, **options)
        self.widen(texts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType | Segment]:
        # Beside its widest cell a column takes two more: the blank to its right, and the line between columns.
        least = sum((column.min_width or 0) + 2 for column in self.columns)
        yield from super().__rich_console__(console, options.update_width(max(options.max_width, least)))

    def widen(self, cells: Sequence[RenderableType | None]) -> None:
        """Let no column become too narrow for its number, or for the least of a name."""
        for column, cell in zip(self.columns, cells, strict=False):
            width = cell.cell_len if isinstance(cell, Text) else 0
            needed = width if column.no_wrap else min(width, NARROWEST_NAME)
            column.min_width = max(column.min_width or 0, needed)


def _text(text: str) -> Text:
    return Text(printable(text))
