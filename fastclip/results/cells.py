"""The result of an evaluation: integer counts for each cell, divided once, at the very end. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

from fastclip import __version__
from fastclip.heads.facts import HeadFacts
from fastclip.store.recipes import Recipe

POLICIES = ("stop", "wrong", "exclude")


ZERO_SHOT = "zero-shot"

NEAR_TIE = 1e-3
"""Margins below it are near ties, unless something better is known of a recipe's error. Cosines of unit vectors."""


class Column(NamedTuple):
    """One way to answer: a backbone with zero-shot and a prompt set, or with the name of a fitted head."""

    backbone: str
    head: str = ZERO_SHOT
    prompts: str = ""
    """Empty for a head that was fitted."""

    @property
    def full_name(self) -> str:
        """`RN50, photo`: the backbone and its prompt set or head."""
        return f"{self.backbone}, {self.way}" if self.way else self.backbone

    @property
    def full_way(self) -> str:
        """`zero-shot, photo`, or the name of a fitted head: for a place where both kinds stand."""
        return f"{ZERO_SHOT}, {self.prompts}" if self.head == ZERO_SHOT else self.head

    @property
    def way(self) -> str:
        """The column without its backbone: the prompt set of zero-shot, or the head's name."""
        return self.prompts if self.head == ZERO_SHOT else self.head


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

    @property
    def column(self) -> Column:
        """The backbone and head that answered."""
        return Column(self.backbone, self.head, self.prompts)

    def seen(self, unreadable: str) -> int | None:
        """The images that an accuracy is of, as the policy `unreadable` has it; None where there is no number."""
        if self.missing_shards or (self.unreadable and unreadable == "stop"):
            return None
        return (self.images if unreadable == "wrong" else self.classified) or None

    def accuracy(self, unreadable: str) -> Fraction | None:
        """The exact share of right answers; None while a shard is missing or unreadable images await a decision.

        `unreadable` is the policy for unreadable images: `stop` (no number), `wrong` or `exclude`.
        """
        seen = self.seen(unreadable)
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
class Epoch:
    """One epoch of fine-tuning. Epoch 0 is the backbone as it was."""

    number: int
    loss: float | None
    """The mean over the epoch's images; None for epoch 0."""
    right: int
    """Of the `images` that choose the epoch, those that are classified correctly after it."""
    images: int


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
    epochs: tuple[Epoch, ...] = ()
    """Of fine-tuning. The backbone itself was trained then: `sha256` and the facts' recipe are of its new weights."""

    @property
    def is_backbone(self) -> bool:
        """Whether the backbone itself was trained: zero-shot classification with other weights."""
        return self.sha256 == self.facts.recipe.weights


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
    licence: str = ""
    """As its card says it."""
    hub_id: str | None = None
    """OWNER/NAME of a copy on the Hugging Face hub, if its card names one."""
    duplicates: Mapping[str, int] = field(default_factory=dict)
    """Domain → images in shards whose bytes an earlier image of the domain has."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class folders in label order."""
        return tuple(self.names)


