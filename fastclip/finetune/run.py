"""Fine-tunings from options to weights: what is trained on what, a folder a fold, and its two published files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fastclip.data.shards.targets import Target
from fastclip.embed.processes import Process
from fastclip.errors import IntegrityError, UserError
from fastclip.evaluate.engine import Candidate, Engine
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.prototypes import find_all_prototypes
from fastclip.evaluate.setup import Setup, resolve
from fastclip.files import canonical_json, digest, digest_file, write_whole
from fastclip.finetune.checkpoint import remove_checkpoints
from fastclip.finetune.job import Job, Trained, Watch
from fastclip.finetune.judging import readable
from fastclip.finetune.loop import train
from fastclip.finetune.memory import needed_bytes
from fastclip.finetune.model import Precision
from fastclip.finetune.options import FinetuneOptions
from fastclip.finetune.samples import Samples, find_samples, hold_out
from fastclip.finetune.samples import check_classes as check_samples
from fastclip.finetune.scoring import Tuned
from fastclip.finetune.team import Team
from fastclip.models.numerics import describe_libraries, describe_machine
from fastclip.models.tower import load_text_tower
from fastclip.models.trained_weights import write_weights
from fastclip.results.cells import Epoch
from fastclip.store.training import Training, TrainingSet, classes_digest, parse_training
from fastclip.text.prompts import PromptSet
from fastclip.transfer.folds import Fold, Place, check_classes, places, probe_folds

SCHEMA = "fastclip.finetune/1"
WEIGHTS = "weights.safetensors"
FACTS = "finetune.json"
MEMORY_FOR_IMAGES = 0.25
"""Of the free memory, for decoded images."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Fine-tunings of one backbone, one a fold. Making it trains nothing, and changes nothing."""

    setup: Setup
    """Of the backbone as it is: its weights, its device, and its prototypes."""
    evaluation: EvalOptions
    options: FinetuneOptions
    folds: tuple[Fold, ...]

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
        return self.options.precision or ("bf16" if self.engine.on_gpu else "fp32")

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


@dataclass(frozen=True, kw_only=True)
class Material:
    """The images of one fold."""

    fold: Fold
    samples: Samples
    judges: Samples | None
    """Those that choose the epoch."""
    listed: int
    """Training images before some were held out."""
    unreadable: tuple[tuple[str, str], ...]
    """Images that cannot be read, with reasons: they train nothing."""
    duplicates: int
    """Tested images whose bytes are among the training images'."""


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
    plan_folds = _folds(places(setup.targets, train_on), places(setup.targets, test), one_out)
    plan = Plan(setup=setup, evaluation=evaluation, options=options, folds=plan_folds)
    _check_memory(plan)
    return plan


def _folds(train_on: Sequence[Place], test: Sequence[Place], one_out: bool) -> tuple[Fold, ...]:
    if not test and not one_out:
        raise UserError("No domain is tested.", fix="--test DATASET/DOMAIN, or --leave-one-out")
    if both := [] if one_out else [str(each) for each in test if each in train_on]:
        raise UserError(f"{both[0]} is trained and tested.", fix="Leave out one of them.")
    return probe_folds(train_on, test, leave_one_out=one_out, split=None)


def separate(names: Sequence[str]) -> list[str]:
    """DATASET/A,B as DATASET/A and DATASET/B; other names as they are."""
    found = []
    for name in names:
        dataset, slash, domains = name.partition("/")
        found += [f"{dataset}/{each}" for each in domains.split(",")] if slash else [name]
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


