"""Splits of images by their own digests: the same on every machine, in any shards, under any path."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import numpy as np
from jaxtyping import Bool, Int64, Shaped

MOST_HELD_OUT = 4
"""Images of a class that choose the settings of a few-shot head, as in CoOp."""


def in_share(digests: Shaped[np.ndarray, " images"], share: float, purpose: str) -> Bool[np.ndarray, " images"]:
    """Which images fall into a `share` (0 to 1) of all. Images of the same bytes are always on the same side.

    `digests` are SHA-256 as 64 hexadecimal bytes. An image's position is the SHA-256 of the `purpose` of the split
    and of its digest.
    """
    return np.array([int.from_bytes(_position(purpose, each)[:8], "big") < share * 2**64 for each in digests], bool)


def trains(digests: Shaped[np.ndarray, " images"], split: float) -> Bool[np.ndarray, " images"]:
    """Which images train where a share `split` of all does. The others are tested."""
    return in_share(digests, split, "train")


def draw_shots(
    digests: Shaped[np.ndarray, " images"], labels: Int64[np.ndarray, " images"], shots: int, seed: int
) -> tuple[Int64[np.ndarray, " shots"], Int64[np.ndarray, " held_out"]]:
    """Rows of `shots` images a class, and of up to four more, as many as shots, on which settings are chosen.

    They come first in each class by the SHA-256 of the seed and their digest. A smaller class gives what it has. Of
    images with the same bytes only the first is taken.
    """
    chosen: list[int] = []
    held_out: list[int] = []
    for rows in _by_class(labels):
        drawn = list({digests[row]: row for row in reversed(rows)}.values())
        drawn.sort(key=lambda row: _position(seed, bytes(digests[row])))
        chosen += drawn[:shots]
        held_out += drawn[shots : shots + min(shots, MOST_HELD_OUT)]
    return np.array(sorted(chosen), np.int64), np.array(sorted(held_out), np.int64)


def _by_class(labels: Int64[np.ndarray, " images"]) -> Iterator[list[int]]:
    for label in np.unique(labels):
        yield np.flatnonzero(labels == label).tolist()


def _position(seed: int | str, digest: bytes | np.bytes_) -> bytes:
    return sha256(f"{seed}\0".encode() + bytes(digest)).digest()
