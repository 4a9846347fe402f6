"""Trainings of `tiny` on a few drawn images, in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers import shard

from fastclip.data.shapes import draw_shapes
from fastclip.data.shards.targets import find_targets
from fastclip.embed.processes import Process
from fastclip.files import digest
from fastclip.finetune.job import Job
from fastclip.finetune.samples import find_samples, hold_out
from fastclip.finetune.training_recipes import find_training_recipe
from fastclip.models.backbones import TINY, TINY_DIM
from fastclip.models.weights import find_weights
from fastclip.transfer.folds import places

ALONE = Process()


def small_job(data: Path, folder: Path, recipe: str = "ce", **changes: object) -> Job:
    """Two epochs of five or six steps of 8 outlines each; `data` is where they are drawn, or were before."""
    if not (data / "shards").exists():
        draw_shapes(data / "source", seed=3, images_per_class=4, domains=["outline"])
        shard(data / "source", data / "shards", "new", shard_images=20)
    targets = find_targets(str(data / "shards"), ["new"])
    train, judges = hold_out(find_samples(targets, places(targets, ["new"])))
    prototypes = np.random.default_rng(0).normal(size=(12, TINY_DIM))
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    chosen = find_training_recipe(recipe).changed(learning_rate=1e-4, epochs=2, batch_size=8, **changes)
    return Job(
        run=digest(str(chosen).encode()),
        folder=folder,
        recipe=chosen,
        backbone=TINY,
        weights=find_weights(TINY, None),
        samples=train,
        judges=judges,
        prototypes=prototypes.astype(np.float32),
        tokens=None,
        prompts_of=None,
        precision="fp32",
        decoder="torchvision",
        accumulate=1,
        checkpointing=False,
        save_every_s=0.0,
        cores=1,
        keep_bytes=1 << 24,
    )
