"""`fastclip report`: kept results as tables for a terminal, a paper or a spreadsheet, and as a page."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastclip.cli.report_inputs import Inputs, find_epsilon, read_inputs
from fastclip.cli.report_inputs import against as find_verdicts
from fastclip.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from fastclip.report.numbers import TableStyle
    from fastclip.results.published.verdicts import Against

FILES = {"rich_help_panel": "Files; - is standard output"}
LOOK = {"rich_help_panel": "How tables look"}
PAGE = {"rich_help_panel": "The page"}

READ_BY = {
    "against": {"terminal", "markdown", "latex", "json", "html"},
    "decimals": {"terminal", "markdown", "latex", "macros", "html"},
    "average": {"terminal", "markdown", "latex", "macros", "html"},
    "mark": {"terminal", "markdown", "latex", "html"},
    "intervals": {"terminal", "markdown", "latex", "html"},
    "float": {"latex"},
    "predictions": {"html"},
    "shards": {"html"},
    "thumbnails": {"html"},
}
"""The formats in which an option shows."""
NO_MARKS = "Nothing is marked here. --markdown - prints the marks of --mark as text."


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
    decimals: Annotated[int | None, typer.Option(metavar="N", help="Of percentages. Default: 2.", **LOOK)] = None,
    mark: Annotated[
        str | None,
        typer.Option(
            metavar="best|tied|none",
            help="The best and the second of each column (default); or all that a test cannot tell from the best.",
            **LOOK,
        ),
    ] = None,
    average: Annotated[
        str | None,
        typer.Option(metavar="macro|micro|both", help="Average domains (default), or all images.", **LOOK),
    ] = None,
    intervals: Annotated[bool, typer.Option("--intervals", help="Show 95% confidence intervals.", **LOOK)] = False,
    as_float: Annotated[bool, typer.Option("--float", help="LaTeX: a float with a caption.", **LOOK)] = False,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: those beside the result.", **PAGE)
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of all sharded datasets, for pictures. Default: shards.", **PAGE),
    ] = None,
    thumbnails: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Pictures at most. Default: 400.", **PAGE)
    ] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(
            metavar="E|CERTIFICATE",
            help="With --against: smaller leads are near ties. Or the JSON of fastclip verify, which saw some flip.",
        ),
    ] = None,
) -> None:
    """Show kept results: as tables, for a paper, as a page.

    Reads files only: no model, no images. Several results become one table if they are about the same images.
    """
    from fastclip.cli.console import err, out
    from fastclip.report.numbers import TableStyle

    console, messages = out(), err()
    if not results:
        return _print_runs(console)
    look: dict[str, Any] = {"decimals": decimals, "mark": mark, "average": average, "intervals": intervals or None}
    style = replace(TableStyle(), **{name: value for name, value in look.items() if value is not None})
    formats = {"markdown": markdown, "latex": latex, "macros": macros, "csv": csv, "json": json, "html": html}
    files = {name: path for name, path in formats.items() if path}
    page = {"shards": shards, "thumbnails": thumbnails, "predictions": None if epsilon else predictions}
    _check(files, look | page | {"against": against, "float": as_float or None}, epsilon)
    near = None if epsilon is None else find_epsilon(epsilon)
    inputs = read_inputs(
        results, predictions, answers=html is not None or near is not None, patterns=style.mark == "tied"
    )
    found = find_verdicts(inputs, against, near) if against else None
    if not files:
        _print(inputs, style, found, console, marks_wanted=mark not in (None, "none"))
    for name, path in files.items():
        if name == "html":
            data = _page(inputs, found, style, shards or "shards", 400 if thumbnails is None else thumbnails)
        else:
            data = _render(name, inputs, style, found, as_float).encode()
        _write(path, data, messages)
    return None


def _check(files: Mapping[str, Path], options: Mapping[str, object], epsilon: str | None) -> None:
    """Raise `UserError` for options that do not go together, and for a file that cannot be written.

    Of `options`, those of READ_BY, each is None if it is not given.
    """
    from fastclip.destinations import check_place

    if sum(str(path) == "-" for path in files.values()) > 1:
        raise UserError("Two formats at once would be mixed on standard output.", fix="Give one of them a file.")
    for name, formats in READ_BY.items():
        if options[name] is not None and not formats & (files.keys() or {"terminal"}):
            more = " or ".join(f"--{each} FILE" for each in sorted(formats - {"terminal"}))
            raise UserError(f"--{name} would change nothing here.", fix=f"Leave it out, or add {more}.")
    if epsilon is not None and options["against"] is None:
        raise UserError("--epsilon is for --against.", fix="fastclip report RESULT --against published --epsilon E")
    for path in files.values():
        if str(path) != "-":
            check_place(path)


def _print(inputs: Inputs, style: TableStyle, found: Against | None, console: Console, *, marks_wanted: bool) -> None:
    from fastclip.report.document import make_document
    from fastclip.report.heads import pair_tables
    from fastclip.report.terminal import grid_table, interval_tables, tables
    from fastclip.report.transfers import is_adapted

    evaluation = inputs.evaluation
    adapted = is_adapted(evaluation) and not style.intervals
    without_marks = adapted or not console.is_terminal
    style = replace(style, mark="none") if without_marks else style
    if adapted:
        shown = pair_tables(evaluation, style.decimals)
    else:
        shown = (interval_tables if style.intervals else tables)(evaluation, style)
    for table in shown:
        console.print(table)
    document = make_document(evaluation, style, "")
    for grid in document.epochs:
        console.print(grid_table(grid))
    signs = () if adapted else document.signs
    unmarked = (NO_MARKS,) if marks_wanted and without_marks else ()
    for line in (*unmarked, *signs, *document.labels, *document.made):
        console.print(line, style="dim")
    if found:
        from fastclip.report.against import verdict_parts

        for part in verdict_parts(found):
            console.print(part)
    words = shlex.join(inputs.names) if len(inputs.names) == 1 else "RESULT…"
    console.print(f"As a page: fastclip report {words} --html report.html", soft_wrap=True)


def _render(name: str, inputs: Inputs, style: TableStyle, found: Against | None, as_float: bool) -> str:
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


def _json(inputs: Inputs, found: Against | None) -> str:
    from fastclip.report.terminal import random_warning
    from fastclip.results.files.result import to_json

    more: dict[str, object] = {}
    if warning := random_warning(inputs.merged):
        more["warning"] = warning.strip(" —")
    if found:
        from fastclip.results.published.document import against_document

        more["published"] = against_document(found)
    return to_json(inputs.merged, **more).decode()


def _page(inputs: Inputs, found: Against | None, style: TableStyle, shards: str, thumbnails: int) -> bytes:
    from fastclip.report.html.page import render_page
    from fastclip.results.comparing.columns import all_families

    return render_page(
        inputs.evaluation,
        answers=inputs.answers,
        against=found,
        families=list(all_families(inputs.evaluation)),
        style=style,
        shards=shards,
        thumbnails=thumbnails,
    )


def _write(path: Path, data: bytes, messages: Console) -> None:
    """Write a format to its file; or to standard output, byte for byte, whatever the encoding of the terminal."""
    from fastclip.cli.console import write_bytes
    from fastclip.files import write_whole

    if str(path) == "-":
        return write_bytes(data)
    write_whole(path, data)
    return messages.print(f"Written: {path}", soft_wrap=True)


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
