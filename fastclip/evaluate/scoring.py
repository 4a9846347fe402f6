"""Scoring: parts and prototypes become answers and counts. Reads what is published, embeds nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch

from fastclip.data.shards.manifest import Shard, read_rejected
from fastclip.data.shards.reader import read_index, read_labels
from fastclip.embed.store import Part
from fastclip.errors import IntegrityError
from fastclip.evaluate.run import Candidate, Run
from fastclip.evaluate.targets import Target, dataset_facts
from fastclip.heads.zero_shot import classify
from fastclip.models.numerics import fix_numerics
from fastclip.models.tower import TextTower, load_text_tower
from fastclip.results.cells import Cell, Evaluation, UnreadableImage
from fastclip.results.predictions import ShardPredictions
from fastclip.text.prompts import PromptSet
from fastclip.text.prototypes import cached_prototypes, compute_prototypes, prototype_identity
from fastclip.threads import threads


@dataclass(frozen=True)
class ScoredShard:
    """The answers for one shard by prompt set, none while its part is missing, and its unreadable images."""

    shard: Shard
    answers: Mapping[str, ShardPredictions]
    unreadable: Sequence[UnreadableImage]


def score(run: Run, keep_predictions: bool = False) -> tuple[Evaluation, list[ShardPredictions]]:
    """Counts of every cell and, if they are to be kept, the answers behind them. Computes missing prototypes."""
    cells: list[Cell] = []
    kept: list[ShardPredictions] = []
    unreadable: dict[UnreadableImage, None] = {}
    with ThreadPoolExecutor(run.process.cores, "score", torch.set_num_threads, (1,)) as pool:
        for target in run.targets:
            unreadable.update(dict.fromkeys(_rejected_images(target)))
            shards = list(target.shards)
            labels = dict(zip(shards, pool.map(partial(_labels, target), shards), strict=True))
            # One tower is loaded while another computes.
            with threads(2, "prototypes", fix_numerics, (run.device,)) as two:
                prototypes = list(two.map(partial(_prototypes, run, target), run.candidates))
            for candidate, vectors in zip(run.candidates, prototypes, strict=True):
                score_shard = partial(_score_shard, run, target, candidate, vectors, labels)
                for domain in target.domains:
                    scored = list(pool.map(score_shard, target.manifest.shards_of(domain)))
                    unreadable.update({image: None for each in scored for image in each.unreadable})
                    kept += [answer for each in scored for answer in each.answers.values() if keep_predictions]
                    cells += [_count(target, domain, candidate, prompts.name, scored) for prompts in run.prompts]
    evaluation = Evaluation(
        unreadable_policy=run.options.unreadable,
        datasets=tuple(dataset_facts(target, run.options.shards) for target in run.targets),
        backbones=tuple(candidate.facts for candidate in run.candidates),
        prompts={prompts.name: prompts.templates for prompts in run.prompts},
        cells=tuple(cells),
        unreadable=tuple(unreadable),
    )
    return evaluation, kept


def _score_shard(
    run: Run,
    target: Target,
    candidate: Candidate,
    prototypes: Mapping[str, np.ndarray],
    labels: Mapping[Shard, np.ndarray],
    shard: Shard,
) -> ScoredShard:
    """The answers for one shard under every prompt set; none if its part is missing. Runs in a thread."""
    part = run.store.read(candidate.key(shard))
    if part is None:
        return ScoredShard(shard, {}, [])
    if len(part.embeddings) != shard.images:
        raise IntegrityError(
            f"{shard.name} has {shard.images} images, its part {len(part.embeddings)} embeddings.",
            fix=f"Delete {run.store.folder}; the next run makes it again.",
        )
    rows = np.setdiff1d(np.arange(shard.images), [row for row, _ in part.unreadable])
    answers = {
        prompts: ShardPredictions(
            target.folder,
            shard,
            candidate.backbone.name,
            prompts,
            rows,
            classify(part.embeddings[rows], vectors, labels[shard][rows]),
        )
        for prompts, vectors in prototypes.items()
    }
    return ScoredShard(shard, answers, _unreadable_images(target, shard, part))


def _prototypes(run: Run, target: Target, candidate: Candidate) -> dict[str, np.ndarray]:
    """Prototypes of a dataset's classes by prompt set. The text tower is loaded once, and only if it is needed."""
    classes = list(zip(target.manifest.classes, target.manifest.names, strict=True))
    folder = run.options.store / "prototypes"

    @cache
    def tower() -> TextTower:
        return load_text_tower(candidate.backbone, candidate.weights, run.device)

    def of(prompts: PromptSet) -> np.ndarray:
        identity = prototype_identity(candidate.backbone, candidate.weights, run.numerics, prompts, classes)
        return cached_prototypes(
            folder, identity, lambda: compute_prototypes(tower(), prompts, classes, run.process.cores)
        )

    return {prompts.name: of(prompts) for prompts in run.prompts}


def _labels(target: Target, shard: Shard) -> np.ndarray:
    labels = read_labels(target.folder, shard)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(target.manifest.classes):
        raise IntegrityError(
            f"{target.folder}/{shard.index_name} has labels from {labels.min()} to {labels.max()}; "
            f"there are {len(target.manifest.classes)} classes.",
            fix=f"Write the shards again: fastclip shard {target.folder.name} --source DIR --overwrite",
        )
    return labels


def _count(target: Target, domain: str, candidate: Candidate, prompts: str, scored: Sequence[ScoredShard]) -> Cell:
    """The counts of one cell. Raises `IntegrityError` unless every image is counted exactly once."""
    rejected = next(each.unreadable for each in target.manifest.domains if each.name == domain)
    found = [each for each in scored if each.answers]
    ranks = [each.answers[prompts].predictions.rank for each in found]
    cell = Cell(
        dataset=target.folder.name,
        domain=domain,
        backbone=candidate.backbone.name,
        prompts=prompts,
        images=rejected + sum(each.shard.images for each in scored),
        classified=sum(len(rank) for rank in ranks),
        top1=sum(int((rank == 0).sum()) for rank in ranks),
        top5=sum(int((rank < 5).sum()) for rank in ranks),
        unreadable=rejected + sum(len(each.unreadable) for each in found),
        shards=len(scored),
        missing_shards=len(scored) - len(found),
    )
    missing = sum(each.shard.images for each in scored if not each.answers)
    if cell.images != cell.classified + cell.unreadable + missing:
        raise IntegrityError(
            f"{cell.dataset}/{domain}: {cell.images} images, but {cell.classified} classified, {cell.unreadable} "
            f"unreadable and {missing} missing.",
            fix="Report this: an image is counted twice or not at all.",
        )
    return cell


def _rejected_images(target: Target) -> Iterator[UnreadableImage]:
    """Images of the wanted domains that were rejected when the shards were written."""
    for row in read_rejected(target.folder, target.manifest):
        if row.domain in target.domains:
            yield UnreadableImage(dataset=target.folder.name, domain=row.domain, path=row.path, reason=row.reason)


def _unreadable_images(target: Target, shard: Shard, part: Part) -> list[UnreadableImage]:
    records = read_index(target.folder, shard) if part.unreadable else []
    return [
        UnreadableImage(dataset=target.folder.name, domain=shard.domain, path=records[row].path, reason=reason)
        for row, reason in part.unreadable
    ]
