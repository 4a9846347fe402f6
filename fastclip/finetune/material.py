"""The images of one fold: those that train, those that choose the epoch, and those that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastclip.finetune.judging import readable
from fastclip.finetune.plan import Plan
from fastclip.finetune.samples import Samples, check_classes, find_samples, hold_out
from fastclip.transfer.folds import Fold


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
    check_classes(everything)
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
