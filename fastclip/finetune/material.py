"""The images of one fold: those that train, those that choose the epoch, and those that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastclip.files import canonical_json, digest
from fastclip.finetune.judging import readable
from fastclip.finetune.plan import Plan, run_document, run_folder
from fastclip.finetune.samples import Samples, check_classes, find_samples, hold_out
from fastclip.transfer.folds import Fold, Place


@dataclass(frozen=True, kw_only=True)
class Material:
    """The images of one fold, and the name of the run that trains on them."""

    fold: Fold
    run: str
    """The digest of all that decides what the weights become."""
    folder: Path
    samples: Samples
    judges: Samples | None
    """Those that choose the epoch."""
    listed: int
    """Training images before some were held out."""
    rejected: int
    """Images of the training domains that are in no shard: they could not be used when the shards were written."""
    unreadable: tuple[tuple[str, str], ...]
    """Images that cannot be read, with reasons: they train nothing."""
    duplicates: int
    """Tested images whose bytes are among those that train or choose the epoch."""


def find_material(plan: Plan, fold: Fold) -> Material:
    """The images of a fold, in an order that belongs to them. Raises `UserError` where there are too few."""
    listed = find_samples(plan.setup.targets, fold.train)
    tested = find_samples(plan.setup.targets, fold.test)
    everything, unreadable = _readable(plan, listed)
    check_classes(everything)
    samples, judges = everything, None
    if plan.options.recipe.select == "held-out":
        samples, judges = hold_out(everything)
    elif plan.options.recipe.select == "test":
        judges, _ = _readable(plan, tested)
    run = digest(canonical_json(run_document(plan, fold, [name for name, _ in unreadable])))
    return Material(
        fold=fold,
        run=run,
        folder=run_folder(plan, fold, run),
        samples=samples,
        judges=judges,
        listed=len(listed),
        rejected=sum(_rejected(plan, place) for place in fold.train),
        unreadable=tuple(unreadable),
        duplicates=int(np.isin(tested.digests, everything.digests).sum()),
    )


def _readable(plan: Plan, samples: Samples) -> tuple[Samples, list[tuple[str, str]]]:
    """All samples, or where the user leaves unreadable ones out, those that can be read; and the others, with reasons.

    They are left out before any batch is formed: batches are made of the images that can be read.
    """
    if plan.evaluation.unreadable != "exclude":
        return samples, []
    engine = plan.engine
    found, others = readable(samples, plan.candidate.backbone.side, engine.decoder, engine.device, engine.cores)
    return found, [(samples.named(number), reason) for number, reason in others]


def _rejected(plan: Plan, place: Place) -> int:
    return next(each.unreadable for each in plan.target(place).manifest.domains if each.name == place.domain)
