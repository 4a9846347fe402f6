"""What an evaluation says: integer counts a cell, divided once, at the very end. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

POLICIES = ("stop", "wrong", "exclude")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Counts of one backbone × prompt set × domain: `images` = classified + unreadable + those of missing shards."""

    dataset: str
    domain: str
    backbone: str
    prompts: str
    images: int
    classified: int
    top1: int
    top5: int
    unreadable: int
    shards: int
    missing_shards: int

    def accuracy(self, unreadable: str) -> Fraction | None:
        """Share of right answers, exact; None while a shard is missing, or unreadable images await a decision.

        `unreadable` says what such an image counts as: `stop` (no number), `wrong` or `exclude`.
        """
        if self.missing_shards or (self.unreadable and unreadable == "stop"):
            return None
        seen = self.images if unreadable == "wrong" else self.classified
        return Fraction(self.top1, seen) if seen else None


@dataclass(frozen=True, kw_only=True)
class UnreadableImage:
    """An image that counts as the policy says, never as a guess."""

    dataset: str
    domain: str
    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class BackboneFacts:
    """What made a backbone's numbers: any of it changed, the embeddings are other ones."""

    name: str
    weights: str
    random_weights: bool
    precision: str
    decoder: str
    batch_size: int
    numerics: str


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """Which images a dataset's numbers are of. Only numbers of the same fingerprints may be compared."""

    name: str
    title: str
    variant: str | None
    protocol: str
    manifest_sha256: str
    fingerprints: Mapping[str, str]
    """Domain → fingerprint of its images in shards."""
    has_variants: bool
    """Whether the dataset's card knows sets of images that it could have been."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All cells of one run and what they were made with. Equal work gives equal bytes, by any number of processes."""

    unreadable_policy: str
    datasets: tuple[DatasetFacts, ...]
    backbones: tuple[BackboneFacts, ...]
    prompts: Mapping[str, tuple[str, ...]]
    """Prompt set → templates."""
    cells: tuple[Cell, ...]
    unreadable: tuple[UnreadableImage, ...]

    @property
    def complete(self) -> bool:
        """Whether every shard of every cell was scored."""
        return not any(cell.missing_shards for cell in self.cells)

    @property
    def undecided(self) -> bool:
        """Whether unreadable images keep a cell from having a number."""
        return self.unreadable_policy == "stop" and any(cell.unreadable for cell in self.cells)

    def to_json(self) -> bytes:
        """The record of the run: counts, and the accuracies made of them (a fraction of 1, null without a number)."""
        document = asdict(self)
        for row, cell in zip(document["cells"], self.cells, strict=True):
            accuracy = cell.accuracy(self.unreadable_policy)
            row["accuracy"] = None if accuracy is None else float(accuracy)
        return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def mean(accuracies: Sequence[Fraction | None]) -> Fraction | None:
    """The unweighted mean over domains, as published tables have it; None if one has no number."""
    numbers = [accuracy for accuracy in accuracies if accuracy is not None]
    return sum(numbers, Fraction(0)) / len(numbers) if numbers and len(numbers) == len(accuracies) else None
