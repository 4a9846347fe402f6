"""Results made of answers that a test draws, image by image, without any image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from helpers import recipe

from fastclip.results.answers import ColumnAnswers
from fastclip.results.cells import ZERO_SHOT, Cell, Column, DatasetFacts, Evaluation, UsedPrompts, UsedRecipe
from fastclip.results.patterns import count_patterns

Right: TypeAlias = Mapping[str, Mapping[Column, np.ndarray]]
"""Domain → column → which images it has right."""


def columns(
    backbones: Sequence[str] = ("RN50", "RN101", "ViT-B/32"), prompts: Sequence[str] = ("photo",)
) -> list[Column]:
    """Zero-shot columns."""
    return [Column(backbone, ZERO_SHOT, name) for backbone in backbones for name in prompts]


def draw(found: Sequence[Column], images: Mapping[str, int], seed: int = 1) -> Right:
    """Answers that are right the more often the later the column is; hard images are hard for all."""
    random = np.random.default_rng(seed)
    drawn: dict[str, dict[Column, np.ndarray]] = {}
    for domain, number in images.items():
        hard = random.normal(size=number)
        drawn[domain] = {
            column: hard + random.normal(size=number) < 0.3 + 0.25 * place for place, column in enumerate(found)
        }
    return drawn


def result(right: Right, dataset: str = "pacs", **changes: Any) -> Evaluation:
    """The result of the answers `right`, with fields changed."""
    cells, patterns = [], []
    for domain, own in right.items():
        answers = {column: as_answers(each) for column, each in own.items()}
        patterns += count_patterns(dataset, domain, answers, "stop", 0)
        cells += [
            Cell(dataset=dataset, domain=domain, backbone=column.backbone, prompts=column.prompts, head=column.head,
                 images=len(each), classified=len(each), top1=int(each.sum()), top5=len(each), unreadable=0, shards=1,
                 missing_shards=0)
            for column, each in own.items()
        ]  # fmt: skip
    facts = DatasetFacts(
        name=dataset,
        title=dataset,
        variant=None,
        protocol="full",
        manifest_sha256="ab" * 32,
        names={"dog": "dog", "cat": "cat"},
        fingerprints=dict.fromkeys(right, "cd" * 32),
        has_variants=False,
    )
    made = Evaluation(
        unreadable_policy="stop",
        datasets=(facts,),
        recipes=tuple(used(dataset, each) for each in dict.fromkeys(cell.backbone for cell in cells)),
        prompts={
            each: UsedPrompts(templates=("a {}",)) for each in dict.fromkeys(c.prompts for c in cells if c.prompts)
        },
        cells=tuple(cells),
        unreadable=(),
        patterns=tuple(patterns),
    )
    return replace(made, **changes)


def used(dataset: str, backbone: str, **changes: object) -> UsedRecipe:
    """A recipe in use; `weights="drawn"` are random ones."""
    own = recipe(backbone=backbone, **changes)
    return UsedRecipe(dataset=dataset, backbone=backbone, id=own.id, recipe=own)


def as_answers(right: np.ndarray, classified: np.ndarray | None = None) -> ColumnAnswers:
    """Answers of two classes that are right as given; those that are not `classified` are unreadable."""
    rank = np.where(right, 0, 1).astype(np.int32)
    predicted = np.where(right, 0, 1).astype(np.int32)
    if classified is not None:
        rank, predicted = np.where(classified, rank, -1), np.where(classified, predicted, -1)
    return ColumnAnswers(predicted.astype(np.int32), rank.astype(np.int32), np.ones(len(right), np.float32))