@dataclass(frozen=True, kw_only=True)
class UsedPrompts:
    """A prompt set as it was used."""

    templates: tuple[str, ...]
    kind: str = "templates"
    selection: Mapping[str, Any] | None = None
    """How the set was chosen, as its file says; None if it was given."""
    texts: int = 0
    """Of all classes together, where `kind` is `texts`."""
    sha256: str = ""
    """Of the texts, where `kind` is `texts`."""

    @property
    def identity(self) -> tuple[str, ...]:
        """The templates, or a word with the digest of the texts; as `PromptSet.identity` is."""
        return (f"texts, SHA-256 {self.sha256}",) if self.kind == "texts" else self.templates

    @property
    def uses_labels(self) -> bool:
        """Whether labels of images took part in choosing the set, so that its numbers are not zero-shot."""
        return self.selection is not None and self.selection.get("labels_used", True) is not False


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """How often each combination of right and wrong answers occurs among the images of one domain.

    Every comparison of its columns follows from it: pairs, all at once, ranks. The images are those that all columns
    have classified; where unreadable ones count as wrong, they are among them.
    """

    dataset: str
    domain: str
    columns: tuple[Column, ...]
    counts: Mapping[str, int]
    """A character a column, `1` for right and `0` for wrong → images. Sorted, and without zeros."""

    @property
    def images(self) -> int:
        """Images of all combinations."""
        return sum(self.counts.values())

    def project(self, columns: Sequence[Column]) -> dict[str, int]:
        """The same counts of `columns` alone, in their order."""
        places = [self.columns.index(each) for each in columns]
        counts: dict[str, int] = {}
        for bits, images in self.counts.items():
            fewer = "".join(bits[place] for place in places)
            counts[fewer] = counts.get(fewer, 0) + images
        return dict(sorted(counts.items()))

    def only(self, a: Column, b: Column) -> tuple[int, int]:
        """The images that only `a`, and only `b`, answers correctly."""
        first, second = self.columns.index(a), self.columns.index(b)
        pairs = [(bits[first], bits[second], images) for bits, images in self.counts.items()]
        only_a = sum(images for of_a, of_b, images in pairs if of_a > of_b)
        return only_a, sum(images for of_a, of_b, images in pairs if of_a < of_b)

    def right(self, column: Column) -> int:
        """The images that `column` answers correctly."""
        place = self.columns.index(column)
        return sum(images for bits, images in self.counts.items() if bits[place] == "1")


@dataclass(frozen=True, kw_only=True)
class NearTies:
    """Images of one cell whose margin is below `epsilon`, so that an error of that size could flip them."""

    dataset: str
    domain: str
    column: Column
    epsilon: float
    could_gain: int
    """The true class is second, and behind by less."""
    could_lose: int
    """The true class is first, and ahead by less."""


@dataclass(frozen=True, kw_only=True)
class PredictionFile:
    """The file of the answers behind the counts."""

    file: str
    sha256: str
    """Of its rows, not of its bytes, which other versions of Parquet write otherwise: see `prediction_file`."""
    rows: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All cells of one run and how they were made. Equal work gives equal bytes, on any machine that reads it."""

    unreadable_policy: str
    datasets: tuple[DatasetFacts, ...]
    recipes: tuple[UsedRecipe, ...]
    prompts: Mapping[str, UsedPrompts]
    """By name."""
    cells: tuple[Cell, ...]
    unreadable: tuple[UnreadableImage, ...]
    heads: tuple[UsedHead, ...] = ()
    """Those that were fitted; with labels, unless their method says otherwise."""
    patterns: tuple[Patterns, ...] = ()
    """Of each domain: of all its columns, or of several groups of them where all have too many combinations."""
    near_ties: tuple[NearTies, ...] = ()
    """Of zero-shot cells. Scores of fitted heads are on other scales."""
    predictions: PredictionFile | None = None
    program: str = __version__
    """The version of fastclip that made it."""

    @property
    def complete(self) -> bool:
        """Whether every shard of every cell was scored."""
        return not any(cell.missing_shards for cell in self.cells)

    @property
    def undecided(self) -> bool:
        """Whether unreadable images keep a cell from having a number."""
        return self.unreadable_policy == "stop" and any(cell.unreadable for cell in self.cells)

    def random_backbones(self, dataset: str | None = None) -> list[str]:
        """The backbones whose weights were drawn, so that no number of theirs means anything; of all datasets."""
        wanted = [each for each in self.recipes if dataset in (None, each.dataset) and each.recipe.random_weights]
        return list(dict.fromkeys(each.backbone for each in wanted))

    def dataset(self, name: str) -> DatasetFacts:
        """The facts of the dataset called `name`."""
        return next(each for each in self.datasets if each.name == name)

    def cell(self, dataset: str, domain: str, column: Column) -> Cell | None:
        """The counts of a column in one domain."""
        wanted = (dataset, domain, column)
        return next((each for each in self.cells if (each.dataset, each.domain, each.column) == wanted), None)


def mean(accuracies: Sequence[Fraction | None]) -> Fraction | None:
    """The unweighted mean over domains, as published tables have it; None if one has no number."""
    numbers = [accuracy for accuracy in accuracies if accuracy is not None]
    return sum(numbers, Fraction(0)) / len(numbers) if numbers and len(numbers) == len(accuracies) else None
