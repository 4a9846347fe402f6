"""Scoring: parts and prototypes become answers and counts. Embeds nothing, and loads torch only for new prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from fastclip.data.catalogue import DatasetCard, find_card
from fastclip.data.shards.manifest import Shard, read_rejected
from fastclip.data.shards.reader import read_index
from fastclip.data.shards.targets import Target
from fastclip.errors import IntegrityError
from fastclip.evaluate.prototypes import find_all_prototypes
from fastclip.evaluate.setup import Setup
from fastclip.features.read import read_shard, read_shard_rows
from fastclip.heads.linear import LinearHead
from fastclip.heads.scores import Head, classify
from fastclip.results.answers import ShardAnswers, align, by_domain, joined
from fastclip.results.cells import (
    ZERO_SHOT,
    Cell,
    Column,
    DatasetFacts,
    Evaluation,
    UnreadableImage,
    UsedPrompts,
    UsedRecipe,
)
from fastclip.results.patterns import with_patterns
from fastclip.storage.folders import Location
from fastclip.text.prompt_sets import PromptSet

FittedHeads: TypeAlias = Mapping[tuple[str, str, str], Mapping[str, Head]]
"""(backbone, dataset, domain) → the fitted heads that are scored there, by name."""


@dataclass(frozen=True)
class Subset:
    """Images of every domain that are asked about, by their digests, and how a reader is told."""

    name: str
    has: Callable[[np.ndarray], np.ndarray]
    """SHA-256 as hexadecimal bytes → which of them belong to it."""


@dataclass(frozen=True)
class ScoredShard:
    """The answers for one shard by column, none while its part is missing, and its unreadable images."""

    shard: Shard
    images: int
    """Those asked about."""
    answers: Mapping[Column, ShardAnswers]
    unreadable: Sequence[UnreadableImage]


def score(
    setup: Setup, fitted: FittedHeads | None = None, subset: Subset | None = None
) -> tuple[Evaluation, list[ShardAnswers]]:
    """Counts of every cell, and the answers behind them, 12 bytes each. Computes missing prototypes.

    The heads in `fitted` are scored beside zero-shot. Without a `subset`, all images are asked about.
    """
    cells: list[Cell] = []
    answers: list[ShardAnswers] = []
    duplicates: dict[str, dict[str, int]] = {}
    unreadable: dict[tuple[str, str, str], UnreadableImage] = {}  # once, however many decoders say why
    with ThreadPoolExecutor(setup.process.cores, "score") as pool:
        for target in setup.targets:
            if subset is None:
                _add(unreadable, _rejected_images(target))
            shards = list(target.shards)
            rows = dict(zip(shards, pool.map(partial(read_shard_rows, target), shards), strict=True))
            duplicates[target.name] = {domain: _duplicates(target, domain, rows) for domain in target.domains}
            prototypes = find_all_prototypes(setup, target)
            for backbone in setup.backbones:
                zero_shot = {
                    Column(backbone, ZERO_SHOT, name): LinearHead(each) for name, each in prototypes[backbone].items()
                }
                for domain in target.domains:
                    others = (fitted or {}).get((backbone, target.name, domain), {})
                    heads: dict[Column, Head] = {
                        **zero_shot,
                        **{Column(backbone, each): others[each] for each in others},
                    }
                    score_shard = partial(_score_shard, setup, target, backbone, heads, rows, subset)
                    scored = list(pool.map(score_shard, target.manifest.shards_of(domain)))
                    _add(unreadable, (image for each in scored for image in each.unreadable))
                    answers += [answer for each in scored for answer in each.answers.values()]
                    cells += [_count(target, domain, column, scored, subset) for column in heads]
    evaluation = Evaluation(
        unreadable_policy=setup.unreadable,
        datasets=tuple(
            replace(dataset_facts(target, setup.shards), duplicates=duplicates[target.name]) for target in setup.targets
        ),
        recipes=tuple(
            UsedRecipe(dataset=target.name, backbone=name, id=recipe.id, recipe=recipe)
            for target in setup.targets
            for name in setup.backbones
            for recipe in [setup.recipes[target.name, name]]
        ),
        prompts={prompts.name: _used(prompts) for prompts in setup.prompts},
        cells=tuple(cells),
        unreadable=tuple(unreadable.values()),
    )
    places = by_domain(answers).items()
    whole = ((place, {column: joined(each) for column, each in columns.items()}) for place, columns in places)
    return with_patterns(evaluation, whole), answers


def _used(prompts: PromptSet) -> UsedPrompts:
    return UsedPrompts(
        templates=prompts.templates,
        kind=prompts.kind,
        selection=prompts.selection,
        texts=sum(map(len, prompts.texts.values())),
        sha256=prompts.texts_sha256,
    )


def _duplicates(target: Target, domain: str, rows: Mapping[Shard, tuple[np.ndarray, np.ndarray]]) -> int:
    """The images of a domain whose bytes an earlier image of it has."""
    digests = [rows[shard][1] for shard in target.manifest.shards_of(domain)]
    return sum(map(len, digests)) - len(np.unique(np.concatenate(digests))) if digests else 0


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
        licence=card.licence if card else "",
        hub_id=_hub_id(card) if card else None,
    )


def _hub_id(card: DatasetCard) -> str | None:
    """OWNER/NAME of the card's copy on the Hugging Face hub."""
    addresses = (each.url for each in card.downloads if not each.by_hand and each.url.startswith("hf://datasets/"))
    return next((each.removeprefix("hf://datasets/").partition("@")[0] for each in addresses), None)


