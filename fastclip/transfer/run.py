"""Probes and adaptation: reads features, fits heads, and scores them beside zero-shot by the same counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fastclip.data.shards.targets import Target
from fastclip.errors import IncompleteError
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.score import Subset, score
from fastclip.evaluate.setup import Setup, resolve
from fastclip.files import digest
from fastclip.heads.head_files import seal_head
from fastclip.heads.scores import Head
from fastclip.results.answers import ShardAnswers
from fastclip.results.cells import Evaluation, UsedHead
from fastclip.transfer.fitting import FittedHead, fit_all, steps
from fastclip.transfer.folds import Fold, Place, check_classes
from fastclip.transfer.jobs import Job, device_of, on_device
from fastclip.transfer.material import read_material
from fastclip.transfer.splits import trains


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The heads to be fitted for every backbone, and where each is scored."""

    setup: Setup
    folds: tuple[Fold, ...]
    jobs: tuple[Job, ...]
    split: float | None = None
    device: str | None = None
    """A device of PyTorch's for logistic regression; None for NumPy."""

    @property
    def steps(self) -> int:
        """How often `run` calls `on_step`."""
        return steps(self.jobs) * len(self.setup.backbones)

    @property
    def may_use_gpu(self) -> bool:
        """Whether a GPU takes part in any of the fits: in those of logistic regression."""
        return any(device_of(on_device(job.method, "cuda")) for job in self.jobs)

    @property
    def tested(self) -> tuple[Place, ...]:
        """Every domain that is scored, in the order of the folds."""
        return tuple(dict.fromkeys(place for fold in self.folds for place in fold.test))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The heads of a plan, the counts of them and of zero-shot, and the answers behind the counts."""

    heads: Mapping[str, Sequence[FittedHead]]
    """By backbone, in the order of the jobs."""
    evaluation: Evaluation
    answers: Sequence[ShardAnswers]


def stored(options: EvalOptions) -> Setup:
    """The setup of work on embeddings that are there, whose datasets have the same classes. Embeds nothing.

    Raises `IncompleteError` for embeddings that are missing, and `UserError` for classes that differ.
    """
    setup = resolve(options, only_stored=True, one_recipe=True)
    check_classes(setup.targets)
    return setup


def run(plan: Plan, on_step: Callable[[], None] = lambda: None) -> Outcome:
    """Fit every head, and count its answers and those of zero-shot. `on_step` is called in threads: see `steps`.

    Raises `IncompleteError` if embeddings are lost meanwhile.
    """
    setup = plan.setup
    jobs = [replace(job, method=on_device(job.method, plan.device)) for job in plan.jobs]
    heads: dict[str, list[FittedHead]] = {}
    for backbone in setup.backbones:  # one after the other: the features of all would take too much memory
        material = read_material(setup, backbone, plan.folds, plan.split)
        heads[backbone] = fit_all(material, jobs, setup.process.cores, on_step)
    tested = replace(setup, targets=tuple(_tested_targets(setup.targets, plan.tested)))
    evaluation, answers = score(tested, _scored(heads), _subset(plan.split))
    for cell in evaluation.cells:
        if cell.missing_shards:  # a part that was there when the work began
            raise IncompleteError(
                f"The embeddings of {cell.dataset}/{cell.domain} by {cell.backbone} are missing or were damaged.",
                fix=f"fastclip eval {cell.dataset} -b {cell.backbone} makes them again",
            )
    return Outcome(heads=heads, evaluation=replace(evaluation, heads=_used(heads)), answers=answers)


def _tested_targets(targets: Sequence[Target], tested: Sequence[Place]) -> list[Target]:
    found = []
    for target in targets:
        domains = tuple(each for each in target.domains if Place(target.name, each) in tested)
        found += [replace(target, domains=domains)] if domains else []
    return found


def _scored(heads: Mapping[str, Sequence[FittedHead]]) -> dict[tuple[str, str, str], dict[str, Head]]:
    found: dict[tuple[str, str, str], dict[str, Head]] = {}
    for backbone, fitted in heads.items():
        for each in fitted:
            for place in each.job.fold.test:
                heads_there = found.setdefault((backbone, place.dataset, place.domain), {})
                heads_there[each.name] = each.head
                heads_there.update({f"{each.name}, {word}": head for word, head in each.others.items()})
    return found


def _used(heads: Mapping[str, Sequence[FittedHead]]) -> tuple[UsedHead, ...]:
    found = []
    for fitted in heads.values():
        for each in fitted:
            sha256 = digest(seal_head(each.head, each.facts))
            for dataset in dict.fromkeys(place.dataset for place in each.job.fold.test):
                domains = tuple(place.domain for place in each.job.fold.test if place.dataset == dataset)
                found.append(
                    UsedHead(
                        name=each.name,
                        dataset=dataset,
                        domains=domains,
                        sha256=sha256,
                        facts=each.facts,
                        transductive=each.job.inputs.target,
                    )
                )
    return tuple(found)


def _subset(split: float | None) -> Subset | None:
    if split is None:
        return None

    def has(digests: np.ndarray) -> np.ndarray:
        return ~trains(digests, split)

    return Subset(f"the {100 * (1 - split):.3g}% held out by hash", has)
