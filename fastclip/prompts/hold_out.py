"""Images that choose and images that are reported: parts of domains, and folds of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped

from fastclip.errors import UserError

HOLD_OUTS = ("domains", "folds", "half")
FOLDS = 5


class Part(NamedTuple):
    """Images of one domain that are always on the same side."""

    domain: str
    number: int


@dataclass(frozen=True)
class Fold:
    """Parts whose labels choose, and parts that the choice is reported on. No part is both."""

    chooses: tuple[Part, ...]
    reported: tuple[Part, ...]


@dataclass(frozen=True)
class HoldOut:
    """A way to hold images out."""

    name: str
    seed: int
    folds: tuple[Fold, ...]
    final: tuple[Part, ...]
    """The parts that choose the set which is kept."""

    def numbers(self, digests: Shaped[np.ndarray, " images"]) -> Int64[np.ndarray, " images"]:
        """The number of each image's part in its domain. Images of the same bytes share it.

        `digests` are SHA-256 as 64 hexadecimal bytes. It is the SHA-256 of the seed and of the image's digest that
        decides.
        """
        many = {"domains": 1, "folds": FOLDS, "half": 2}[self.name]
        if many == 1:
            return np.zeros(len(digests), np.int64)
        hashes = (sha256(f"prompts {self.seed}\0".encode() + bytes(each)).digest() for each in digests)
        return np.array([int.from_bytes(each[:8], "big") % many for each in hashes], np.int64)


def find_hold_out(name: str, domains: Sequence[str], seed: int) -> HoldOut:
    """The way to hold out that has this name. Raises `UserError` for an unknown one, or one that needs more domains."""
    if name == "domains":
        if len(domains) < 2:
            raise UserError(
                "--hold-out domains chooses on the other domains, and there is only one.", fix="--hold-out folds"
            )
        whole = tuple(Part(each, 0) for each in domains)
        folds = tuple(Fold(tuple(each for each in whole if each != left), (left,)) for left in whole)
        return HoldOut(name, seed, folds, whole)
    if name == "folds":
        every = tuple(Part(domain, number) for domain in domains for number in range(FOLDS))
        folds = tuple(
            Fold(
                tuple(each for each in every if each.number != number),
                tuple(each for each in every if each.number == number),
            )
            for number in range(FOLDS)
        )
        return HoldOut(name, seed, folds, every)
    if name == "half":
        chooses, reported = (tuple(Part(domain, number) for domain in domains) for number in range(2))
        return HoldOut(name, seed, (Fold(chooses, reported),), chooses)
    raise UserError(f"--hold-out does not know {name!r}.", fix=f"--hold-out {' | '.join(HOLD_OUTS)}")
