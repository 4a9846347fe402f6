"""Counts of ensembles extended by each candidate, from similarities: a step is an addition, not a product.

A candidate's similarity to an image is that of the sum of a class's unit text vectors; an ensemble's score is the sum
of its candidates' similarities, divided by the length of the sum of their vectors. Similarities are computed exactly
and rounded to fp32, so that kept ones and those that are computed again are the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from fastclip.data.shards.manifest import Shard
from fastclip.heads.scores import check_finite, exact
from fastclip.prompts.greedy import Counts, Ensemble
from fastclip.prompts.hold_out import HoldOut, Part
from fastclip.prompts.scoring import ROWS, ShardImages, Source, chunks, is_best
from fastclip.threads import threads

KEPT_BYTES = 1_000_000_000
"""Similarities that are kept in memory."""


@dataclass(frozen=True)
class Sums:
    """The sums of each class's unit text vectors under every candidate, all divided by one power of two."""

    by_class: Float32[np.ndarray, "classes candidates dim"]

    @property
    def many(self) -> int:
        """How many candidates there are."""
        return self.by_class.shape[1]

    def weights(self, ensemble: Ensemble) -> Float32[np.ndarray, "classes candidates"]:
        """One divided by the length of the ensemble's sum with each candidate added."""
        found = np.empty(self.by_class.shape[:2], np.float32)
        for row, of_class in enumerate(self.by_class):  # one class at a time: all of DomainNet's take gigabytes
            each = of_class.astype(np.float64)
            sums = each + each[list(ensemble)].sum(axis=0)
            found[row] = 1 / exact(np.sqrt((sums * sums).sum(axis=-1, keepdims=True)))[:, 0]
        return found


def scaled(sums: Sequence[Float64[np.ndarray, "classes dim"]]) -> Sums:
    """The sums of all candidates, so scaled that none is longer than 1.5 and products with unit vectors are exact."""
    longest = max(float(np.sqrt((each * each).sum(axis=1)).max()) for each in sums)
    scale = 2.0 ** math.ceil(math.log2(longest / 1.5))
    by_class = np.stack([exact(each / scale).astype(np.float32) for each in sums], axis=1)
    check_finite(by_class.astype(np.float64))
    return Sums(by_class)


@dataclass(frozen=True)
class Block:
    """Some images of one part, sorted by their labels."""

    part: Part
    labels: Int64[np.ndarray, " images"]
    vectors: Float[np.ndarray, "needed dim"]
    """None once similarities are kept."""
    kept: Float32[np.ndarray, "images classes candidates"] | None = None

    def similarities(self, sums: Sums, which: slice | list[int]) -> Float32[np.ndarray, "images classes some"]:
        """Those of some candidates."""
        if self.kept is not None:
            return self.kept[:, :, which]
        factors = sums.by_class[:, which].astype(np.float64)
        classes, many, dim = factors.shape
        block = exact(self.vectors)
        check_finite(block)
        return (block @ factors.reshape(-1, dim).T).astype(np.float32).reshape(len(block), classes, many)


@dataclass
class Exam:
    """The images of a dataset, asked about by ensembles. Nothing is read before the first question."""

    source: Source
    sums: Sums
    hold_out: HoldOut
    cores: int
    keep: bool
    """Whether similarities are kept; else they are computed at every step."""
    on_images: Callable[[int], object] = lambda images: None
    _kept: dict[str, list[Block]] = field(default_factory=dict)

    def images(self) -> dict[Part, int]:
        """The readable images of every part."""
        found: dict[Part, int] = dict.fromkeys([*self.hold_out.final, *(
            part for fold in self.hold_out.folds for part in fold.reported
        )], 0)  # fmt: skip
        with threads(self.cores, "prompts") as pool:
            for blocks in pool.map(self._blocks, list(self.source.target.shards)):
                for block in blocks:
                    found[block.part] += len(block.labels)
        return found

    def count(self, asked: Mapping[Ensemble, frozenset[Part]]) -> dict[Ensemble, Counts]:
        """Each ensemble's right answers on the parts that it is asked about, with each candidate added to it."""
        weights = {ensemble: self.sums.weights(ensemble) for ensemble in asked}
        found = {e: {part: np.zeros(self.sums.many, np.int64) for part in parts} for e, parts in asked.items()}
        with threads(self.cores, "prompts") as pool:
            answered = pool.map(partial(self._answer, asked, weights), list(self.source.target.shards))
            for shard in answered:
                for ensemble, part, right in shard:
                    found[ensemble][part] += right
        return {ensemble: dict(counts) for ensemble, counts in found.items()}

    def _answer(
        self,
        asked: Mapping[Ensemble, frozenset[Part]],
        weights: Mapping[Ensemble, np.ndarray],
        shard: Shard,
    ) -> list[tuple[Ensemble, Part, Int64[np.ndarray, " candidates"]]]:
        found = []
        for block in self._blocks(shard):
            for ensemble in (each for each, parts in asked.items() if block.part in parts):
                found.append((ensemble, block.part, extended(block, self.sums, ensemble, weights[ensemble])))
        self.on_images(shard.images)
        return found

    def _blocks(self, shard: Shard) -> list[Block]:
        if shard.name in self._kept:
            return self._kept[shard.name]
        blocks = list(blocks_of(self.source.read(shard), shard.domain, self.hold_out))
        if self.keep:
            every = slice(0, self.sums.many)
            blocks = [Block(b.part, b.labels, b.vectors[:0], b.similarities(self.sums, every)) for b in blocks]
            self._kept[shard.name] = blocks
        return blocks


def blocks_of(images: ShardImages, domain: str, hold_out: HoldOut) -> Iterator[Block]:
    """The images of a shard, part by part."""
    numbers = hold_out.numbers(images.digests)
    for number in np.unique(numbers).tolist():
        rows = np.flatnonzero(numbers == number)
        rows = rows[np.argsort(images.labels[rows], kind="stable")]
        for some in (rows[first : first + ROWS] for first in range(0, len(rows), ROWS)):
            yield Block(Part(domain, number), images.labels[some], images.vectors[some])


def extended(
    block: Block, sums: Sums, ensemble: Ensemble, weights: Float32[np.ndarray, "classes candidates"]
) -> Int64[np.ndarray, " candidates"]:
    """The right answers in a block if each candidate is added to the ensemble."""
    classes = len(weights)
    base = np.zeros((len(block.labels), classes, 1), np.float32)
    if ensemble:
        of_members = block.similarities(sums, list(ensemble))
        for number in range(len(ensemble)):  # one after the other: kept or not, the sums are the same bits
            base += of_members[:, :, number : number + 1]
    right = np.zeros(sums.many, np.int64)
    for first, last in chunks(sums.many, classes):
        scores = block.similarities(sums, slice(first, last)) + base
        scores *= weights[:, first:last]
        right[first:last] = is_best(scores, block.labels).sum(axis=0)
    return right
