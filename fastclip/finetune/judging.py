"""Images that are read for a training, with random views or without, and counts of those that choose the epoch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fastclip.finetune.job import Job, UnreadableTrainingImageError
from fastclip.finetune.learner import Learner, finite
from fastclip.finetune.loader import LoadedBatch, Loader
from fastclip.finetune.samples import Samples
from fastclip.finetune.tars import Tars

COUNTED_AT_ONCE = 64
"""Images in a pass, always: their counts then do not depend on the number of processes."""
CHECKED_AT_ONCE = 256
"""Images that are decoded together only to see whether they can be."""


def loader_of(
    job: Job, samples: Samples, device: torch.device, tars: Tars | None = None, *, random_views: bool = False
) -> Loader:
    """A loader of a job's images: CLIP's own crops, or the recipe's random views. Loaders of the same `tars` share."""
    return Loader(
        samples,
        side=job.backbone.side,
        device=device,
        decoder=job.decoder,
        cores=job.cores,
        crop=job.recipe.crop if random_views else None,
        flip=job.recipe.flip if random_views else False,
        seed=job.recipe.seed,
        keep_bytes=job.keep_bytes,
        tars=tars,
    )


def check_readable(samples: Samples, loaded: LoadedBatch) -> None:
    """Raise `UnreadableTrainingImageError` for the first image of a batch that cannot be read."""
    for number, reason in loaded.unreadable:
        raise UnreadableTrainingImageError(
            f"The image {samples.named(number)} cannot be read: {reason}.",
            fix="--unreadable exclude trains and chooses without such images, and lists them.",
        )


def count(learner: Learner, judges: Samples, loader: Loader, stopping: Callable[[], bool]) -> int | None:
    """How many of `judges` are classified correctly, by all processes together; None if they are to stop.

    -1 if an embedding is not finite. Of equal scores the first class is taken, as everywhere.
    """
    team, right, whole, stopped = learner.team, 0, True, False
    firsts = range(0, len(judges), COUNTED_AT_ONCE)[team.rank :: team.size]
    with learner.averaged():
        prototypes = learner.prototypes()
        for first, loaded in zip(firsts, loader.ahead((_chunk(first, judges), 0) for first in firsts), strict=True):
            check_readable(judges, loaded)
            vectors = learner.model.embed(loaded.crops)
            whole &= finite([vectors])
            hits = (vectors @ prototypes.T).argmax(dim=1) == loaded.labels
            right += int(hits[: len(judges) - first].sum())
            if stopped := stopping():
                break
    totals = team.sum(torch.tensor([right, not whole, stopped], dtype=torch.float64, device=team.device))()
    counted, broken, stops = totals.tolist()
    return None if stops else -1 if broken else int(counted)


def _chunk(first: int, judges: Samples) -> np.ndarray:
    """The images from `first` on, filled up to one shape."""
    rows = np.arange(first, min(first + COUNTED_AT_ONCE, len(judges)))
    return np.concatenate([rows, np.repeat(rows[:1], COUNTED_AT_ONCE - len(rows))])


def readable(
    samples: Samples, side: int, decoder: str, device: torch.device, cores: int
) -> tuple[Samples, list[tuple[int, str]]]:
    """The samples that can be read, and the numbers of the others with their reasons. Decodes each image once."""
    unreadable: list[tuple[int, str]] = []
    with Loader(
        samples, side=side, device=device, decoder=decoder, cores=cores, crop=None, flip=False, seed=0, keep_bytes=0
    ) as loader:
        chunks = np.array_split(np.arange(len(samples)), -(-len(samples) // CHECKED_AT_ONCE))
        for loaded in loader.ahead((rows, 0) for rows in chunks):
            unreadable += loaded.unreadable
    keep = np.ones(len(samples), bool)
    keep[[number for number, _ in unreadable]] = False
    return samples.take(keep), unreadable
