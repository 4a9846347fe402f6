"""Runs as every tracker takes them: an id, facts, metrics and a table, made of a result. No torch."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from fastclip.errors import printable
from fastclip.files import canonical_json, digest
from fastclip.publish.columns import is_zero_shot, labels_of, only_column
from fastclip.report.head_notes import settings_text
from fastclip.report.numbers import RANDOM
from fastclip.results.averages import averages
from fastclip.results.cells import Cell, Column, Evaluation
from fastclip.results.files.result import to_json
from fastclip.results.statistics import wilson

Scalar: TypeAlias = "str | int | float | bool | None"

HEADERS = ("dataset", "domain", "images", "right", "right in five", "accuracy", "low", "high")
"""Of the table of a result. The last two are the ends of Wilson's 95% interval."""

MOST_NAME = 80
"""Letters of a dataset's or domain's name in the name of a metric. MLflow takes 250 for all of it."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One run of a tracker. Texts in it hold no control characters."""

    id: str
    """The same for the same result and column, so that nothing is tracked twice."""
    name: str
    config: Mapping[str, Scalar]
    metrics: Mapping[str, float]
    """Fractions of 1."""
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[Scalar]] = ()
    notes: Sequence[str] = ()
    """Facts that a reader has to know, a sentence or two each."""

    def to_document(self) -> dict[str, Any]:
        """The run as JSON has it."""
        return asdict(self)


def runs_of(evaluation: Evaluation) -> list[TrackedRun]:
    """A run for each backbone and head of a result; for zero-shot, one for each prompt set."""
    result = digest(to_json(evaluation))
    return [_run(evaluation, column, result) for column in dict.fromkeys(cell.column for cell in evaluation.cells)]


def _run(evaluation: Evaluation, column: Column, result: str) -> TrackedRun:
    own = only_column(evaluation, column)
    datasets = [each.name for each in own.datasets]
    place = ", ".join(datasets) if len(datasets) < 3 else f"{len(datasets)} datasets"
    random = f" — {RANDOM}" if own.random_backbones() else ""
    notes = [RANDOM] * bool(random) + labels_of(own)
    return TrackedRun(
        id=run_id(result, *column),
        name=printable(f"{place}: {column.full_name}{random}"),
        config={name: printable(v) if isinstance(v, str) else v for name, v in _config(own, column, result)},
        metrics=dict(_metrics(own)),
        headers=HEADERS,
        rows=[_row(cell, own.unreadable_policy) for cell in own.cells],
        notes=notes,
    )


def run_id(*words: str) -> str:
    """An id that trackers take: 16 hexadecimal digits of the digest of some words."""
    return digest(canonical_json(list(words)))[:16]


def _config(own: Evaluation, column: Column, result: str) -> Iterator[tuple[str, Scalar]]:
    recipes = [used.recipe for used in own.recipes]
    yield "backbone", column.backbone
    yield "head", column.head
    yield "zero_shot", is_zero_shot(own)
    for name in ("architecture", "activation", "weights", "precision", "decoder", "batch_size", "engine", "numerics"):
        values = list(dict.fromkeys(getattr(each, name) for each in recipes))
        yield name, values[0] if len(values) == 1 else "; ".join(map(str, values))
    if column.prompts:
        yield "prompts", column.prompts
        yield "templates", "; ".join(own.prompts[column.prompts].identity)
    for head in own.heads:
        facts = head.facts
        of = f" of {metric_part(' '.join((head.dataset, *head.domains)))}" if len(own.heads) > 1 else ""
        yield f"method{of}", facts.method
        yield f"settings{of}", settings_text(head)
        yield f"trained_on{of}", ", ".join(f"{each.dataset}/{each.domain}" for each in facts.training)
        yield f"trained_images{of}", facts.images
    for dataset in own.datasets:
        name = metric_part(dataset.name)
        yield f"manifest/{name}", dataset.manifest_sha256
        yield f"variant/{name}", dataset.variant
        yield f"classes/{name}", len(dataset.names)
        yield f"recipe/{name}", next((used.id for used in own.recipes if used.dataset == dataset.name), None)
    yield "datasets", ", ".join(each.name for each in own.datasets)
    yield "images", sum(cell.images for cell in own.cells)
    yield "unreadable_policy", own.unreadable_policy
    yield "complete", own.complete
    yield "result", result
    yield "fastclip", own.program


def _metrics(own: Evaluation) -> Iterator[tuple[str, float]]:
    for cell in own.cells:
        accuracy = cell.accuracy(own.unreadable_policy)
        if accuracy is not None:
            sample = f"/{metric_part(cell.sample)}" if cell.sample else ""
            yield f"accuracy/{metric_part(cell.dataset)}/{metric_part(cell.domain)}{sample}", float(accuracy)
    for each in averages(own):
        for kind, value in (("average", each.macro), ("micro", each.micro), ("worst", each.worst)):
            if value is not None and len(each.domains) > 1:
                yield f"{kind}/{metric_part(each.dataset)}", float(value)


def _row(cell: Cell, policy: str) -> list[Scalar]:
    accuracy, seen = cell.accuracy(policy), cell.seen(policy)
    interval = wilson(cell.top1, seen) if seen else None
    ends = (interval.low, interval.high) if interval else (None, None)
    names = printable(cell.dataset), printable(f"{cell.domain} ({cell.sample})" if cell.sample else cell.domain)
    return [*names, cell.images, cell.top1, cell.top5, None if accuracy is None else float(accuracy), *ends]


def metric_part(name: str) -> str:
    r"""A name within the name of a metric. MLflow takes letters, digits, `_`, `-`, `.`, `:` and blanks alone.

    Where a sign is replaced or the end is cut, a digest keeps names apart.
    """
    short = re.sub(r"[^\w.\- :]", "-", name)[:MOST_NAME]
    same = short == name and name.strip(" .") and posixpath.normpath(name) == name
    return short if same or not name else f"{short.strip(' .') or 'x'}-{digest(name.encode())[:6]}"
