r"""Numbers as LaTeX macros, so that no number of the running text is ever retyped: `\fastclip{pacs/sketch/RN50}`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastclip.errors import printable
from fastclip.report.document import Document
from fastclip.report.latex import escape
from fastclip.report.numbers import MACRO, MICRO, RANDOM, Table, interval_ends

COMMAND = r"""\providecommand*\fastclip[1]{%
  \ifcsname fastclip@#1\endcsname\csname fastclip@#1\endcsname
  \else\textbf{??}\errmessage{fastclip: no number is called '#1'. Its file lists all names}\fi}"""

AVERAGES = {MACRO: "average", MICRO: "micro"}
ACROSS = "avg"
"""In the place of dataset and domain: the average over the datasets."""


def macros(document: Document) -> str:
    r"""A definition of `\fastclip`, and of every number by its name: DATASET/DOMAIN/BACKBONE.

    The prompt set or head stands behind the backbone where the dataset has several. Names with /right, /images, /low
    and /high hold the counts and the ends of the interval, where there are any.
    """
    lines = [f"% {printable(document.origin)}", r"% \fastclip{NAME} prints a number; an unknown name is an error."]
    lines += [f"% {printable(line)}" for line in (*document.labels, *document.made)]
    found: dict[str, str] = {}
    for table in document.tables:
        for name, value in _values(table, document.style.decimals):
            # Two names may differ in signs only, which no name of a macro can hold.
            unique = next(each for each in _numbered(name) if each not in found)
            found[unique] = value
    defined = [rf"\expandafter\def\csname fastclip@{name}\endcsname{{{value}}}" for name, value in found.items()]
    return "\n".join([*lines, COMMAND, *defined]) + "\n"


def _values(table: Table, decimals: int) -> Iterator[tuple[str, str]]:
    several = len({row.column.full_way for row in table.rows}) > 1
    for row in table.rows:
        for header, number in zip(table.headers, row.numbers, strict=True):
            place = [table.dataset, table.sample, AVERAGES.get(header, header)]
            if not table.dataset:  # the tables of the datasets have its other columns
                place = [ACROSS, table.sample] if header == MACRO else []
            names = [*filter(None, place), row.column.backbone, *([row.column.way] if several else [])]
            if not place:
                continue
            name = "/".join(map(plain, names))
            yield name, escape(number.text) if row.comparable else rf"\textbf{{{RANDOM}}}"
            low, high = interval_ends(number.interval, decimals) if number.interval and row.comparable else (None, None)
            more = {"right": number.right, "images": number.images, "low": low, "high": high}
            yield from ((f"{name}/{what}", str(value)) for what, value in more.items() if value is not None)


def plain(name: str) -> str:
    """`name` of letters, digits and . _ + - alone, as it stands in the name of a macro."""
    return re.sub("[^A-Za-z0-9._+-]+", "-", name).strip("-") or "-"


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
