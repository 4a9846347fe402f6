"""The result of an evaluation: integer counts for each cell, divided once, at the very end. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

from fastclip.heads.facts import HeadFacts
from fastclip.store.recipes import Recipe

POLICIES = ("stop", "wrong", "exclude")


ZERO_SHOT = "zero-shot"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Counts of one backbone × head × domain: `images` = classified + unreadable + those of missing shards."""

    dataset: str
    domain: str
    backbone: str
    prompts: str
    """The prompt set of a zero-shot head; empty for a head that was fitted."""
    head: str = ZERO_SHOT
    """`zero-shot`, or the name of one of the fitted heads."""
    sample: str = ""
    """Which of the domain's images are asked about; empty for all."""
    images: int
    classified: int
    top1: int
    top5: int
    unreadable: int
    shards: int
    missing_shards: int

    def accuracy(self, unreadable: str) -> Fraction | None:
        """The exact share of right answers; None while a shard is missing or unreadable images await a decision.

        `unreadable` is the policy for unreadable images: `stop` (no number), `wrong` or `exclude`.
        """
        if self.missing_shards or (self.unreadable and unreadable == "stop"):
            return None
        seen = self.images if unreadable == "wrong" else self.classified
        return Fraction(self.top1, seen) if seen else None


@dataclass(frozen=True, kw_only=True)
class UnreadableImage:
    """An image that cannot be used. The policy decides what it counts as."""

    dataset: str
    domain: str
    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class UsedRecipe:
    """The recipe whose embeddings made the numbers of one backbone on one dataset."""

    dataset: str
    backbone: str
    id: str
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class UsedHead:
    """A fitted head whose cells are in the result. Cells call it by `name`; several folds may share one."""

    name: str
    dataset: str
    domains: tuple[str, ...]
    """Where it was scored."""
    sha256: str
    """Of the head's file, whether or not it was kept."""
    facts: HeadFacts
    transductive: bool
    """Whether it was fitted with the images that it was scored on, without their labels."""


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """The images that a dataset's numbers are about. Only numbers of equal fingerprints may be compared."""

    name: str
    title: str
    variant: str | None
    protocol: str
    manifest_sha256: str
    names: Mapping[str, str]
    """Class folder → readable name, in label order: with the templates, the prompts. A card may have given them."""
    fingerprints: Mapping[str, str]
    """Domain → fingerprint of its images in shards."""
    has_variants: bool
    """Whether the dataset's card lists known variants."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All cells of one run and how they were made. Equal work gives equal bytes, on any machine that reads it."""

    unreadable_policy: str
    datasets: tuple[DatasetFacts, ...]
    recipes: tuple[UsedRecipe, ...]
    prompts: Mapping[str, tuple[str, ...]]
    """Prompt set → templates."""
    cells: tuple[Cell, ...]
    unreadable: tuple[UnreadableImage, ...]
    heads: tuple[UsedHead, ...] = ()
    """Those that were fitted; with labels, unless their method says otherwise."""

    @property
    def complete(self) -> bool:
        """Whether every shard of every cell was scored."""
        return not any(cell.missing_shards for cell in self.cells)

    @property
    def undecided(self) -> bool:
        """Whether unreadable images keep a cell from having a number."""
        return self.unreadable_policy == "stop" and any(cell.unreadable for cell in self.cells)

    def to_json(self) -> bytes:
        """The result file: counts, and the accuracies made of them as fractions of 1 (null: no number)."""
        document = asdict(self)
        for row, used in zip(document["recipes"], self.recipes, strict=True):
            row |= {"activation": used.recipe.activation, "recipe": used.recipe.to_document()}
        for row, head in zip(document["heads"], self.heads, strict=True):
            row["facts"] = head.facts.to_document()
        for row, cell in zip(document["cells"], self.cells, strict=True):
            accuracy = cell.accuracy(self.unreadable_policy)
            row["accuracy"] = None if accuracy is None else float(accuracy)
        return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def mean(accuracies: Sequence[Fraction | None]) -> Fraction | None:
    """The unweighted mean over domains, as published tables have it; None if one has no number."""
    numbers = [accuracy for accuracy in accuracies if accuracy is not None]
    return sum(numbers, Fraction(0)) / len(numbers) if numbers and len(numbers) == len(accuracies) else None
