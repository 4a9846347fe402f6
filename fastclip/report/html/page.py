"""The one page of a result: HTML that needs nothing beside it, no network, no script, and says how it was made."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fastclip.errors import UserError, printable
from fastclip.report.comparisons import p_text
from fastclip.report.document import Document, make_document
from fastclip.report.finetuning import tuned_heads
from fastclip.report.html.classes import ClassReport, class_report
from fastclip.report.html.compared import (
    MOST_DOTS,
    MOST_FAMILIES,
    MOST_PANELS,
    AgainstTable,
    FamilyView,
    PromptTable,
    against_tables,
    family_views,
    prompt_tables,
)
from fastclip.report.html.curves import Curve, curves
from fastclip.report.html.epochs import MOST_DRAWN as MOST_TUNED
from fastclip.report.html.epochs import FineTuning, fine_tunings
from fastclip.report.html.gallery import Gallery, make_galleries
from fastclip.report.html.method import DEFINITIONS, Method, make_method
from fastclip.report.html.plots import MOST_DRAWN_CLASSES, Panel, Value, heat_picture, make_axis, make_heat, make_panel
from fastclip.report.html.shown import shown_answers
from fastclip.report.html.verdict import Verdict, make_verdict
from fastclip.report.html.words import called, listed, plural, ratio
from fastclip.report.numbers import BEST, TIED, Row, Table, TableStyle, interval_text, percent
from fastclip.results.answers import PredictionRows
from fastclip.results.cells import Evaluation
from fastclip.results.comparing.families import Family
from fastclip.results.files.result import to_document
from fastclip.results.published.verdicts import Against
from fastclip.storage.folders import Location

THUMBNAILS = 400
MOST_BYTES = 5_000_000
"""A page that is larger crashes browsers on small machines."""
DATA_BYTES = 1_000_000
"""Of the result inside the page. Of a larger one, what is longest is left out, and the page says so."""
LONGEST_PARTS = ("patterns", "pairs", "near_ties", "unreadable", "averages", "cells", "datasets")

MOST_ROWS = 12
"""Dots of a panel, above which only the first section of a table is drawn."""

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """The accuracies of one dataset: its table, and its plots."""

    table: Table
    panels: tuple[Panel, ...]
    left_out: str
    """Which dots are not drawn; empty if all are."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the template shows."""

    evaluation: Evaluation
    style: TableStyle
    document: Document
    verdict: Verdict
    accuracies: tuple[Accuracies, ...]
    curves: tuple[Curve, ...]
    """Of weights between two."""
    against: Against | None
    against_tables: tuple[AgainstTable, ...]
    families: tuple[FamilyView, ...]
    more_families: int
    """Those that the page leaves out."""
    fine_tunings: tuple[FineTuning, ...]
    more_fine_tunings: int
    """Those that the page leaves out."""
    prompts: tuple[PromptTable, ...]
    classes: tuple[ClassReport, ...]
    galleries: tuple[Gallery, ...]
    method: Method
    left_out: tuple[str, ...]
    """Entries of the result that its block on the page leaves out."""

    @property
    def contents(self) -> list[tuple[str, str]]:
        """The anchor and the title of each section that is there."""
        sections = [
            ("verdict", "Verdict", True),
            ("tables", "Accuracy", True),
            ("published", f"Against {self.against.called if self.against else ''}", self.against is not None),
            ("domains", "Accuracy per domain", any(each.panels for each in self.accuracies)),
            ("curves", "Between two weights", bool(self.curves)),
            ("pairs", "Paired comparisons", bool(self.families)),
            ("finetuning", "Fine-tuning", bool(self.fine_tunings)),
            ("prompts", "Prompt sets", bool(self.prompts)),
            ("classes", "Classes", bool(self.classes)),
            ("confusions", "Confusions", bool(self.classes)),
            ("wrong", "Wrong images", bool(self.galleries)),
            ("unreadable", "Unreadable images", bool(self.evaluation.unreadable)),
            ("method", "How it was made", True),
            ("data", "The result as data", True),
        ]
        return [(anchor, title) for anchor, title, there in sections if there]


