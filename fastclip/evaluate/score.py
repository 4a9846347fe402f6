"""Scoring: parts and prototypes become answers and counts. Embeds nothing, and loads torch only for new prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from fastclip.data.catalogue import find_card
from fastclip.data.shards.manifest import Shard, read_rejected
from fastclip.data.shards.reader import read_index
from fastclip.data.shards.targets import Target
from fastclip.errors import IntegrityError
from fastclip.evaluate.prototypes import find_all_prototypes
from fastclip.evaluate.setup import Setup
from fastclip.features.read import read_shard, read_shard_labels
from fastclip.heads.linear import LinearHead
from fastclip.heads.scores import Head, classify
from fastclip.results.cells import Cell, DatasetFacts, Evaluation, UnreadableImage, UsedRecipe
from fastclip.results.predictions import ShardPredictions
from fastclip.storage.folders import Location


@dataclass(frozen=True)
class ScoredShard:
    """The answers for one shard by prompt set, none while its part is missing, and its unreadable images."""

    shard: Shard
    answers: Mapping[str, ShardPredictions]
    unreadable: Sequence[UnreadableImage]


def score(setup: Setup, keep_predictions: bool = False) -> tuple[Evaluation, list[ShardPredictions]]:
    """Counts of every cell and, if they are to be kept, the answers behind them. Computes missing prototypes."""
    cells: list[Cell] = []
    kept: list[ShardPredictions] = []
    unreadable: dict[tuple[str, str, str], UnreadableImage] = {}  # once, however many decoders say why
    with ThreadPoolExecutor(setup.process.cores, "score") as pool:
        for target in setup.targets:
            _add(unreadable, _rejected_images(target))
            shards = list(target.shards)
            labels = dict(zip(shards, pool.map(partial(read_shard_labels, target), shards), strict=True))
            heads = {
                backbone: {name: LinearHead(vectors) for name, vectors in prototypes.items()}
                for backbone, prototypes in find_all_prototypes(setup, target).items()
            }
            for backbone in setup.backbones:
                score_shard = partial(_score_shard, setup, target, backbone, heads[backbone], labels)
                for domain in target.domains:
                    scored = list(pool.map(score_shard, target.manifest.shards_of(domain)))
                    _add(unreadable, (image for each in scored for image in each.unreadable))
                    kept += [answer for each in scored for answer in each.answers.values() if keep_predictions]
                    cells += [_count(target, domain, backbone, prompts.name, scored) for prompts in setup.prompts]
    evaluation = Evaluation(
        unreadable_policy=setup.unreadable,
        datasets=tuple(dataset_facts(target, setup.shards) for target in setup.targets),
        recipes=tuple(
            UsedRecipe(dataset=target.name, backbone=name, id=recipe.id, recipe=recipe)
            for target in setup.targets
            for name in setup.backbones
            for recipe in [setup.recipes[target.name, name]]
        ),
        prompts={prompts.name: prompts.templates for prompts in setup.prompts},
        cells=tuple(cells),
        unreadable=tuple(unreadable.values()),
    )
    return evaluation, kept


def _add(known: dict[tuple[str, str, str], UnreadableImage], images: Iterable[UnreadableImage]) -> None:
    for each in images:
        known.setdefault((each.dataset, each.domain, each.path), each)


def dataset_facts(target: Target, shards: Location) -> DatasetFacts:
    """The facts that a record gives of a target's images; `shards` is where the user's own cards are."""
    manifest = target.manifest
    card = find_card(target.name, shards)
    return DatasetFacts(
        name=target.name,
        title=manifest.title,
        variant=manifest.variant,
        protocol=manifest.protocol,
        manifest_sha256=target.manifest_sha256,
        names=dict(zip(manifest.classes, manifest.names, strict=True)),
        fingerprints={domain.name: domain.fingerprint for domain in manifest.domains if domain.name in target.domains},
        has_variants=card is not None and bool(card.variants),
    )


def _score_shard(
    setup: Setup,
    target: Target,
    backbone: str,
    heads: Mapping[str, Head],
    labels: Mapping[Shard, np.ndarray],
    shard: Shard,
) -> ScoredShard:
    """The answers for one shard under every prompt set; none if its part is missing. Runs in a thread."""
    features = read_shard(setup.store, setup.recipes[target.name, backbone], target, shard, labels[shard])
    if features is None:
        return ScoredShard(shard, {}, [])
    found = classify(features.vectors, heads, features.labels)
    answers = {
        prompts: ShardPredictions(target.folder, shard, backbone, prompts, features.rows, predictions)
        for prompts, predictions in found.items()
    }
    records = read_index(target.folder, shard) if features.unreadable else []
    unreadable = [
        UnreadableImage(dataset=target.name, domain=shard.domain, path=records[row].path, reason=reason)
        for row, reason in features.unreadable
    ]
    return ScoredShard(shard, answers, unreadable)


def _count(target: Target, domain: str, backbone: str, prompts: str, scored: Sequence[ScoredShard]) -> Cell:
    """The counts of one cell. Raises `IntegrityError` unless every image is counted exactly once."""
    rejected = next(each.unreadable for each in target.manifest.domains if each.name == domain)
    found = [each for each in scored if each.answers]
    ranks = [each.answers[prompts].predictions.rank for each in found]
    cell = Cell(
        dataset=target.name,
        domain=domain,
        backbone=backbone,
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
            yield UnreadableImage(dataset=target.name, domain=row.domain, path=row.path, reason=row.reason)
