"""How long fitting will take, from counted operations and the rate of one matrix product here."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from fastclip.data.shards.targets import Target
from fastclip.transfer.folds import Place
from fastclip.transfer.run import Plan

PASSES = {
    "logistic": 200,
    "text-logistic": 200,
    "wise": 240,
    "ridge": 20,
    "prototype": 0.1,
    "prior": 0.1,
    "tip": 20,
    "knn": 0,
}
"""Evaluations over all training images that a method takes, about: its search and its last fit."""
OTHERS = 100
"""The same for a method of adaptation, whose search is that of the source alone."""
TIPS_SEARCH = 26_000.0
"""Times the square of the training images: the votes of Tip-Adapter's 200 values of β, for a quarter as many images."""
LEAST_CLASSES = 15
"""With fewer classes an evaluation is bound by reading the vectors, and takes as long as with so many."""
FEW_OPERATIONS = 5e9
"""Operations below which nothing is measured."""


def forecast_s(plan: Plan) -> float:
    """Seconds that a plan will take, within a factor of about two; 0 if they are hardly any."""
    operations = 0.0
    dims = 768  # about; the widest of OpenAI's nine has 1,024
    images = _images(plan.setup.targets)
    for job in plan.jobs:
        classes = len(plan.setup.targets[0].manifest.classes)
        train = sum(images[place] for place in job.fold.train)
        train = min(train, job.shots * classes) if job.shots else train
        tested = sum(images[place] for place in job.fold.test)
        name = job.method.name
        operations += 4.0 * PASSES.get(name, OTHERS) * train * dims * max(classes, LEAST_CLASSES)
        if name in ("knn", "tip"):
            operations += 2.0 * train * (tested + 0.2 * train) * dims
        if name == "tip":
            operations += TIPS_SEARCH * train**2
    operations *= len(plan.setup.backbones)
    if operations < FEW_OPERATIONS:
        return 0.0
    return operations / (_rate() * plan.setup.process.cores)


def _images(targets: Sequence[Target]) -> dict[Place, int]:
    return {Place(target.name, each.name): each.images for target in targets for each in target.manifest.domains}


def _rate() -> float:
    """Operations a second of one thread in fp32 products."""
    left, right = np.ones((1024, 768), np.float32), np.ones((768, 256), np.float32)
    left @ right
    started = time.perf_counter()
    for _ in range(4):
        left @ right
    return 4 * 2 * left.size * right.shape[1] / (time.perf_counter() - started)
