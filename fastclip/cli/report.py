"""`fastclip report`: kept results as tables for a terminal, a paper or a spreadsheet, and as a page."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastclip.cli.report_inputs import Inputs, families, find_epsilon, read_inputs
from fastclip.cli.report_inputs import against as find_verdicts
from fastclip.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from fastclip.report.tables import TableStyle

FILES = {"rich_help_panel": "Files; - is standard output"}
LOOK = {"rich_help_panel": "How tables look"}
PAGE = {"rich_help_panel": "The page"}


def command(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RESULT",
            help="The folder of a run, its result.json, or a folder of runs. Default: list those in results.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="published|FILE",
            help="Say for each cell whether its count is that of the published table, another result, or a CSV.",
        ),
    ] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Tables for GitHub.", **FILES)] = None,
    latex: Annotated[Path | None, typer.Option(metavar="FILE", help="Tables for LaTeX (booktabs).", **FILES)] = None,
    macros: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Numbers for LaTeX's text, by name.", **FILES)
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="A row a cell, with its counts.", **FILES)] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="All results as one.", **FILES)] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="One page with plots and images.", **FILES)] = None,
    decimals: Annotated[int, typer.Option(metavar="N", help="Of percentages.", **LOOK)] = 2,
    mark: Annotated[
        str,
        typer.Option(
            metavar="best|tied|none",
            help="The best and the second of each column; or all that a test cannot tell from the best.",
            **LOOK,
        ),
    ] = "best",
    average: Annotated[
        str, typer.Option(metavar="macro|micro|both", help="Average domains, or all images.", **LOOK)
    ] = "macro",
    intervals: Annotated[bool, typer.Option("--intervals", help="Show 95% confidence intervals.", **LOOK)] = False,
    as_float: Annotated[bool, typer.Option("--float", help="LaTeX: a float with a caption.", **LOOK)] = False,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: those beside the result.", **PAGE)
    ] = None,
    shards: Annotated[
        str, typer.Option(metavar="DIR", help="Folder of all sharded datasets, for pictures.", **PAGE)
    ] = "shards",
    thumbnails: Annotated[int, typer.Option(metavar="N", min=0, help="Pictures at most.", **PAGE)] = 400,
    epsilon: Annotated[
        str | None,
        typer.Option(
            metavar="E|CERTIFICATE",
            help="With --against: smaller leads are near ties. Or the JSON of fastclip verify, which saw some flip.",
        ),
    ] = None,
) -> None:
    """Show kept results again: as tables, for a paper, as a page, or against published numbers.

    Reads files only: no model, no images. Several results become one table if they are about the same images.
    """
    from fastclip.cli.console import err, out
    from fastclip.report.tables import TableStyle

    console, messages = out(), err()
    if not results:
        return _print_runs(console)
    style = TableStyle(decimals=decimals, mark=mark, average=average, intervals=intervals)
    formats = {"markdown": markdown, "latex": latex, "macros": macros, "csv": csv, "json": json, "html": html}
    files = {name: path for name, path in formats.items() if path}
    _check(files, as_float=as_float, epsilon=epsilon, against=against)
    near = None if epsilon is None else find_epsilon(epsilon)
    inputs = read_inputs(results, predictions, answers=html is not None or near is not None, patterns=mark == "tied")
    found = find_verdicts(inputs, against, near) if against else None
    if not files:
        _print(inputs, style, found, console)
    for name, path in files.items():
        if name == "html":
            data = _page(inputs, found, style, shards, thumbnails)
        else:
            data = _render(name, inputs, style, found, as_float).encode()
        _write(path, data, messages)
    return None


def _check(files: dict[str, Path], *, as_float: bool, epsilon: str | None, against: str | None) -> None:
    """Raise `UserError` for options that do not go together, and for a file that cannot be written."""
    from fastclip.files import check_place

    if sum(str(path) == "-" for path in files.values()) > 1:
        raise UserError("Two formats at once would be mixed on standard output.", fix="Give one of them a file.")
    if as_float and "latex" not in files:
        raise UserError("--float is for LaTeX.", fix="fastclip report RESULT --latex FILE --float")
    if epsilon is not None and not against:
        raise UserError("--epsilon is for --against.", fix="fastclip report RESULT --against published --epsilon E")
    for path in files.values():
        if str(path) != "-":
            check_place(path)


def _print(inputs: Inputs, style: TableStyle, found: Any, console: Console) -> None:
    from fastclip.report.document import make_document
    from fastclip.report.heads import pair_tables
    from fastclip.report.terminal import interval_tables, tables
    from fastclip.report.transfers import is_adapted

    evaluation = inputs.evaluation
    style = style if console.is_terminal else replace(style, mark="none")
    adapted = is_adapted(evaluation)
    if style.intervals:
        shown = interval_tables(evaluation, style)
    else:
        shown = pair_tables(evaluation) if adapted else tables(evaluation, style)
    for table in shown:
        console.print(table)
    document = make_document(evaluation, style, "")
    signs = document.signs if style.intervals or not adapted else ()
    for line in (*signs, *document.labels, *document.made):
        console.print(line, style="dim")
    if found:
        from fastclip.report.against import verdict_parts

        for part in verdict_parts(found):
            console.print(part)
    words = shlex.join(inputs.names) if len(inputs.names) == 1 else "RESULT…"
    console.print(f"As a page: fastclip report {words} --html report.html", soft_wrap=True)


def _render(name: str, inputs: Inputs, style: TableStyle, found: Any, as_float: bool) -> str:
    """The text of a format."""
    from fastclip.report.csv_file import csv_file
    from fastclip.report.document import make_document
    from fastclip.report.latex import latex
    from fastclip.report.macros import macros
    from fastclip.report.markdown import markdown

    if name == "csv":
        return csv_file(inputs.merged)
    if name == "json":
        return _json(inputs, found)
    document = make_document(inputs.evaluation, style, shlex.join(["fastclip", *sys.argv[1:]]), found)
    if name == "latex":
        return latex(document, as_float=as_float)
    return (markdown if name == "markdown" else macros)(document)


def _json(inputs: Inputs, found: Any) -> str:
    from fastclip.report.terminal import random_warning
    from fastclip.results.files.result import to_json

    more: dict[str, Any] = {}
    if warning := random_warning(inputs.merged):
        more["warning"] = warning.strip(" —")
    if found:
        from fastclip.results.published.verdicts import against_document

        more["published"] = against_document(found)
    return to_json(inputs.merged, **more).decode()


def _page(inputs: Inputs, found: Any, style: TableStyle, shards: str, thumbnails: int) -> bytes:
    from fastclip.report.html.page import render_page  # type: ignore[import-not-found]

    page: bytes = render_page(
        inputs.evaluation,
        answers=inputs.answers,
        against=found,
        families=list(families(inputs.evaluation)),
        style=style,
        shards=shards,
        thumbnails=thumbnails,
    )
    return page


def _write(path: Path, data: bytes, messages: Console) -> None:
    """Write a format to its file; or to standard output, byte for byte, whatever the encoding of the terminal."""
    from fastclip.files import write_whole

    if str(path) != "-":
        write_whole(path, data)
        messages.print(f"Written: {path}", soft_wrap=True)
    elif hasattr(sys.stdout, "buffer"):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:  # that of a notebook, or of a test
        sys.stdout.write(data.decode())


def _print_runs(console: Console) -> None:
    """The runs that are kept here, the newest first, and the command that shows one."""
    from fastclip.cli.results import DEFAULT
    from fastclip.errors import FastclipError, printable
    from fastclip.report.style import plain_table, titled
    from fastclip.results.files.result_reader import read_result
    from fastclip.results.files.runs import find_runs

    runs = find_runs(DEFAULT)
    if not runs:
        raise UserError(f"There are no results in {DEFAULT.absolute()}.", fix="fastclip eval writes one there.")
    table = plain_table("run", "made", "cells", "images", left=1)
    for run in runs:
        made = run.started.astimezone().strftime("%Y-%m-%d %H:%M") if run.started else ""
        try:
            evaluation = read_result(run.path)
        except FastclipError:
            table.add_row(printable(run.path.name), made, "damaged", "")
            continue
        images = {(cell.dataset, cell.domain, cell.sample): cell.images for cell in evaluation.cells}
        table.add_row(printable(run.path.name), made, f"{len(evaluation.cells):,}", f"{sum(images.values()):,}")
    console.print(titled(f"kept runs in {DEFAULT}", table))
    console.print(f"Show one: fastclip report {shlex.quote(str(runs[0].path))}", soft_wrap=True)
