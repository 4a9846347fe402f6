"""Tables of the terminal as text, and as HTML that a notebook shows: readable without style or script."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from itertools import pairwise
from typing import TypeAlias

from rich.console import Console, Group
from rich.table import Column, Table
from rich.text import Text

from fastclip.errors import printable

MOST_ROWS = 50
MOST_COLUMNS = 30
MOST_BYTES = 50_000
"""Of HTML: it stays in every copy of the notebook."""
FOR_NOTES = 8_000
"""Of them, that tables leave to the notes below them."""
MOST_LINES = 120
"""Of text."""
LONGEST_CELL, LONGEST_NOTE = 120, 600
WIDTH = 80

Part: TypeAlias = "str | Text | Group | Table"
"""A note, a title or a table, or several of them, as the command line prints them."""

TAGS = {"bold": "strong", "underline": "u"}


def as_text(parts: Iterable[Part]) -> str:
    """The parts as a terminal of 80 columns without bold type shows them. A table that needs more takes more."""
    file = StringIO()
    console = Console(
        file=file, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False, highlight=False,
        markup=False, emoji=False, _environ={},
    )  # fmt: skip
    for part in parts:
        if isinstance(part, str) and part.startswith("Bold: "):
            continue  # the meaning of marks that text does not have
        console.print(printable(part) if isinstance(part, str) else part, crop=False)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    more = [f"… and {len(lines) - MOST_LINES:,} more lines"] if len(lines) > MOST_LINES else []
    return "\n".join(lines[:MOST_LINES] + more).strip("\n")


def as_html(parts: Iterable[Part]) -> str:
    """The parts as HTML of at most `MOST_BYTES`: plain tables of at most `MOST_ROWS` rows together.

    They need no style and no script, which GitHub strips. The two classes keep a notebook from reading `$…$` in names
    as formulas.
    """
    page = _Page()
    for part in parts:
        page.add(part)
    return page.html


class _Page:
    """HTML that grows up to its limits."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._bytes = 200  # for the frame, and for a line that says what is left out
        self._rows = 0
        self._left_out = 0

    @property
    def html(self) -> str:
        more = f"<p>… and {self._left_out:,} more tables</p>" if self._left_out else ""
        return f'<div class="tex2jax_ignore mathjax_ignore">{"".join(self.pieces)}{more}</div>'

    def add(self, part: Part) -> None:
        if isinstance(part, Group):
            for each in part.renderables:
                assert isinstance(each, str | Text | Group | Table), "tables and their titles, as terminals print them"
                self.add(each)
        elif isinstance(part, Table):
            self._add_table(part)
        elif (text := Text(part) if isinstance(part, str) else part).plain.strip():
            self._take(f"<p>{_inline(text, LONGEST_NOTE)}</p>", MOST_BYTES)

    def _add_table(self, table: Table) -> None:
        most = MOST_BYTES - FOR_NOTES
        if self._rows >= MOST_ROWS or not self._take(f"<table><thead>{_header(table)}</thead><tbody>", most):
            self._left_out += 1
            return
        shown = 0
        for row in _rows(table):
            if self._rows >= MOST_ROWS or not self._take(row, most):
                break
            self._rows, shown = self._rows + 1, shown + 1
        self.pieces.append("</tbody></table>")
        if shown < len(table.rows):
            self.pieces.append(f"<p>… {shown:,} of these {len(table.rows):,} rows</p>")

    def _take(self, piece: str, most: int) -> bool:
        size = len(piece.encode()) + 50
        if self._bytes + size > most:
            return False
        self.pieces.append(piece)
        self._bytes += size
        return True


def _header(table: Table) -> str:
    cells = [_cell("th", each, each.header, "") for each in table.columns[:MOST_COLUMNS]]
    return f"<tr>{''.join(cells)}{_more(table)}</tr>"


def _more(table: Table) -> str:
    left_out = len(table.columns) - MOST_COLUMNS
    return f"<th>… {left_out:,} more columns</th>" if left_out > 0 else ""


def _rows(table: Table) -> Iterator[str]:
    columns = table.columns[:MOST_COLUMNS]
    for row, cells in zip(table.rows, zip(*(each.cells for each in columns), strict=True), strict=True):
        style = str(row.style or "")
        if len(columns) > 1 and not any(_text(each).plain for each in cells[1:]):
            span = f'<td colspan="{len(columns)}" align="left"><em>{_inline(_text(cells[0]), LONGEST_CELL)}</em></td>'
            yield f"<tr>{span}</tr>"
        else:
            of_row = (_cell("td", column, each, style) for column, each in zip(columns, cells, strict=True))
            yield f"<tr>{''.join(of_row)}</tr>"


def _cell(tag: str, column: Column, cell: object, style: str) -> str:
    text = _text(cell)
    side = "right" if column.justify == "right" else "left"
    inner = _inline(text, LONGEST_CELL)
    if tag == "td" and text.plain:
        for each in dict.fromkeys((style, str(column.style or ""))):
            inner = f"<{TAGS[each]}>{inner}</{TAGS[each]}>" if each in TAGS else inner
    return f'<{tag} align="{side}">{inner}</{tag}>'


def _text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell or ""))


def _inline(text: Text, most: int) -> str:
    """A text, escaped, with its bold and underlined parts."""
    short = text.plain if len(text.plain) <= most else text.plain[: most - 1] + "…"
    edges = sorted({0, len(short), *(min(end, len(short)) for span in _spans(text) for end in span[:2])})
    pieces = []
    for start, end in pairwise(edges):
        piece = html.escape(printable(short[start:end]))
        for first, last, tag in _spans(text):
            if first <= start and end <= last:
                piece = f"<{tag}>{piece}</{tag}>"
        pieces.append(piece)
    return "".join(pieces)


def _spans(text: Text) -> list[tuple[int, int, str]]:
    found = [(span.start, span.end, TAGS[str(span.style)]) for span in text.spans if str(span.style) in TAGS]
    return found + ([(0, len(text.plain), TAGS[str(text.style)])] if str(text.style) in TAGS else [])


def drawn(headers: Sequence[str], rows: Iterable[Sequence[object]], left: int) -> Table:
    """A table of values as the terminal draws it: fractions with four decimals, thousands with commas."""
    from fastclip.report.style import plain_table

    table = plain_table(*headers, left=left)
    for row in rows:
        table.add_row(*(Text(_value(each)) for each in row))
    return table


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) >= 1e-3 or not value else f"{value:.0e}"
    if isinstance(value, bool) or not isinstance(value, int):
        return "" if value is None else printable(str(value))
    return f"{value:,}"