def _score_shard(
    setup: Setup,
    target: Target,
    backbone: str,
    heads: Mapping[Column, Head],
    rows: Mapping[Shard, tuple[np.ndarray, np.ndarray]],
    subset: Subset | None,
    shard: Shard,
) -> ScoredShard:
    """The answers for one shard under every head; none if its part is missing. Runs in a thread."""
    labels, digests = rows[shard]
    asked = np.flatnonzero(subset.has(digests)) if subset else np.arange(shard.images)
    features = read_shard(setup.store, setup.recipes[target.name, backbone], target, shard, labels)
    if features is None:
        return ScoredShard(shard, len(asked), {}, [])
    chosen = np.isin(features.rows, asked) if subset else slice(None)
    found = classify(features.vectors[chosen], heads, features.labels[chosen])
    answers = {
        column: ShardAnswers(
            target.folder, shard, column, asked, align(shard.images, asked, features.rows[chosen], predictions)
        )
        for column, predictions in found.items()
    }
    records = read_index(target.folder, shard) if features.unreadable else []
    unreadable = [
        UnreadableImage(dataset=target.name, domain=shard.domain, path=records[row].path, reason=reason)
        for row, reason in features.unreadable
        if row in asked
    ]
    return ScoredShard(shard, len(asked), answers, unreadable)


def _count(
    target: Target,
    domain: str,
    column: Column,
    scored: Sequence[ScoredShard],
    subset: Subset | None,
) -> Cell:
    """The counts of one cell. Raises `IntegrityError` unless every image is counted exactly once."""
    rejected = next(each.unreadable for each in target.manifest.domains if each.name == domain) if not subset else 0
    found = [each for each in scored if each.answers]
    ranks = [answers.rank[answers.classified] for each in found for answers in [each.answers[column].answers]]
    cell = Cell(
        dataset=target.name,
        domain=domain,
        backbone=column.backbone,
        prompts=column.prompts,
        head=column.head,
        sample=subset.name if subset else "",
        images=rejected + sum(each.images for each in scored),
        classified=sum(len(rank) for rank in ranks),
        top1=sum(int((rank == 0).sum()) for rank in ranks),
        top5=sum(int((rank < 5).sum()) for rank in ranks),
        unreadable=rejected + sum(len(each.unreadable) for each in found),
        shards=len(scored),
        missing_shards=len(scored) - len(found),
    )
    missing = sum(each.images for each in scored if not each.answers)
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
