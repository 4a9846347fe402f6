"""Plans: everything that can be wrong with a fine-tuning, resolved before any work is done; and the names of runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fastclip.data.shards.targets import Target, find_targets
from fastclip.destinations import check_place
from fastclip.embed.processes import Process
from fastclip.errors import UserError
from fastclip.evaluate.engine import Candidate, Engine
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import Setup, of_accelerate, resolve
from fastclip.finetune.memory import needed_bytes
from fastclip.finetune.model import Precision
from fastclip.finetune.options import FinetuneOptions, find_precision
from fastclip.storage.folders import Location
from fastclip.store.training import TrainingSet, classes_digest
from fastclip.text.prompt_sets import PromptSet
from fastclip.transfer.folds import Fold, Place, check_classes, places, probe_folds

VERSION = 1
"""Raised by hand when a change of this code moves what a training becomes: older checkpoints are not gone on with."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Fine-tunings of one backbone, one a fold. Making it trains nothing, and changes nothing."""

    setup: Setup
    """Of the backbone as it is: its weights, its device, and its prototypes."""
    evaluation: EvalOptions
    options: FinetuneOptions
    folds: tuple[Fold, ...]
    told: Precision | None = None
    """The precision that Accelerate was told."""

    @property
    def process(self) -> Process:
        """This process among those that train together."""
        return self.setup.process

    @property
    def engine(self) -> Engine:
        """The machine."""
        assert self.setup.engine, "asked for by `here`"
        return self.setup.engine

    @property
    def candidate(self) -> Candidate:
        """The backbone with its weights."""
        return self.engine.candidates[self.setup.backbones[0]]

    @property
    def prompts(self) -> PromptSet:
        """The prompts that are trained with."""
        return self.setup.prompts[0]

    @property
    def precision(self) -> Precision:
        """The precision of products; weights are fp32."""
        return self.options.precision or self.told or ("bf16" if self.engine.on_gpu else "fp32")

    @property
    def rows(self) -> int:
        """Images of one pass of one process."""
        parts = self.process.world_size * self.options.accumulate
        return -(-self.options.recipe.batch_size // parts)

    @cached_property
    def needed_memory(self) -> int:
        """Bytes that a process needs to train, about."""
        return needed_bytes(
            self.candidate.backbone,
            self.options.recipe,
            precision=self.precision,
            rows=self.rows,
            checkpointing=self.options.checkpointing,
        )

    def target(self, place: Place) -> Target:
        """The dataset of a place."""
        return next(each for each in self.setup.targets if each.name == place.dataset)


def make_plan(
    evaluation: EvalOptions, options: FinetuneOptions, train_on: Sequence[str], test: Sequence[str], *, one_out: bool
) -> Plan:
    """Resolve everything that can be wrong before any work is done. Raises `UserError`."""
    if len(evaluation.backbones) != 1:
        raise UserError("One backbone is fine-tuned at a time.", fix="-b NAME, once")
    if len(evaluation.prompts) != 1:
        raise UserError("One prompt set is trained with.", fix="--prompts SET, once")
    if evaluation.random_weights:
        raise UserError(
            "Fine-tuning weights drawn at random gives no number that means anything.",
            fix="Leave out --random-weights; fastclip bench --finetune measures the speed.",
        )
    if not train_on:
        raise UserError(
            "No training domain is named.", fix="fastclip finetune DATASET/DOMAIN --test DATASET/DOMAIN -b NAME"
        )
    setup = resolve(replace(evaluation, targets=(*train_on, *test), here=True))
    check_classes(setup.targets)
    if len(classes := setup.targets[0].manifest.classes) < 2:
        raise UserError(f"{setup.targets[0].name} has one class, {classes[0]!r}.", fix="Train on two classes or more.")
    folds = _folds(places(setup.targets, train_on), places(setup.targets, test), one_out)
    told = find_precision(of_accelerate(os.environ))
    plan = Plan(setup=setup, evaluation=evaluation, options=options, folds=folds, told=told)
    check_place(options.out / "run" / "weights.safetensors")
    _check_memory(plan)
    return plan


def _folds(train_on: Sequence[Place], test: Sequence[Place], one_out: bool) -> tuple[Fold, ...]:
    if not test and not one_out:
        raise UserError("No domain is tested.", fix="--test DATASET/DOMAIN, or --leave-one-out")
    if both := [] if one_out else [str(each) for each in test if each in train_on]:
        raise UserError(f"{both[0]} is trained and tested.", fix="Leave out one of them.")
    if one_out and len(train_on) < 2:
        raise UserError("--leave-one-out needs two domains.", fix="fastclip finetune DATASET --leave-one-out …")
    return probe_folds(train_on, test, leave_one_out=one_out, split=None)


def separate(shards: Location, names: Sequence[str]) -> list[str]:
    """DATASET/A,B as DATASET/A and DATASET/B; other names, and that of a domain `A,B`, as they are.

    Raises `UserError` for an empty name: alone, DATASET/ means all domains.
    """
    found = []
    for name in names:
        dataset, _, domains = name.partition("/")
        if "," not in domains or domains in [each.name for each in find_targets(shards, [dataset])[0].manifest.domains]:
            found.append(name)
            continue
        if "" in (parts := domains.split(",")):
            raise UserError(f"{name} has an empty name between its commas.", fix="DATASET/A,B, or DATASET for all")
        found += [f"{dataset}/{each}" for each in parts]
    return found


def _check_memory(plan: Plan) -> None:
    needed, free = plan.needed_memory, plan.engine.free_memory
    if needed > free:
        cures = [] if plan.options.checkpointing else ["--checkpointing"]
        cures += ["--accumulate 4"] if plan.options.recipe.loss == "classes" else []
        raise UserError(
            f"Training {plan.candidate.name} with {plan.rows} images a pass needs about {needed / 2**30:.1f} GiB of "
            f"memory; {free / 2**30:.1f} GiB are free.",
            fix=", or ".join([*cures, f"--batch-size {max(2, plan.options.recipe.batch_size // 4)}"]),
        )


def run_document(plan: Plan, fold: Fold, left_out: Sequence[str]) -> dict[str, Any]:
    """Everything that decides what the weights of a fold become, but for last bits. Its digest names the run.

    `left_out` are training images that cannot be read.
    """
    recipe = plan.options.recipe
    return {
        "version": VERSION,
        "recipe": recipe.to_document(),
        "backbone": plan.candidate.name,
        "architecture": plan.candidate.backbone.architecture,
        "base": plan.candidate.weights.digest,
        "precision": plan.precision,
        "decoder": plan.engine.decoder,
        "train": [asdict(each) for each in training_sets(plan, fold.train)],
        "judged_by": [asdict(each) for each in training_sets(plan, fold.test)] if recipe.select == "test" else [],
        "templates": list(plan.prompts.identity),
        "classes": classes_of(plan.target(fold.train[0])),
        "left_out": list(left_out),
    }


def classes_of(target: Target) -> str:
    """The digest of a dataset's classes and their readable names."""
    return classes_digest(dict(zip(target.manifest.classes, target.manifest.names, strict=True)))


def run_folder(plan: Plan, fold: Fold, run: str) -> Path:
    """The folder of a fold whose `run_document` has the digest `run`: the same for the same work."""
    train_on = "+".join(dict.fromkeys(each.domain for each in fold.train))
    words = f"{fold.train[0].dataset}-{train_on}-{plan.candidate.name}-{plan.options.recipe.name}"
    plain = "".join(letter if letter.isalnum() or letter in "._+-" else "-" for letter in words)[:100]
    return plan.options.out / f"{plain}-{run[:8]}"


def training_sets(plan: Plan, domains: Sequence[Place]) -> tuple[TrainingSet, ...]:
    """Domains as records of trainings name them."""
    found = []
    for place in domains:
        manifest = plan.target(place).manifest
        domain = next(each for each in manifest.domains if each.name == place.domain)
        found.append(
            TrainingSet(
                dataset=place.dataset, domain=place.domain, fingerprint=domain.fingerprint, images=domain.images
            )
        )
    return tuple(found)
