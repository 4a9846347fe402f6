"""Tables as GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from fastclip.errors import printable
from fastclip.report.document import Document
from fastclip.report.numbers import BEST, SECOND, TIED, Number, Table, TableStyle, interval_text

MARKED = {BEST: "**{}**", TIED: "**{}**", SECOND: "<ins>{}</ins>"}
"""GitHub has no other way to underline."""


def markdown(document: Document) -> str:
    """The tables, each under its title, and the notes below them."""
    lines = [f"<!-- {_comment(document.origin)} -->", ""]
    for table in document.tables:
        lines += [f"**{escape(table.title + document.warning)}**", "", *_table(table, document.style), ""]
    lines += [f"- {escape(note)}" for note in (*document.notes, *document.made)]
    for grid in (*document.epochs, *document.grids):
        head, *rows = (row(map(escape, cells)) for cells in (grid.headers, *grid.rows))
        lines += ["", f"**{escape(grid.title)}**", "", head, _rule(len(grid.headers)), *rows]
    lines += ["", *(f"- {escape(note)}" for note in document.verdicts)] if document.verdicts else []
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """`text` as Markdown prints it, on one line: no markup, no HTML, no formula, no link, no column of a table."""
    escaped = re.sub(r"([\\`*_\[\]<>&#~|$])", r"\\\1", printable(text))
    return re.sub(r"(?i)(?<=:)(?=//)|(?<=www)(?=\.)", r"\\", escaped)  # GitHub makes links of addresses


def row(cells: Iterable[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    """The line below the headers: names stand on the left, numbers on the right."""
    return row([":---", *["---:"] * (columns - 1)])


def _table(table: Table, style: TableStyle) -> Iterator[str]:
    heading = table.sections[0].heading
    yield row([heading, *map(escape, table.headers)])
    yield _rule(1 + len(table.headers))
    for section in table.sections:
        if section.title:
            yield row([f"*{escape(section.title)}*", *[""] * len(table.headers)])
        for each in section.rows:
            yield row([escape(section.name(each)), *_numbers(each.numbers, style)])


def _numbers(numbers: Sequence[Number], style: TableStyle) -> Iterator[str]:
    for number in numbers:
        middle, blank, spread = number.text.partition(" ")
        text = MARKED.get(number.mark, "{}").format(middle) + blank + spread
        interval = interval_text(number.interval, style.decimals) if style.intervals else ""
        yield f"{text} {interval}".strip()


def _comment(text: str) -> str:
    """`text` within a comment of HTML, which only a > can end."""
    return printable(text).replace(">", "&gt;")
