"""Views: the part of an image that a step sees, a pure function of the seed, the epoch and the image's own bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from typing import NamedTuple

from fastclip.pixels.geometry import Region

ASPECTS = (3 / 4, 4 / 3)
"""Width by height of a random crop."""
TRIES = 10


class View(NamedTuple):
    """An image as a step sees it: a region of it, None for CLIP's centre crop, perhaps mirrored."""

    region: Region | None
    flipped: bool


@dataclass(frozen=True)
class Views:
    """The way in which views are drawn: torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`."""

    crop: float | None
    """The least share of the area that a crop keeps; None for CLIP's centre crop."""
    flip: bool
    """Whether every second image, by chance, is mirrored."""
    seed: int

    @property
    def random(self) -> bool:
        """Whether an image is not the same in every epoch."""
        return self.crop is not None or self.flip

    def view(self, epoch: int, digest: bytes, copy: int, height: int, width: int) -> View:
        """The view of an image in an epoch. `copy` tells images of the same bytes apart."""
        draws = uniform(self.seed, epoch, "view", digest, copy)
        flipped = self.flip and next(draws) < 0.5
        return View(None if self.crop is None else _random_region(draws, self.crop, height, width), flipped)


def uniform(seed: int, epoch: int, purpose: str, digest: bytes, copy: int) -> Iterator[float]:
    """Numbers from 0 to 1 that belong to an image in an epoch: 53 bits each, four of every SHA-256."""
    name = f"{seed}\0{epoch}\0{purpose}\0".encode() + digest + b"\0%d\0" % copy
    for block in count():
        digest = sha256(name + b"%d" % block).digest()
        for at in range(0, 32, 8):
            yield (int.from_bytes(digest[at : at + 8], "big") >> 11) / 2**53


def _random_region(draws: Iterator[float], least: float, height: int, width: int) -> Region:
    """A region of random area and aspect at a random place. One that does not fit is drawn again, ten times."""
    low, high = map(math.log, ASPECTS)
    for _ in range(TRIES):
        area = height * width * (least + (1 - least) * next(draws))
        aspect = math.exp(low + (high - low) * next(draws))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            top, left = int(next(draws) * (height - down + 1)), int(next(draws) * (width - across + 1))
            return Region(top, left, top + down, left + across)
    return _central_region(height, width)


def _central_region(height: int, width: int) -> Region:
    """The largest region around the centre whose aspect is allowed."""
    across = min(width, max(1, round(height * ASPECTS[1])))
    down = min(height, max(1, round(width / ASPECTS[0])))
    top, left = (height - down) // 2, (width - across) // 2
    return Region(top, left, top + down, left + across)
