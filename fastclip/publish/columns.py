"""Parts of a result: one backbone of it, or one column, with all that belongs to its numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastclip.report.head_notes import labels_notes
from fastclip.report.prompt_notes import prompt_notes
from fastclip.report.training_notes import training_notes
from fastclip.results.cells import ZERO_SHOT, Cell, Column, Evaluation


def only_backbone(evaluation: Evaluation, backbone: str) -> Evaluation:
    """The result of one backbone alone."""
    return _only(evaluation, lambda cell: cell.backbone == backbone, {backbone}, None)


def only_head(evaluation: Evaluation, head: str) -> Evaluation:
    """The result of one head alone; of zero-shot, that of all prompt sets."""
    return _only(evaluation, lambda cell: cell.head == head, {c.backbone for c in evaluation.cells}, head)


def only_column(evaluation: Evaluation, column: Column) -> Evaluation:
    """The result of one backbone with one head alone."""
    return _only(evaluation, lambda cell: cell.column == column, {column.backbone}, column.head)


def _only(evaluation: Evaluation, wanted: Callable[[Cell], bool], backbones: set[str], head: str | None) -> Evaluation:
    cells = tuple(cell for cell in evaluation.cells if wanted(cell))
    datasets = {cell.dataset for cell in cells}
    prompts = {cell.prompts for cell in cells}
    return replace(
        evaluation,
        cells=cells,
        datasets=tuple(each for each in evaluation.datasets if each.name in datasets),
        recipes=tuple(e for e in evaluation.recipes if e.backbone in backbones and e.dataset in datasets),
        prompts={name: each for name, each in evaluation.prompts.items() if name in prompts},
        heads=tuple(
            each
            for each in evaluation.heads
            if each.facts.recipe.backbone in backbones and each.dataset in datasets and head in (None, each.name)
        ),
        unreadable=tuple(each for each in evaluation.unreadable if each.dataset in datasets),
        patterns=(),
        near_ties=(),
        predictions=None,
    )


def labels_of(evaluation: Evaluation) -> list[str]:
    """A line for everything in a result that saw labels or the tested images, and for chosen prompts."""
    return [*prompt_notes(evaluation), *labels_notes(evaluation), *training_notes(evaluation)]


def is_zero_shot(own: Evaluation) -> bool:
    """Whether no number of a result of one column has anything to do with labels, or with a fit."""
    fitted = any(cell.head != ZERO_SHOT for cell in own.cells) or any(used.recipe.training for used in own.recipes)
    return not fitted and not any(each.uses_labels for each in own.prompts.values())
