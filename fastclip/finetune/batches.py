"""Batches: which images make a step, a pure function of the seed, the epoch and the images' own bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from fastclip.finetune.samples import Samples, copy_numbers


def epoch_order(digests: Shaped[np.ndarray, " images"], seed: int, epoch: int) -> Int64[np.ndarray, " images"]:
    """All images once, by the SHA-256 of seed, epoch, digest and the image's number among those of the same bytes."""
    start = f"{seed}\0{epoch}\0".encode()
    numbers = copy_numbers(digests)
    places = [
        sha256(start + bytes(digest) + b"\0%d" % number).digest()
        for digest, number in zip(digests, numbers.tolist(), strict=True)
    ]
    # As an array of bytes ("S32") a digest that ends in a zero would lose it.
    return np.array(sorted(range(len(places)), key=places.__getitem__), np.int64)


@dataclass(frozen=True)
class Batches:
    """The batches of all epochs, of all processes together: the same for any number of them."""

    samples: Samples
    batch_size: int
    seed: int
    _order: dict[int, Int64[np.ndarray, " images"]] = field(default_factory=dict, init=False, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every image is seen once. The last batch may be short."""
        return -(-len(self.samples) // self.batch_size)

    def batch(self, step: int) -> Int64[np.ndarray, " batch"]:
        """The numbers of the images of a step. Steps count from 0 over all epochs."""
        epoch, at = divmod(step, self.steps_per_epoch)
        if epoch not in self._order:
            self._order.clear()
            self._order[epoch] = epoch_order(self.samples.digests, self.seed, epoch)
        return self._order[epoch][at * self.batch_size : (at + 1) * self.batch_size]


def part_of(
    batch: Int64[np.ndarray, " batch"], rank: int, world_size: int
) -> tuple[Int64[np.ndarray, " part"], Bool[np.ndarray, " part"]]:
    """The images of a batch that one process takes, and which of them are real.

    All parts are of one size, so that every process computes the same shape. A part that is short is filled up with the
    batch's first image, which is not real there. The real images of all parts, joined in order, are the batch.
    """
    size = -(-len(batch) // world_size)
    part = batch[rank * size : (rank + 1) * size]
    real = np.arange(size) < len(part)
    return np.concatenate([part, np.repeat(batch[:1], size - len(part))]), real
