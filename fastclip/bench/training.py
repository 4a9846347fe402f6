"""The speed of fine-tuning: decoding and the step side by side, and both together, by the very loop that trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fastclip.bench.records import Measurement, measurement
from fastclip.bench.stages import peak_gib
from fastclip.embed.processes import Process
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import resolve
from fastclip.finetune.batches import Batches
from fastclip.finetune.job import Job, Progress, Watch
from fastclip.finetune.judging import loader_of
from fastclip.finetune.learner import Learner
from fastclip.finetune.loop import train, training_numerics
from fastclip.finetune.material import Material
from fastclip.finetune.options import FinetuneOptions
from fastclip.finetune.plan import Plan
from fastclip.finetune.run import make_job
from fastclip.finetune.samples import find_samples
from fastclip.finetune.team import Team
from fastclip.transfer.folds import Fold, Place

STEPS = 8
"""Steps that are measured."""
WARM_UP = 2
"""Steps that are not counted."""


@dataclass(frozen=True)
class TrainingBench:
    """Images per second of decoding alone, of the step alone on images that are there, and of the training loop."""

    records: tuple[Measurement, ...]
    decode: float
    step: float
    together: float
    limit: float
    """The most that `together` could be: on a GPU the slower of the two; on a CPU, whose cores do both, what is left
    when their seconds add up."""
    settings: dict[str, str]


def bench_training(
    evaluation: EvalOptions,
    options: FinetuneOptions,
    steps: int,
    rounds: int,
    scratch: Path,
    on_stage: Callable[[str], object] = lambda name: None,
) -> TrainingBench:
    """Measure `steps` steps on the first images of the targets, `rounds` times; the median counts."""
    job, device = bench_job(evaluation, options, steps + WARM_UP, scratch)
    team = Team(Process(), device)
    settings = {
        "program": "fastclip bench --finetune",
        "backbone": job.backbone.name,
        "recipe": job.recipe.name,
        "device": device.type,
        "precision": job.precision,
        "batch": str(min(job.recipe.batch_size, len(job.samples))),
        "threads": str(job.cores),
        "decoder": job.decoder,
        "crop": str(job.recipe.crop),
        "checkpointing": "on" if job.checkpointing else "off",
    }
    on_stage("decoding")
    images, decode_s = _decode(job, device, rounds)
    on_stage("the step")
    step_s = _step(job, team, rounds)
    on_stage("both")
    # A folder each: in the same one the second training would have nothing left to do.
    together_s = [_together(replace(job, folder=scratch / f"run{number}"), team) for number in range(rounds)]
    timed = {"decode": decode_s, "step": step_s, "together": together_s}
    records = tuple(
        measurement(f"finetune {what}", images, seconds, settings, peak_gib(device)) for what, seconds in timed.items()
    )
    decode, step, together = (each.rate for each in records)
    limit = min(decode, step) if device.type == "cuda" else 1 / (1 / decode + 1 / step)
    return TrainingBench(records, decode, step, together, limit, settings)


def bench_job(evaluation: EvalOptions, options: FinetuneOptions, steps: int, scratch: Path) -> tuple[Job, torch.device]:
    """The training of one epoch of so many steps on the first images of the targets, with its device."""
    setup = resolve(replace(evaluation, here=True, store=scratch / "store"))
    places = tuple(Place(target.name, domain) for target in setup.targets for domain in target.domains)
    recipe = replace(options.recipe, epochs=1, select="last")
    fold = Fold(places, ())
    plan = Plan(
        setup=setup, evaluation=evaluation, options=replace(options, recipe=recipe, save_every_s=1e9), folds=(fold,)
    )
    samples = find_samples(setup.targets, places)
    wanted = steps * recipe.batch_size
    rows = np.resize(np.arange(len(samples)), wanted)  # few images are taken over and over
    material = Material(
        run="0" * 64,
        folder=scratch / "run",
        rejected=0,
        fold=fold,
        samples=samples.take(rows),
        judges=None,
        listed=wanted,
        unreadable=(),
        duplicates=0,
    )
    job = make_job(plan, material)
    return replace(job, keep_bytes=0), plan.engine.device


def _decode(job: Job, device: torch.device, rounds: int) -> tuple[int, list[float]]:
    batches = Batches(job.samples, job.recipe.batch_size, job.recipe.seed)
    steps = range(WARM_UP, batches.steps_per_epoch)
    seconds = []
    with training_numerics(device, job.cores), loader_of(job, job.samples, device, random_views=True) as loader:
        loader.load(batches.batch(0), 0)
        for _ in range(rounds):
            started = time.perf_counter()
            for _ in loader.ahead((batches.batch(step), 0) for step in steps):
                _wait(device)
            seconds.append(time.perf_counter() - started)
    return sum(len(batches.batch(step)) for step in steps), seconds


def _step(job: Job, team: Team, rounds: int) -> list[float]:
    batches = Batches(job.samples, job.recipe.batch_size, job.recipe.seed)
    seconds = []
    with training_numerics(team.device, job.cores):
        learner = Learner(job, team, batches.steps_per_epoch)
        with loader_of(job, job.samples, team.device, random_views=True) as loader:
            loaded = loader.load(batches.batch(0), 0)
        for number in range(WARM_UP):
            learner.step(number, 0, batches.batch(0), loaded)()
        for _ in range(rounds):
            started = time.perf_counter()
            for number in range(WARM_UP, batches.steps_per_epoch):
                loss = learner.step(number, 0, batches.batch(0), loaded)
            loss()
            seconds.append(time.perf_counter() - started)
    return seconds


def _together(job: Job, team: Team) -> float:
    """Seconds from the end of the warm-up to that of the last step."""
    times: list[float] = []

    def on_step(progress: Progress) -> None:
        times.append(time.perf_counter())

    assert train(job, team, Watch(on_step=on_step))
    return times[-1] - times[WARM_UP - 1]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