def find_material(plan: Plan, fold: Fold) -> Material:
    """The images of a fold, in an order that belongs to them. Raises `UserError` where there are too few."""
    listed = find_samples(plan.setup.targets, fold.train)
    tested = find_samples(plan.setup.targets, fold.test)
    unreadable: list[tuple[str, str]] = []
    everything = listed
    if plan.options.unreadable == "exclude":
        # Before any batch is formed: batches are made of the images that can be read.
        everything, found = readable(
            listed, plan.candidate.backbone.side, plan.engine.decoder, plan.engine.device, plan.engine.cores
        )
        unreadable = [(listed.named(number), reason) for number, reason in found]
    check_samples(everything)
    samples, judges = everything, None
    if plan.options.recipe.select == "held-out":
        samples, judges = hold_out(everything)
    elif plan.options.recipe.select == "test":
        judges = tested
    return Material(
        fold=fold,
        samples=samples,
        judges=judges,
        listed=len(listed),
        unreadable=tuple(unreadable),
        duplicates=int(np.isin(tested.digests, samples.digests).sum()),
    )


def run_document(plan: Plan, fold: Fold) -> dict[str, Any]:
    """Everything that decides what the weights of a fold become, but for last bits. Its digest names the run."""
    target = plan.target(fold.train[0])
    recipe = plan.options.recipe
    return {
        "recipe": recipe.to_document(),
        "backbone": plan.candidate.name,
        "architecture": plan.candidate.backbone.architecture,
        "base": plan.candidate.weights.digest,
        "precision": plan.precision,
        "train": [asdict(each) for each in _training_sets(plan, fold.train)],
        "judged_by": [asdict(each) for each in _training_sets(plan, fold.test)] if recipe.select == "test" else [],
        "templates": list(plan.prompts.templates),
        "classes": _classes_of(target),
        "unreadable": plan.options.unreadable,
    }


def _classes_of(target: Target) -> str:
    return classes_digest(dict(zip(target.manifest.classes, target.manifest.names, strict=True)))


def run_folder(plan: Plan, fold: Fold) -> Path:
    """The folder of a fold: the same for the same work."""
    train_on = "+".join(dict.fromkeys(each.domain for each in fold.train))
    words = f"{fold.train[0].dataset}-{train_on}-{plan.candidate.name}-{plan.options.recipe.name}"
    plain = "".join(letter if letter.isalnum() or letter in "._+-" else "-" for letter in words)[:100]
    return plan.options.out / f"{plain}-{digest(canonical_json(run_document(plan, fold)))[:8]}"


def train_fold(plan: Plan, material: Material, team: Team, watch: Watch) -> Tuned | None:
    """The weights of a fold: trained, gone on with, or there already. None if training was asked to stop."""
    fold, folder = material.fold, run_folder(plan, material.fold)
    run = digest(canonical_json(run_document(plan, fold)))
    there = find_finished(folder, run) if team.leads else None
    if not team.agreed(int(there is not None)):
        trained = train(make_job(plan, material, folder, run), team, watch)
        if trained is None:
            return None
        if team.leads:
            _publish(plan, material, team, folder, run, trained)
        team.wait()
    found = there or find_finished(folder, run)
    if found is None:
        raise IntegrityError(f"{folder} does not hold what was just published.", fix="Look at that disk.")
    return _tuned(plan, material, folder, found)


def make_job(plan: Plan, material: Material, folder: Path, run: str) -> Job:
    """Everything that training one fold needs, in its `folder`. `run` is the digest of its `run_document`."""
    import torch

    candidate, target = plan.candidate, plan.target(material.fold.train[0])
    prototypes = find_all_prototypes(plan.setup, target)[candidate.name][plan.prompts.name]
    tokens = None
    if plan.options.recipe.both_towers:
        tower = load_text_tower(candidate.backbone, candidate.weights, torch.device("cpu"))
        classes = plan.prompts.classes(target.manifest.classes, target.manifest.names)
        prompts = [plan.prompts.prompts(*names) for names in classes]
        tokens = torch.stack([tower.tokenize(list(texts)) for texts in zip(*prompts, strict=True)])
    return Job(
        run=run,
        folder=folder,
        recipe=plan.options.recipe,
        backbone=candidate.backbone,
        weights=candidate.weights,
        samples=material.samples,
        judges=material.judges,
        prototypes=prototypes,
        tokens=tokens,
        precision=plan.precision,
        decoder=plan.options.decoder or plan.engine.decoder,
        accumulate=plan.options.accumulate,
        checkpointing=plan.options.checkpointing,
        save_every_s=plan.options.save_every_s,
        cores=plan.engine.cores,
        keep_bytes=int(MEMORY_FOR_IMAGES * max(0, plan.engine.free_memory - plan.needed_memory)),
    )


