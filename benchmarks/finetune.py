"""Fine-tuning: fastclip beside the same loop in plain PyTorch that is fed from memory, in turns in one process.

    .venv/bin/python benchmarks/finetune.py --photos DIR [--backbones tiny RN50 ViT-B/32] [--steps 6] [--batch 32]
        [--precision fp32] [--device cpu] [--rounds 5]

Both train the same backbone, with random weights, on the same batches by cross-entropy against the same prototypes:
AdamW, gradients clipped at 1, a thread a core. The plain loop has cropped images in memory.
fastclip's reads shards: with the random crops of the recipe `ce`, which it decodes for each step, and without, in its
second epoch, whose images it keeps. Seconds are of the steps, without loading and the first two of them. `arithmetic`
is the share of the plain loop's step that is forward, backward and optimiser, without picking a batch and normalising.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from common import copy_photos, keep, parser, shard_folder
from torch.nn import functional

from fastclip.bench.records import Measurement, measurement
from fastclip.bench.stages import peak_gib
from fastclip.bench.training import WARM_UP, bench_job
from fastclip.embed.processes import Process
from fastclip.evaluate.options import EvalOptions
from fastclip.finetune.batches import Batches
from fastclip.finetune.job import Job, Progress, Watch
from fastclip.finetune.judging import loader_of
from fastclip.finetune.loop import train, training_numerics
from fastclip.finetune.options import FinetuneOptions
from fastclip.finetune.team import Team
from fastclip.finetune.training_recipes import find_training_recipe
from fastclip.machine import keep_freed_memory
from fastclip.models.tower import load_model


class Plain:
    """A training loop as one would write it, with all images in memory."""

    def __init__(self, job: Job, device: torch.device) -> None:
        with loader_of(job, job.samples, device) as loader:
            loaded = loader.load(torch.arange(len(job.samples)).numpy(), 0)
        self.crops, self.labels, self.job, self.device = loaded.crops, loaded.labels, job, device
        self.model = load_model(job.backbone, job.weights).float().to(device).eval()
        self.visual = self.model.visual.requires_grad_(True)
        self.scale = self.model.logit_scale.exp()
        values = list(self.visual.parameters())
        groups = [{"params": [each for each in values if each.ndim >= 2], "weight_decay": 0.1},
                  {"params": [each for each in values if each.ndim < 2], "weight_decay": 0.0}]  # fmt: skip
        self.values, self.optimizer = values, torch.optim.AdamW(groups, lr=1e-5)
        self.mean = torch.tensor(job.backbone.mean, device=device).view(3, 1, 1)
        self.std = torch.tensor(job.backbone.std, device=device).view(3, 1, 1)
        self.prototypes = torch.from_numpy(job.prototypes).to(device)

    def steps(self) -> Iterator[float]:
        """The seconds of each step that are forward, backward and optimiser."""
        batches = Batches(self.job.samples, self.job.recipe.batch_size, 0)
        for step in range(batches.steps_per_epoch):
            rows = torch.from_numpy(batches.batch(step)).to(self.device)
            pixels = (self.crops[rows].float() / 255 - self.mean) / self.std
            started = time.perf_counter()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.job.precision == "bf16"):
                features = self.visual(pixels)
            logits = self.scale * functional.normalize(features.float(), dim=-1) @ self.prototypes.T
            functional.cross_entropy(logits, self.labels[rows]).backward()
            torch.nn.utils.clip_grad_norm_(self.values, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            yield time.perf_counter() - started

    def run(self) -> tuple[float, float]:
        """Seconds of the steps after the warm-up, and those of their arithmetic."""
        arithmetic, begun = 0.0, 0.0
        with training_numerics(self.device, self.job.cores):
            for step, seconds in enumerate(self.steps()):
                arithmetic += seconds if step >= WARM_UP else 0
                if step == WARM_UP - 1:
                    begun = time.perf_counter()
            return time.perf_counter() - begun, arithmetic


def ours(job: Job, team: Team) -> float:
    """Seconds of the steps of the last epoch, as `Plain.run` counts them."""
    times: dict[int, float] = {}

    def on_step(progress: Progress) -> None:
        times[progress.step] = time.perf_counter()

    assert train(job, team, Watch(on_step=on_step))
    steps = -(-len(job.samples) // job.recipe.batch_size)
    last = max(times)
    return times[last] - times[last - steps + WARM_UP]


def measured(options: EvalOptions, precision: str, batch: int, steps: int, rounds: int) -> list[Measurement]:
    """The three ways, in turns."""
    recipe = find_training_recipe("ce").changed(batch_size=batch)
    training = FinetuneOptions(recipe=recipe, precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        job, device = bench_job(options, training, steps + WARM_UP, Path(folder))
        team = Team(Process(), device)
        plain = Plain(job, device)
        kept = replace(job, recipe=replace(job.recipe, crop=None, epochs=2), keep_bytes=1 << 32)
        found: dict[str, list[float]] = {"plain loop from memory": [], "fastclip": [], "fastclip, images kept": []}
        arithmetic = []
        for number in range(rounds + 1):  # the first round is thrown away
            whole, alone = plain.run()
            runs = [whole, ours(replace(job, folder=Path(folder) / f"a{number}"), team),
                    ours(replace(kept, folder=Path(folder) / f"b{number}"), team)]  # fmt: skip
            if number:
                arithmetic.append(alone / whole)
                for seconds, each in zip(runs, found.values(), strict=True):
                    each.append(seconds)
    about = {
        "program": "finetune.py", "backbone": job.backbone.name, "device": device.type, "precision": precision,
        "batch": batch, "threads": job.cores, "arithmetic": f"{sorted(arithmetic)[len(arithmetic) // 2]:.1%}",
    }  # fmt: skip
    return [
        measurement("fine-tuning steps", steps * batch, seconds, about | {"way": way}, peak_gib(device))
        for way, seconds in found.items()
    ]


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--backbones", nargs="*", default=["tiny", "RN50", "ViT-B/32"])
    options.add_argument("--steps", type=int, default=6)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--precision", default="fp32")
    options.add_argument("--device", default="cpu")
    chosen = options.parse_args()
    keep_freed_memory()  # as fastclip's own command does; without it both are slower, and unequally
    with tempfile.TemporaryDirectory(dir=chosen.work) as name:
        work = Path(name)
        copy_photos(chosen.photos, (chosen.steps + WARM_UP) * chosen.batch, work / "photos")
        shard_folder(work / "photos", work)
        for backbone in chosen.backbones:
            evaluation = EvalOptions(
                targets=("photos",), backbones=(backbone,), random_weights=True, device=chosen.device,
                shards=work / "shards",
            )  # fmt: skip
            keep(measured(evaluation, chosen.precision, chosen.batch, chosen.steps, chosen.rounds), chosen.device)


if __name__ == "__main__":
    main()
