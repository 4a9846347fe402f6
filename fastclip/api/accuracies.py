"""Accuracies, counts, fits and answers of a result as tables of plain values."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from fastclip.api.table import Table, plain
from fastclip.report.document import make_document, signs_of
from fastclip.report.numbers import MACRO, MICRO, TableStyle
from fastclip.report.numbers import Table as Accuracies
from fastclip.report.tables import accuracy_tables
from fastclip.report.terminal import interval_tables, tables
from fastclip.results.answers import PredictionRows
from fastclip.results.cells import Evaluation
from fastclip.results.statistics import wilson

if TYPE_CHECKING:
    from fastclip.api.shown import Part

OF_COLUMN = ("backbone", "head", "prompts")
AVERAGES = {MACRO: "average", MICRO: "micro average"}


def accuracies(evaluation: Evaluation, style: TableStyle) -> list[Table]:
    """A table for each dataset, after one with all of them if there are several."""
    found = accuracy_tables(evaluation, style)
    return [Table(_values(each), partial(_parts, evaluation, style, place)) for place, each in enumerate(found)]


def _values(table: Accuracies) -> pa.Table:
    names = [AVERAGES.get(each, each) for each in table.headers]
    names = [f"domain {each}" if each in (*OF_COLUMN, *names[:place]) else each for place, each in enumerate(names)]
    values: dict[str, pa.Array] = {
        name: pa.array([getattr(row.column, name) or None for row in table.rows], pa.string()) for name in OF_COLUMN
    }
    for place, name in enumerate(names):
        numbers = [row.numbers[place].value for row in table.rows]
        values[name] = pa.array([None if each is None else float(each) for each in numbers], pa.float64())
    return pa.table(values)


def _parts(evaluation: Evaluation, style: TableStyle, place: int) -> list[Part]:
    """The table as the terminal prints it, and the notes that its reader needs."""
    drawn = list((interval_tables if style.intervals else tables)(evaluation, style))[place]
    notes = make_document(evaluation, style, "").labels
    return [drawn, *signs_of(accuracy_tables(evaluation, style)[place : place + 1], style), *notes]


CELLS = pa.schema(
    [
        *((name, pa.string()) for name in ("dataset", "domain", *OF_COLUMN, "sample")),
        *((name, pa.int64()) for name in ("images", "classified", "top1", "top5", "unreadable")),
        *((name, pa.float64()) for name in ("accuracy", "low", "high")),
    ]
)


def cells(evaluation: Evaluation) -> Table:
    """A row a cell. Where unreadable images await a decision, there is no accuracy."""
    rows = []
    for cell in evaluation.cells:
        seen = cell.seen(evaluation.unreadable_policy)
        interval = wilson(cell.top1, seen) if seen else None
        rows.append(
            {
                **asdict(cell),
                "accuracy": cell.top1 / seen if seen else None,
                "low": interval.low if interval else None,
                "high": interval.high if interval else None,
            }
        )
    return plain("Counts and accuracies", pa.Table.from_pylist(rows, CELLS), hidden=("classified", "top5", "sample"))


FITS = pa.schema(
    [
        *((name, pa.string()) for name in ("dataset", "domain", "backbone", "head", "method", "settings")),
        *((name, pa.int64()) for name in ("images", "shots", "seed")),
        ("sha256", pa.string()),
    ]
)


def fits(evaluation: Evaluation) -> Table:
    """A row a fitted head and domain that it was tested on; its settings are JSON."""
    rows = [
        {
            "dataset": head.dataset,
            "domain": domain,
            "backbone": head.facts.recipe.backbone,
            "head": head.name,
            "method": head.facts.method,
            "settings": json.dumps(head.facts.settings, sort_keys=True),
            "images": head.facts.images,
            "shots": head.facts.shots,
            "seed": head.facts.seed,
            "sha256": head.sha256,
        }
        for head in evaluation.heads
        for domain in head.domains
    ]
    return plain("Fitted heads", pa.Table.from_pylist(rows, FITS), hidden=("sha256", "method"))


PREDICTIONS = pa.schema(
    [
        *((name, pa.string()) for name in ("dataset", "domain", "key", "path", "sha256")),
        ("label", pa.int32()),
        *((name, pa.string()) for name in OF_COLUMN),
        *((name, kind) for name, kind in (("predicted", pa.int32()), ("rank", pa.int32()), ("margin", pa.float32()))),
    ]
)


def predictions(answers: PredictionRows) -> Table:
    """A row an image and column, domain by domain; null for the answers to unreadable images."""
    found = []
    for (dataset, domain), each in answers.domains.items():
        texts = [pa.array(list(texts), pa.string()) for texts in (each.keys, each.paths, each.digests)]
        images = len(each.labels)
        for column, own in each.columns.items():
            names = (getattr(column, name) for name in OF_COLUMN)
            numbers = (own.predicted, own.rank, own.margin)
            found.append(
                pa.Table.from_arrays(
                    [
                        *(pa.repeat(name, images) for name in (dataset, domain)),
                        *texts,
                        pa.array(each.labels),
                        *(pa.repeat(name, images) for name in names),
                        *(pa.array(values, mask=~own.classified) for values in numbers),
                    ],
                    schema=PREDICTIONS,
                )
            )
    return plain(
        "Predictions", pa.concat_tables(found) if found else PREDICTIONS.empty_table(), hidden=("path", "sha256")
    )
