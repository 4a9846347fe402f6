"""Evaluation: embed what is missing, score every prompt set, count. Every process embeds; the first one scores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastclip.data.catalogue import find_card
from fastclip.data.shards.manifest import Manifest, Shard, list_datasets, read_manifest, read_rejected
from fastclip.data.shards.reader import read_index
from fastclip.data.storage.folders import Folder, Location, open_folder
from fastclip.embed.loop import EmbeddingLoop, StageSeconds
from fastclip.embed.plan import Unit, shares, work_order
from fastclip.embed.processes import Process, find_process
from fastclip.embed.store import Part, PartStore, part_identity, part_key
from fastclip.errors import IntegrityError, UserError
from fastclip.files import digest
from fastclip.models.backbones import Backbone, find_backbone
from fastclip.models.numerics import describe_numerics, find_device, find_precision, fix_numerics
from fastclip.models.tower import TextTower, load_image_tower, load_text_tower
from fastclip.models.weights import Weights, find_weights, random_weights
from fastclip.pixels.decoder import DECODERS, decoder_spec, make_decoder
from fastclip.report.cells import POLICIES, BackboneFacts, Cell, DatasetFacts, Evaluation, UnreadableImage
from fastclip.score.predictions import ShardPredictions
from fastclip.score.zero_shot import classify
from fastclip.text.prompts import PromptSet, find_prompt_set
from fastclip.text.prototypes import cached_prototypes, compute_prototypes, prototype_identity

IDENTITY = {"changes": "identity"}
"""The option can change an embedding: another value reuses no part."""

RUNTIME = {"changes": "runtime"}
"""The option changes no embedding: which cells are asked for, how fast, where, and how they are shown."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What to evaluate and how. `None` lets fastclip choose for this machine."""

    targets: tuple[str, ...] = field(default=(), metadata=RUNTIME)
    """DATASET or DATASET/DOMAIN; none means everything that is sharded."""
    backbones: tuple[str, ...] = field(metadata=IDENTITY)
    prompts: tuple[str, ...] = field(default=("transferlearning",), metadata=RUNTIME)
    weights: Mapping[str, Path] = field(default_factory=dict, metadata=IDENTITY)
    """Backbone → weights file, for those that are not to be looked for."""
    random_weights: bool = field(default=False, metadata=IDENTITY)
    precision: str | None = field(default=None, metadata=IDENTITY)
    decoder: str | None = field(default=None, metadata=IDENTITY)
    batch_size: int | None = field(default=None, metadata=IDENTITY)
    """Images a forward pass, short batches padded to it: it picks kernels, and they move the last bits."""
    device: str | None = field(default=None, metadata=IDENTITY)
    workers: int | None = field(default=None, metadata=RUNTIME)
    """Threads that decode and embed."""
    shards: str | Path = field(default="shards", metadata=RUNTIME)
    """A folder, or an address: https, s3, gs, hf."""
    store: Path = field(default=Path("embeddings"), metadata=RUNTIME)
    unreadable: str = field(default="stop", metadata=RUNTIME)

    def __post_init__(self) -> None:
        if not self.backbones:
            raise UserError("No backbone is chosen.", fix="-b ViT-B/32 (repeat it for more), or --all-backbones")
        if self.random_weights and self.weights:
            raise UserError("Weights cannot be random and from a file.", fix="Leave out --random-weights or --weights.")
        if self.unreadable not in POLICIES:
            raise UserError(f"There is no policy {self.unreadable!r}.", fix=f"--unreadable {' | '.join(POLICIES)}")
        if self.decoder not in (None, *DECODERS):
            raise UserError(f"There is no decoder {self.decoder!r}.", fix=f"--decoder {' | '.join(DECODERS)}")
        for name in ("batch_size", "workers"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {number}.", fix="Leave it out.")


@dataclass(frozen=True)
class Candidate:
    """A backbone as this run uses it."""

    backbone: Backbone
    weights: Weights
    facts: BackboneFacts
    recipe: Mapping[str, Any]
    """All of its parts' identity but the shard."""


@dataclass(frozen=True)
class Target:
    """A dataset, and those of its domains that are asked for."""

    folder: Folder
    manifest: Manifest
    domains: tuple[str, ...]

    @property
    def shards(self) -> Iterator[Shard]:
        """The shards of the wanted domains."""
        return (shard for shard in self.manifest.shards if shard.domain in self.domains)


@dataclass(frozen=True)
class ScoredShard:
    """The answers for one shard by prompt set, none while its part is missing, and its unreadable images."""

    shard: Shard
    answers: Mapping[str, ShardPredictions]
    unreadable: Sequence[UnreadableImage]


class Run:
    """One evaluation by one process: options resolved against this machine, data and weights found."""

    def __init__(self, options: EvalOptions, environment: Mapping[str, str] = os.environ) -> None:
        """Resolve everything that can be wrong before any work is done. Raises `UserError`."""
        self.options = options
        self.process: Process = find_process(environment)
        self.device = find_device(options.device, self.process.local_rank)
        fix_numerics(self.device)
        self.precision = find_precision(options.precision, self.device, environment)
        on_gpu = self.device.type == "cuda"
        self.decoder = options.decoder or ("dali" if on_gpu else "torchvision")
        self.batch_size = options.batch_size or (256 if on_gpu else 32)
        self.workers = options.workers or (3 if on_gpu else self.process.cores)
        self.targets = find_targets(options.shards, options.targets)
        self.prompts = _distinct([find_prompt_set(name) for name in options.prompts])
        self.numerics = describe_numerics(self.device)
        spec = decoder_spec(self.decoder, self.device)
        backbones = dict.fromkeys(map(find_backbone, options.backbones))
        given = {find_backbone(name): path for name, path in options.weights.items()}
        if unused := given.keys() - backbones.keys():
            raise UserError(
                f"--weights names {min(b.name for b in unused)}, which is not evaluated.", fix="Add -b NAME."
            )
        self.candidates = [self._candidate(backbone, given.get(backbone), spec) for backbone in backbones]
        self.store = PartStore(options.store)
        self.seconds = StageSeconds()

    def units(self) -> list[Unit]:
        """Every shard of every target, with the keys of its parts."""
        return [
            Unit(target.folder, shard, {c.backbone.name: self._key(c, shard) for c in self.candidates})
            for target in self.targets
            for shard in target.shards
        ]

    def _is_missing(self, unit: Unit) -> bool:
        return not all(self.store.has(key) for key in unit.keys.values())

    def share_images(self) -> int:
        """Images that this process's own share still owes."""
        share = shares(self.units(), self.process.world_size)[self.process.rank]
        return sum(unit.shard.images for unit in share if self._is_missing(unit))

    def embed(self, on_images: Callable[[int], None] = lambda images: None) -> None:
        """Publish every missing part: this process's share first, then whatever the others have not published yet."""
        units = self.units()
        owed = [c for c in self.candidates if any(not self.store.has(unit.keys[c.backbone.name]) for unit in units)]
        if not owed:
            return
        towers = {c.backbone.name: load_image_tower(c.backbone, c.weights, self.precision, self.device) for c in owed}
        sides = sorted({tower.side for tower in towers.values()})
        loop = EmbeddingLoop(
            towers,
            recipes={c.backbone.name: c.recipe for c in owed},
            make_decoder=partial(make_decoder, self.decoder, sides, self.batch_size, self.device, self._decode_threads),
            store=self.store,
            batch_size=self.batch_size,
            workers=self.workers,
            storage=torch.float32 if self.precision == "fp32" else torch.float16,
            on_images=on_images,
        )
        loop.run(work_order(units, self.process.rank, self.process.world_size))
        self.seconds = loop.seconds

    def score(self, keep_predictions: bool = False) -> tuple[Evaluation, list[ShardPredictions]]:
        """Counts of every cell and, if they are to be kept, the answers behind them. Computes missing prototypes."""
        cells: list[Cell] = []
        kept: list[ShardPredictions] = []
        unreadable: dict[UnreadableImage, None] = {}
        for target in self.targets:
            unreadable.update(dict.fromkeys(_rejected_images(target)))
            labels = {shard.name: _labels(target, shard) for shard in target.shards}
            for candidate in self.candidates:
                prototypes = self._prototypes(candidate, target)
                for domain in target.domains:
                    scored = [
                        self._score_shard(target, shard, candidate, prototypes, labels[shard.name])
                        for shard in target.manifest.shards_of(domain)
                    ]
                    unreadable.update({image: None for each in scored for image in each.unreadable})
                    kept += [answer for each in scored for answer in each.answers.values() if keep_predictions]
                    cells += [_count(target, domain, candidate, prompts, scored) for prompts in prototypes]
        evaluation = Evaluation(
            unreadable_policy=self.options.unreadable,
            datasets=tuple(_dataset_facts(target, self.options.shards) for target in self.targets),
            backbones=tuple(candidate.facts for candidate in self.candidates),
            prompts={prompts.name: prompts.templates for prompts in self.prompts},
            cells=tuple(cells),
            unreadable=tuple(unreadable),
        )
        return evaluation, kept

    def _score_shard(
        self,
        target: Target,
        shard: Shard,
        candidate: Candidate,
        prototypes: Mapping[str, np.ndarray],
        labels: np.ndarray,
    ) -> ScoredShard:
        """The answers for one shard under every prompt set; none if its part is missing."""
        part = self.store.read(self._key(candidate, shard))
        if part is None:
            return ScoredShard(shard, {}, [])
        if len(part.embeddings) != shard.images:
            raise IntegrityError(
                f"{shard.name} has {shard.images} images, its part {len(part.embeddings)} embeddings.",
                fix=f"Delete {self.store.folder}; the next run makes it again.",
            )
        rows = np.setdiff1d(np.arange(shard.images), [row for row, _ in part.unreadable])
        answers = {
            prompts: ShardPredictions(
                target.folder,
                shard,
                candidate.backbone.name,
                prompts,
                rows,
                classify(part.embeddings[rows], vectors, labels[rows]),
            )
            for prompts, vectors in prototypes.items()
        }
        return ScoredShard(shard, answers, _unreadable_images(target, shard, part))

    @property
    def _decode_threads(self) -> int:
        return max(1, self.process.cores // self.workers)

    def _candidate(self, backbone: Backbone, given: Path | None, decoder: str) -> Candidate:
        weights = random_weights(backbone) if self.options.random_weights else find_weights(backbone, given)
        facts = BackboneFacts(
            name=backbone.name,
            weights=weights.digest,
            random_weights=weights.random,
            precision=self.precision,
            decoder=decoder,
            batch_size=self.batch_size,
            numerics=self.numerics,
        )
        recipe = {
            "weights": weights.digest,
            "architecture": backbone.architecture,
            "preprocessing": [
                "shorter side bicubic, antialiased; centre crop",
                backbone.side,
                backbone.mean,
                backbone.std,
            ],
            "decoder": decoder,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "numerics": self.numerics,
        }
        return Candidate(backbone, weights, facts, recipe)

    def _key(self, candidate: Candidate, shard: Shard) -> str:
        return part_key(part_identity(candidate.recipe, shard))

    def _prototypes(self, candidate: Candidate, target: Target) -> dict[str, np.ndarray]:
        """Prototypes of a dataset's classes by prompt set. The text tower is loaded once, and only if it is needed."""
        classes = list(zip(target.manifest.classes, target.manifest.names, strict=True))
        folder = self.options.store / "prototypes"

        @cache
        def tower() -> TextTower:
            return load_text_tower(candidate.backbone, candidate.weights, self.device)

        def of(prompts: PromptSet) -> np.ndarray:
            identity = prototype_identity(candidate.backbone, candidate.weights, self.numerics, prompts, classes)
            return cached_prototypes(
                folder, identity, lambda: compute_prototypes(tower(), prompts, classes, self.process.cores)
            )

        return {prompts.name: of(prompts) for prompts in self.prompts}


def find_targets(location: Location, names: Sequence[str]) -> list[Target]:
    """The datasets at `location` called DATASET or DATASET/DOMAIN; without names, all that are there."""
    shards = open_folder(location)
    wanted: dict[str, list[str]] = {}
    for name in names or list_datasets(shards):
        dataset, _, domain = name.partition("/")
        wanted.setdefault(dataset, []).append(domain)
    if not wanted:
        raise UserError(f"{shards} holds no sharded dataset.", fix="fastclip shard NAME --source DIR, or fastclip demo")
    return [_target(shards.child(dataset), domains) for dataset, domains in wanted.items()]


def _target(folder: Folder, domains: list[str]) -> Target:
    manifest = read_manifest(folder)
    known = [domain.name for domain in manifest.domains]
    for domain in domains:
        if domain and domain not in known:
            raise UserError(
                f"{manifest.dataset} has no domain {domain!r}.", fix=f"Choose from {', '.join(known)}, or leave it out."
            )
    return Target(folder, manifest, tuple(name for name in known if "" in domains or name in domains))


def _dataset_facts(target: Target, shards: Location) -> DatasetFacts:
    manifest = target.manifest
    card = find_card(target.folder.name, shards)
    return DatasetFacts(
        name=target.folder.name,
        title=manifest.title,
        variant=manifest.variant,
        protocol=manifest.protocol,
        manifest_sha256=digest(manifest.to_json()),
        fingerprints={domain.name: domain.fingerprint for domain in manifest.domains if domain.name in target.domains},
        has_variants=card is not None and bool(card.variants),
    )


def _distinct(prompts: list[PromptSet]) -> list[PromptSet]:
    by_name: dict[str, PromptSet] = {}
    for each in prompts:
        if by_name.setdefault(each.name, each) != each:
            raise UserError(f"Two prompt sets are called {each.name!r}.", fix="Rename the file.")
    return list(by_name.values())


def _labels(target: Target, shard: Shard) -> np.ndarray:
    return np.array([record.label for record in read_index(target.folder, shard)], np.int64)


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
