"""A model card of one backbone: the hub's metadata, `model-index`, and tables to read. Uses no network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from fastclip.errors import IncompleteError, UserError, printable
from fastclip.publish.columns import is_zero_shot, only_backbone, only_column, only_head
from fastclip.report.document import make_document
from fastclip.report.markdown import escape, markdown
from fastclip.report.numbers import TableStyle
from fastclip.results.averages import averages
from fastclip.results.cells import ZERO_SHOT, Column, DatasetFacts, Evaluation

ZERO_SHOT_TASK, TASK = "zero-shot-image-classification", "image-classification"
"""Names of tasks on the hub. The first is for numbers without labels."""
TASK_NAMES = {ZERO_SHOT_TASK: "Zero-Shot Image Classification", TASK: "Image Classification"}


def choose_model(evaluation: Evaluation, backbone: str | None, head: str | None, prompts: str | None) -> Evaluation:
    """The part of a result that is about one model. Raises an error where it is not clear which, or has no number."""
    backbone = _one("-b", backbone, [cell.backbone for cell in evaluation.cells])
    own = only_backbone(evaluation, backbone)
    own = only_head(own, _one("--head", head, [cell.head for cell in own.cells]))
    if prompts is not None:
        name = _one("--prompts", prompts, [cell.prompts for cell in own.cells if cell.prompts])
        own = only_column(own, Column(backbone, ZERO_SHOT, name))
    if own.random_backbones():
        raise UserError(
            f"The weights of {printable(backbone)} are random: no number of theirs means anything.",
            fix="fastclip eval without --random-weights",
        )
    without = [cell for cell in own.cells if cell.accuracy(own.unreadable_policy) is None]
    if without:
        place = printable(f"{without[0].dataset}/{without[0].domain}")
        raise IncompleteError(
            f"{place} has no number yet: images are missing, or unreadable ones await a decision.",
            fix="Run fastclip eval again; where images are unreadable, with --unreadable wrong or exclude.",
        )
    return own


def _one(option: str, asked: str | None, names: list[str]) -> str:
    known = list(dict.fromkeys(names))
    if asked in known or (asked is None and len(known) == 1):
        return asked or known[0]
    shown = printable(" | ".join(f'"{name}"' if " " in name else name for name in known))
    what = "A card is about one model" if asked is None else f"The result has no {printable(asked)}"
    raise UserError(f"{what}.", fix=f"{option} {shown}" if known else f"Leave {option} out.")


def model_card(own: Evaluation, result: str, name: str | None = None) -> str:
    """The card of one model, as `README.md` of its repository has it. `result`: the digest of all of the result."""
    from huggingface_hub import ModelCardData

    column = own.cells[0].column
    title = printable(name or _name(column))
    results = [_eval_result(*each) for each in _values(own)]
    tasks = [each.task_type for each in results]
    data = ModelCardData(
        model_name=title,
        eval_results=results,
        pipeline_tag=ZERO_SHOT_TASK if column.head == ZERO_SHOT else None,
        tags=list(dict.fromkeys(["clip", *tasks])),
    )
    origin = f"fastclip {own.program}, result {result[:12]}: fastclip card"
    document = replace(make_document(own, TableStyle(mark="none"), ""), origin=origin)
    weights = own.recipes[0].recipe.weights if column.head == ZERO_SHOT else own.heads[0].sha256
    return "\n".join(
        [
            f"---\n{data.to_yaml()}\n---",
            "",
            f"# {escape(title)}",
            "",
            "## Evaluation",
            "",
            markdown(document),
            f"Measured by fastclip {escape(own.program)}: counts of right answers, divided once. "
            f"The metadata above are fractions of 1. SHA-256 of the {'weights' if _is_weights(own) else 'head'}: "
            f"`{escape(weights)}`; of the result: `{result}`.",
            "",
        ]
    )


def _is_weights(own: Evaluation) -> bool:
    return not own.heads or own.heads[0].is_backbone


def _name(column: Column) -> str:
    return column.backbone if column.head == ZERO_SHOT else column.full_name


def _values(own: Evaluation) -> Iterator[tuple[Evaluation, DatasetFacts, Column, str | None, Fraction, dict[str, Any]]]:
    """The accuracy of each column in each domain, and its average over several: with dataset, domain and counts."""
    for column in dict.fromkeys(cell.column for cell in own.cells):
        part = only_column(own, column)
        for cell in part.cells:
            seen, accuracy = cell.seen(own.unreadable_policy), cell.accuracy(own.unreadable_policy)
            assert accuracy is not None, "cells without a number were refused"
            counts = {"right": cell.top1, "images": seen} | ({"sample": cell.sample} if cell.sample else {})
            yield part, own.dataset(cell.dataset), column, cell.domain, accuracy, counts
        for each in averages(part):
            if each.macro is not None and len(each.domains) > 1:
                counts = {"average": "unweighted", "domains": len(each.domains)}
                yield part, own.dataset(each.dataset), column, None, each.macro, counts


def _eval_result(
    part: Evaluation, dataset: DatasetFacts, column: Column, domain: str | None, value: Fraction, counts: dict[str, Any]
) -> Any:
    from huggingface_hub import EvalResult

    task = ZERO_SHOT_TASK if is_zero_shot(part) else TASK
    way = f"prompts {column.prompts}" if column.prompts else column.head
    labels = "" if is_zero_shot(part) else ", not zero-shot"
    return EvalResult(
        task_type=task,
        task_name=TASK_NAMES[task],
        dataset_type=printable(dataset.hub_id or dataset.name),
        dataset_name=printable(f"{dataset.title}{f' ({domain})' if domain else ''}"),
        dataset_config=printable(domain) if domain else None,
        metric_type="accuracy",
        metric_name=printable(f"Top-1 accuracy, {'average over domains, ' if domain is None else ''}{way}{labels}"),
        metric_value=float(value),
        metric_args={name: printable(each) if isinstance(each, str) else each for name, each in counts.items()},
    )


def eval_results(own: Evaluation, dataset: str, task: str, *, percent: bool) -> str:
    """A file for `.eval_results`, with the one number of a model on one dataset: its average over the domains.

    Raises `UserError` where there are several numbers.
    """
    from huggingface_hub.utils import yaml_dump

    columns = list(dict.fromkeys(cell.column for cell in own.cells))
    if len(columns) > 1:
        _one("--prompts", None, [each.prompts for each in columns])
    if len(own.datasets) > 1:
        raise UserError("The result is about several datasets.", fix="Name the result of one.")
    (average,) = averages(own)
    assert average.macro is not None, "cells without a number were refused"
    way = f"prompts {columns[0].prompts}" if columns[0].prompts else columns[0].head
    notes = [
        f"top-1 accuracy as a {'percentage' if percent else 'fraction of 1'}",
        *([f"unweighted average over {len(average.domains)} domains"] if len(average.domains) > 1 else []),
        "zero-shot" if is_zero_shot(own) else "not zero-shot: labels took part",
        printable(way),
    ]
    value = float(average.macro * 100 if percent else average.macro)
    entry = {"dataset": {"id": dataset, "task_id": task}, "value": value, "notes": ", ".join(notes)}
    return str(yaml_dump([entry]))