def render_page(
    evaluation: Evaluation,
    *,
    answers: PredictionRows | None,
    against: Against | None,
    families: Sequence[Family],
    style: TableStyle,
    shards: Location | None,
    thumbnails: int = THUMBNAILS,
) -> bytes:
    """The page of a result. Its size does not depend on the number of images, and equal input gives equal bytes.

    `shards` is the folder of all sharded datasets, where pictures of at most `thumbnails` images are read. Raises
    `UserError` for a page above MOST_BYTES.
    """
    document = make_document(evaluation, replace(style, intervals=True), "")
    shown = list(shown_answers(evaluation, answers)) if answers else []
    data, left_out = _data_block(evaluation)
    page = Page(
        evaluation=evaluation,
        style=style,
        document=document,
        verdict=make_verdict(evaluation, document, against, families, answers),
        accuracies=tuple(_accuracies(table, style.decimals) for table in document.tables),
        curves=tuple(curves(evaluation)),
        against=against,
        against_tables=tuple(against_tables(against)) if against else (),
        families=tuple(family_views(families, style.decimals)),
        more_families=max(0, len(families) - MOST_FAMILIES),
        fine_tunings=tuple(fine_tunings(evaluation)),
        more_fine_tunings=max(0, len(tuned_heads(evaluation)) - MOST_TUNED),
        prompts=tuple(prompt_tables(evaluation, style.decimals)),
        classes=tuple(map(class_report, shown)),
        galleries=tuple(make_galleries(shown, shards, thumbnails)),
        method=make_method(evaluation),
        left_out=left_out,
    )
    html = _render(page, data)
    if len(html) > MOST_BYTES:
        raise UserError(
            f"The page would have {len(html):,} bytes, and browsers on small machines end at {MOST_BYTES:,}.",
            fix=f"--thumbnails {thumbnails // 2}, or a page for each dataset",
        )
    return html


def _render(page: Page, data: str) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(printable=printable, plural=plural, listed=listed)
    environment.globals.update(
        called=called,
        definitions=DEFINITIONS,
        heat_picture=heat_picture,
        interval=interval_text,
        make_heat=make_heat,
        most_drawn=MOST_DRAWN_CLASSES,
        p_text=p_text,
        percent=percent,
        ratio=ratio,
    )
    style, script = ((FOLDER / name).read_text("utf-8").strip() for name in ("style.css", "script.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{source_of(style)}'; script-src '{source_of(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # Not escaped: two files of this folder, and JSON without a `<`.
    trusted = {"css": Markup(style), "script": Markup(script), "data": Markup(data)}
    text = environment.get_template("page.html.j2").render(page=page, policy=policy, **trusted)
    return text.encode()


def source_of(text: str) -> str:
    """The digest by which a page's policy knows its own style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data_block(evaluation: Evaluation) -> tuple[str, tuple[str, ...]]:
    """The result as JSON that can stand inside a script element, and the names of the entries that are left out."""
    document: dict[str, Any] = to_document(evaluation)
    left_out: list[str] = []
    while True:
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
        if len(text) <= DATA_BYTES or len(left_out) == len(LONGEST_PARTS):
            break
        left_out.append(LONGEST_PARTS[len(left_out)])
        del document[left_out[-1]]
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text, tuple(left_out)


def _accuracies(table: Table, decimals: int) -> Accuracies:
    """A dataset's table, and a panel for each of its domains with a dot for each of its rows."""
    rows = table.rows
    domains = [
        number
        for number, name in enumerate(table.headers)
        if table.dataset and any(row.numbers[number].images is not None for row in rows)
    ]
    first = table.sections[0] if table.sections else None
    drawn = rows if len(rows) <= MOST_ROWS or first is None else list(first.rows[:MOST_DOTS])
    names = called([row.column for row in drawn])
    values = {
        number: list(_values([(names[row.column], row) for row in drawn], number, decimals))
        for number in domains[:MOST_PANELS]
    }
    everything = [value for each in values.values() for value in each]
    if not everything:
        return Accuracies(table=table, panels=(), left_out="")
    axis = make_axis(min(v.low for v in everything), max(v.high for v in everything), least=0.0, most=100.0)
    left_out = []
    if len(rows) > len(drawn):
        of = f" with {first.title}" if first and first.title else ""
        left_out.append(f"{len(drawn):,} of {len(rows):,} rows, the first{of}")
    if len(domains) > MOST_PANELS:
        left_out.append(f"the first {MOST_PANELS} of {len(domains):,} domains")
    return Accuracies(
        table=table,
        panels=tuple(make_panel(table.headers[number], each, axis) for number, each in values.items() if each),
        left_out="; ".join(left_out),
    )


def _values(rows: Sequence[tuple[str, Row]], place: int, decimals: int) -> Iterator[Value]:
    """The numbers of one domain. Those of several seeds have no interval."""
    for name, row in rows:
        number = row.numbers[place]
        if number.value is None:
            continue
        value, text = float(number.value * 100), f"{number.text} {interval_text(number.interval, decimals)}"
        low, high = (number.interval.low * 100, number.interval.high * 100) if number.interval else (value, value)
        counts = "" if number.right is None else f", {number.right:,} of {number.images:,}"
        yield Value(name, value, low, high, text.strip() + counts, number.mark in (BEST, TIED))
