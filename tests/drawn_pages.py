"""Drawn results with predictions, for reports: every count follows from the answers, by the code of the evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from helpers import Sharded, recipe

from fastclip.data.shards.manifest import read_manifest
from fastclip.data.shards.reader import read_images
from fastclip.files import digest
from fastclip.results.answers import ColumnAnswers, DomainAnswers, PredictionRows
from fastclip.results.cells import (
    ZERO_SHOT,
    Cell,
    Column,
    DatasetFacts,
    Evaluation,
    PredictionFile,
    UsedPrompts,
    UsedRecipe,
)
from fastclip.results.comparing.columns import compare
from fastclip.results.comparing.families import Family
from fastclip.results.patterns import count_patterns, near_ties
from fastclip.results.published.verdicts import (
    DIFFERS,
    NEAR_TIES,
    NOT_COMPARABLE,
    SAME,
    Against,
    AverageVerdict,
    CellVerdict,
)

BACKBONES = ("RN50", "ViT-B/32", "ViT-L/14")
Drawn = tuple[Evaluation, PredictionRows]


def drawn_input(
    images: int = 600,
    *,
    classes: int = 12,
    names: Sequence[str] = (),
    domains: Sequence[str] = ("art", "photo"),
    backbones: Sequence[str] = BACKBONES,
    prompts: Sequence[str] = ("photo",),
    dataset: str = "letters",
    seed: int = 1,
) -> Drawn:
    """A result of `images` images in all, whose later backbones are better. About three of ten answers are wrong."""
    rng = np.random.default_rng(seed)
    answers = []
    for domain in domains:
        number = images // len(domains)
        labels = np.sort(rng.integers(0, classes, number)).astype(np.int32)
        digests = [hashlib.sha256(f"{seed} {domain} {row}".encode()).hexdigest() for row in range(number)]
        columns = _columns(rng, labels, classes, backbones, prompts)
        answers.append(
            DomainAnswers(dataset, domain, labels, columns, [f"{domain}/{row:08d}" for row in range(number)],
                          [f"c/{row}.jpg" for row in range(number)], digests)
        )  # fmt: skip
    words = list(names) or [f"thing {label}" for label in range(classes)]
    folders = {f"{label:03d}_{word}": word for label, word in enumerate(words)}
    return result_of(answers, folders, manifest_sha256=digest(f"{seed}".encode()))


def result_of_shards(sharded: Sharded, *, seed: int = 1, backbones: Sequence[str] = BACKBONES) -> Drawn:
    """Drawn answers for the images of real shards."""
    rng = np.random.default_rng(seed)
    manifest = read_manifest(sharded.folder)
    answers = []
    for domain in manifest.domains:
        images = [read_images(sharded.folder, shard) for shard in manifest.shards_of(domain.name)]
        labels = np.concatenate([each.labels for each in images]).astype(np.int32)
        columns = _columns(rng, labels, len(manifest.classes), backbones, ("photo",))
        texts = ([text for each in images for text in each[place]] for place in range(3))
        answers.append(DomainAnswers(manifest.dataset, domain.name, labels, columns, *texts))
    names = dict(zip(manifest.classes, manifest.names, strict=True))
    return result_of(answers, names, manifest_sha256=digest(manifest.to_json()))


def result_of(answers: Sequence[DomainAnswers], names: Mapping[str, str], *, manifest_sha256: str) -> Drawn:
    """The result of given answers, which are of one dataset."""
    first = answers[0]
    facts = DatasetFacts(
        name=first.dataset,
        title="Letters of the world",
        variant=None,
        protocol="full",
        manifest_sha256=manifest_sha256,
        names=names,
        fingerprints={each.domain: "cd" * 32 for each in answers},
        has_variants=False,
        licence="for research",
    )
    used = {column.backbone: replace(recipe(), backbone=column.backbone, weights="ab" * 32) for column in first.columns}
    evaluation = Evaluation(
        unreadable_policy="stop",
        datasets=(facts,),
        recipes=tuple(
            UsedRecipe(dataset=first.dataset, backbone=b, id=each.id, recipe=each) for b, each in used.items()
        ),
        prompts={column.prompts: UsedPrompts(templates=("a photo of a {}.",)) for column in first.columns},
        cells=tuple(_cell(each, column, own) for each in answers for column, own in each.columns.items()),
        unreadable=(),
        patterns=tuple(p for e in answers for p in count_patterns(e.dataset, e.domain, e.columns, "stop", 0)),
        near_ties=tuple(tie for e in answers for tie in near_ties(e.dataset, e.domain, e.columns)),
    )
    rows = sum(len(each.labels) * len(each.columns) for each in answers)
    file = PredictionFile(file="predictions.parquet", sha256="0" * 64, rows=rows)
    return evaluation, PredictionRows(file, {(each.dataset, each.domain): each for each in answers})


def _columns(
    rng: np.random.Generator, labels: np.ndarray, classes: int, backbones: Sequence[str], prompts: Sequence[str]
) -> dict[Column, ColumnAnswers]:
    images, columns = len(labels), {}
    hard, other = rng.random(images), rng.integers(1, min(classes, 4), images)
    for place, backbone in enumerate(backbones):
        for name in prompts:
            wrong = hard + 0.3 * rng.random(images) > 0.75 + 0.05 * place
            predicted = np.where(wrong, (labels + other) % classes, labels).astype(np.int32)
            rank = np.where(wrong, rng.integers(1, classes, images), 0).astype(np.int32)
            margin = (rng.random(images) * 0.1).astype(np.float32)
            columns[Column(backbone, ZERO_SHOT, name)] = ColumnAnswers(predicted, rank, margin)
    return columns


def _cell(answers: DomainAnswers, column: Column, own: ColumnAnswers) -> Cell:
    return Cell(
        dataset=answers.dataset,
        domain=answers.domain,
        backbone=column.backbone,
        prompts=column.prompts,
        images=len(own.rank),
        classified=int(own.classified.sum()),
        top1=int(own.right.sum()),
        top5=int((own.classified & (own.rank < 5)).sum()),
        unreadable=int((~own.classified).sum()),
        shards=1,
        missing_shards=0,
    )


def drawn_family(evaluation: Evaluation, name: str = "all against the first") -> Family:
    """The backbones of the first prompt set against the first of them, under a name of its own."""
    family = compare(evaluation, "backbones", to=evaluation.cells[0].backbone)[0]
    return replace(family, name=name, notes=(f"a note of {name}",))


def drawn_against(evaluation: Evaluation, source: str = "a table", reason: str = "other templates") -> Against:
    """Verdicts of all four kinds, in turns."""
    kinds = ((SAME, 0), (NEAR_TIES, 1), (DIFFERS, -3), (NOT_COMPARABLE, None))
    cells = []
    for number, cell in enumerate(evaluation.cells):
        verdict, difference = kinds[number % len(kinds)]
        cells.append(
            CellVerdict(
                dataset=cell.dataset,
                domain=cell.domain,
                column=cell.column,
                published=Fraction(7268, 10_000),
                decimals=4,
                candidates=(1764, 1764),
                images=cell.images,
                yours=None if verdict == NOT_COMPARABLE else cell.top1,
                verdict=verdict,
                difference=difference,
                could_gain=2,
                could_lose=1,
                epsilon=1e-3,
                reasons=(reason,) if verdict == NOT_COMPARABLE else (),
            )
        )
    average = AverageVerdict(dataset=evaluation.cells[0].dataset, column=evaluation.cells[0].column,
                             printed=Fraction(1, 2), of_cells=Fraction(2, 3), yours=Fraction(3, 4))  # fmt: skip
    return Against(source=source, commit="0123abc", cells=tuple(cells), averages=(average,), notes=(f"of {source}",))
