"""Several kept results as one question: the runs, or the columns of all of them on the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastclip.errors import UserError
from fastclip.results.cells import ZERO_SHOT, Evaluation
from fastclip.results.comparing.columns import compare
from fastclip.results.comparing.families import Family
from fastclip.results.files.kept import KeptResult
from fastclip.results.files.merging import merge

if TYPE_CHECKING:
    from fastclip.results.answers import PredictionRows


@dataclass(frozen=True, kw_only=True)
class Together:
    """Several results as one."""

    merged: Evaluation
    """Of the files of results alone: the same, whether answers were read or not."""
    evaluation: Evaluation
    """The same with the patterns of all columns, where answers of several were read."""
    answers: PredictionRows | None
    """In one order; None where none were read."""


def together(kept: Sequence[KeptResult], reading: Sequence[KeptResult]) -> Together:
    """The results as one, with the answers of those in `reading` that have predictions.

    Raises an error for results that cannot be one, such as for two counts of one cell.
    """
    alone = [each for each in kept if each.result is None]
    if alone and len(alone) < len(kept):
        raise UserError(
            f"{alone[0].name} is a file of predictions alone; {next(e for e in kept if e.result).name} is a result.",
            fix="Name the folders of all runs, or the predictions of all.",
        )
    merged = merge({each.name: each.evaluation for each in kept})
    files = {each.name: each.rows for each in reading if each.has_answers}
    if not files:
        return Together(merged=merged, evaluation=merged, answers=None)
    from fastclip.results.comparing.ordering import in_one_order  # NumPy
    from fastclip.results.patterns import with_patterns

    answers = in_one_order(files)
    places = ((place, each.columns) for place, each in answers.domains.items())
    evaluation = with_patterns(merged, places) if len(kept) > 1 or not merged.patterns else merged
    return Together(merged=merged, evaluation=evaluation, answers=answers)


def needed_for_patterns(kept: Sequence[KeptResult]) -> list[KeptResult]:
    """The results whose answers have to be read to compare all columns: without patterns, or of the same datasets."""
    owners = Counter(dataset.name for each in kept for dataset in each.evaluation.datasets)
    return [
        each
        for each in kept
        if not each.evaluation.patterns or any(owners[dataset.name] > 1 for dataset in each.evaluation.datasets)
    ]


def compare_kept(
    kept: Sequence[KeptResult], of: str | None, *, to: str | None, correction: str, prompts: str | None
) -> tuple[list[Family], Evaluation]:
    """The families of one or several kept results, and the result that they are about (of runs, that of the first).

    Without `of`, results of the same cells, or with other counts for one, are runs. Otherwise fitted heads are compared
    if there are any, else backbones if there are several, else prompt sets.
    """
    if of == "runs" or (of is None and _are_runs(kept)):
        return _runs(kept, to, correction, prompts)
    evaluation = together(kept, needed_for_patterns(kept)).evaluation
    return compare(evaluation, of or _differing(evaluation), to=to, correction=correction, prompts=prompts), evaluation


def _are_runs(kept: Sequence[KeptResult]) -> bool:
    """Whether all results have the same cells, or one cell has several counts, so that they cannot be one result."""
    found = [{(cell.dataset, cell.domain, cell.column): cell for cell in each.evaluation.cells} for each in kept]
    if all(each.keys() == found[0].keys() for each in found):
        return len(found) > 1
    first = {key: cell for each in reversed(found) for key, cell in each.items()}
    return any(first[key] != cell for each in found for key, cell in each.items())


def _runs(
    kept: Sequence[KeptResult], to: str | None, correction: str, prompts: str | None
) -> tuple[list[Family], Evaluation]:
    names = {each.name: each for each in kept}
    if len(names) < 2:
        raise UserError("--of runs compares two results of the same columns.", fix="fastclip compare RESULT RESULT")
    if to is not None and to not in names:
        raise UserError(f"--to {to} is none of the results.", fix=f"--to {' | '.join(names)}")
    from fastclip.results.comparing.runs import AnsweredRun, compare_runs  # NumPy

    first, *others = sorted(
        (AnsweredRun(each.name, each.evaluation, each.rows) for each in names.values()),
        key=lambda run: run.name != (to or kept[0].name),
    )
    families = [
        family for each in others for family in compare_runs(first, each, correction=correction, prompts=prompts)
    ]
    return families, first.evaluation


def _differing(evaluation: Evaluation) -> str:
    cells = evaluation.cells
    if any(cell.head != ZERO_SHOT for cell in cells):
        return "heads"
    return "backbones" if len({cell.backbone for cell in cells}) > 1 else "prompts"