def _publish(plan: Plan, material: Material, team: Team, folder: Path, run: str, trained: Trained) -> None:
    recipe, fold = plan.options.recipe, material.fold
    tested = ", ".join(map(str, fold.test))
    training = Training(
        recipe=recipe.name + (", fp16 round trip" if recipe.fp16_round_trip else ""),
        base=plan.candidate.weights.digest,
        backbone=plan.candidate.name,
        architecture=plan.candidate.backbone.architecture,
        domains=_training_sets(plan, fold.train),
        images=len(material.samples),
        prompts=plan.prompts.name,
        templates=plan.prompts.templates,
        classes=_classes_of(plan.target(fold.train[0])),
        selected={"held-out": "held-out images", "last": "the last epoch", "test": f"the test domain {tested}"}[
            recipe.select
        ],
        epoch=trained.chosen,
        seed=recipe.seed,
    )
    sha256 = write_weights(folder / WEIGHTS, dict(trained.tensors), training)
    threads = f"{team.size} × {plan.engine.cores} threads"
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "run": run,
        "weights": sha256,
        "training": training.to_document(),
        "recipe": recipe.to_document(),
        "precision": plan.precision,
        "epochs": [asdict(each) for each in trained.epochs],
        "listed": material.listed,
        "unreadable": [{"image": name, "reason": reason} for name, reason in material.unreadable],
        "duplicates": material.duplicates,
        "made_by": f"{describe_libraries()}; {describe_machine(plan.engine.device)}; {threads}",
    }
    document["digest"] = digest(canonical_json(document))
    write_whole(folder / FACTS, json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")
    remove_checkpoints(folder)


@dataclass(frozen=True)
class Finished:
    """What a finished run has published, proven."""

    training: Training
    epochs: tuple[Epoch, ...]
    made_by: str
    duplicates: int


def find_finished(folder: Path, run: str) -> Finished | None:
    """The published files of a run; None if it has not published them. Raises `IntegrityError` for damaged ones."""
    try:
        document = json.loads((folder / FACTS).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        document = {}
    try:
        said = document.pop("digest")
        if document["schema"] != SCHEMA or digest(canonical_json(document)) != said:
            raise ValueError("its digest differs")
        if document["run"] != run:
            raise ValueError("it is of another run")
        if digest_file(folder / WEIGHTS) != document["weights"]:
            raise ValueError(f"{WEIGHTS} is not the file that it names")
        return Finished(
            training=parse_training(document["training"]),
            epochs=tuple(Epoch(**each) for each in document["epochs"]),
            made_by=document["made_by"],
            duplicates=document["duplicates"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, FileNotFoundError) as error:
        raise IntegrityError(
            f"{folder / FACTS} cannot be used: {error}.", fix=f"Delete {folder}; the same command trains anew."
        ) from error


def _tuned(plan: Plan, material: Material, folder: Path, found: Finished) -> Tuned:
    chosen = next((each for each in found.epochs if each.number == found.training.epoch), None)
    settings = {"learning_rate": plan.options.recipe.learning_rate, "epoch": float(found.training.epoch)}
    held_out = float(chosen.images) if chosen and plan.options.recipe.select == "held-out" else 0.0
    return Tuned(
        name=f"finetuned {found.training.recipe}",
        weights=folder / WEIGHTS,
        training=found.training,
        places=material.fold.test,
        settings=settings,
        figures={"held_out": held_out} if held_out else {},
        epochs=found.epochs,
        duplicates=found.duplicates,
        made_by=found.made_by,
    )


def _training_sets(plan: Plan, domains: Sequence[Place]) -> tuple[TrainingSet, ...]:
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
