r"""Tables for LaTeX: a booktabs `tabular` each, and a `table` around it on demand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fastclip.errors import printable
from fastclip.report.document import Document, signs_of
from fastclip.report.numbers import BEST, NO_NUMBER, RANDOM, SECOND, TIED, Number, Table, TableStyle, interval_text
from fastclip.report.verdict_grids import Grid

MARKED = {BEST: r"\textbf{%s}", TIED: r"\textbf{%s}", SECOND: r"\underline{%s}"}
ESCAPED = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\symbol{34}",  # babel gives it a meaning of its own
    "[": "{[}",  # after a line's end brackets and stars are taken for its arguments
    "]": "{]}",
    "*": "{*}",
    NO_NUMBER: "---",
    "±": r"$\pm$",
    "−": "$-$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
}

COLUMN, LETTER = 229, 4.5
"""Points: a column of article's pages of two, and about a letter of the tables. Wider floats span both columns."""

SMALL = r"\fontsize{6}{7}\selectfont"
"""The size of intervals."""

LAST_LATIN = "\u024f"
"""The last letter that pdfLaTeX may print."""


def latex(document: Document, *, as_float: bool = False) -> str:
    """A tabular for each table with notes below it, or a float with notes in its caption."""
    body: list[str] = []
    for table in document.tables:
        title, name = table.title + document.warning, f"{table.dataset or table.subject} {table.sample}"
        notes = (*signs_of([table], document.style), *document.labels)
        body += ["", *_placed(list(_tabular(table, document)), title, name, notes, as_float)]
    for grid in document.grids:
        body += ["", *_placed(list(_grid(grid)), grid.title, f"{grid.title.split(':')[0]} against", (), as_float)]
    if document.verdicts:
        body += ["", _paragraph(document.verdicts)]
    head = [f"% {printable(document.origin)}", r"% It needs \usepackage{booktabs}."]
    if any(char.isalpha() and char > LAST_LATIN for line in body for char in line):
        head.append("% Some of its letters are not Latin: LuaLaTeX or XeLaTeX, and a font that has them, print them.")
    return "\n".join([*head, *body, "", *(f"% {printable(line)}" for line in document.made)]) + "\n"


def _paragraph(notes: Sequence[str]) -> str:
    """Notes below a tabular."""
    return rf"\par\smallskip{{\noindent\footnotesize {' '.join(map(escape, notes))}\par}}\medskip"


def _placed(tabular: Sequence[str], title: str, name: str, notes: Sequence[str], as_float: bool) -> Iterator[str]:
    """A tabular with its title and notes: in the caption of a float called `name`, or as a comment and below it."""
    space = 3 if any(SMALL in line for line in tabular) else 4
    tabular = [rf"{{\small\setlength{{\tabcolsep}}{{{space}pt}}%", *tabular, "}"]
    if not as_float:
        yield f"% {printable(title)}"
        yield r"\par\medskip\noindent"
        yield from tabular
        yield _paragraph(notes) if notes else r"\par\medskip"
        return
    float_ = "table*" if _points(tabular) > COLUMN else "table"
    yield rf"\begin{{{float_}}}"
    yield r"  \centering"
    yield rf"  \caption{{{' '.join(map(escape, (f'{title}.', *notes)))}}}"
    yield rf"  \label{{tab:{re.sub('[^A-Za-z0-9]+', '-', name).strip('-')}}}"
    yield r"  \par\smallskip"
    yield from (f"  {line}" for line in tabular)
    yield rf"\end{{{float_}}}"


def _points(tabular: Sequence[str]) -> float:
    """About how wide a tabular is."""
    rows = [re.sub(r"\\([a-zA-Z]+|.)|[{}]", "", line).split(" & ") for line in tabular if " & " in line]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return sum(8 + LETTER * width for width in widths)


def _grid(grid: Grid) -> Iterator[str]:
    yield rf"\begin{{tabular}}{{l{'r' * (len(grid.headers) - 1)}}}"
    yield r"  \toprule"
    yield _row([grid.headers[0].capitalize(), *map(escape, grid.headers[1:])])
    yield r"  \midrule"
    yield from (_row(list(map(escape, row))) for row in grid.rows)
    yield r"  \bottomrule"
    yield r"\end{tabular}"


def escape(text: str) -> str:
    r"""`text` as LaTeX prints it, on one line: no command, no argument. Letters beyond ASCII stay."""
    whole = "".join(ESCAPED.get(char, char) for char in printable(text).replace("--", "-\0-").replace("--", "-\0-"))
    return whole.replace("\0", "{}")  # two hyphens would be a dash


def _tabular(table: Table, document: Document) -> Iterator[str]:
    columns = len(table.headers) + 1
    yield rf"\begin{{tabular}}{{l{'r' * len(table.headers)}}}"
    yield r"  \toprule"
    if document.warning:
        yield rf"  \multicolumn{{{columns}}}{{c}}{{\textbf{{{RANDOM}}}}} \\"
        yield r"  \midrule"
    yield _row([table.sections[0].heading.capitalize(), *map(escape, table.headers)])
    for section in table.sections:
        yield r"  \midrule"
        if section.title:
            yield rf"  \multicolumn{{{columns}}}{{l}}{{\emph{{{escape(section.title)}}}}} \\"
        for each in section.rows:
            row = _row([escape(section.name(each)), *map(_number, each.numbers)])
            if document.style.intervals and any(number.interval for number in each.numbers):
                yield f"{row}[-3pt]"
                yield f"{_row(['', *_intervals(each.numbers, document.style)])}[1pt]"
            else:
                yield row
    yield r"  \bottomrule"
    yield r"\end{tabular}"


def _row(cells: Sequence[str]) -> str:
    return f"  {' & '.join(cells)} \\\\"


def _number(number: Number) -> str:
    """A number with its mark. Only the mean of several seeds is marked, not its deviation."""
    middle, blank, spread = number.text.partition(" ")
    return (MARKED.get(number.mark, "%s") % escape(middle)) + blank + escape(spread)


def _intervals(numbers: Sequence[Number], style: TableStyle) -> Iterator[str]:
    for number in numbers:
        text = interval_text(number.interval, style.decimals)
        yield rf"{{{SMALL} {text}}}" if text else ""
