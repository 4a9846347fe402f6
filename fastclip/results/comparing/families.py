"""The records of a comparison: pairs, all columns at once, ranks, and the family that they belong to."""

from __future__ import annotations

from dataclasses import dataclass

from fastclip.results.cells import Column
from fastclip.results.pairs import Pair
from fastclip.results.statistics import Interval


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One pair of a family in one domain, or by its macro average over domains."""

    pair: Pair
    """`b` is the reference. Of an average, the domain is `average` and the images of all domains are added."""
    over: tuple[str, ...] = ()
    """The domains of an average; empty for one domain."""
    difference: float | None
    """The accuracy of `a` less that of `b`, a fraction of 1; None without images."""
    interval: Interval | None
    """Of the difference: Newcombe's, or of an average MOVER of them."""
    p_exact: float | None
    """McNemar's; of an average, `ranks.macro_test`'s.

    None where one of the two was chosen by the labels of these images: no test says anything then.
    """
    p_mid: float | None
    """None for an average too."""
    p_adjusted: float | None
    """Corrected over the family."""


@dataclass(frozen=True, kw_only=True)
class AllAtOnce:
    """Cochran's Q over all columns of a family in one domain: is there any difference at all?"""

    dataset: str
    domain: str
    columns: int
    q: float
    degrees: int
    p: float


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One column among those that it is compared with, by its macro average over the domains of a dataset.

    By a joint bootstrap of the images of every domain, from the counts of patterns.
    """

    dataset: str
    column: Column
    best: float
    """The share of draws in which no other column is better: where columns tie, both count."""
    low: int
    """Its rank, 1 for the best: the lower end of an interval that holds LEVEL of the draws."""
    high: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """Tests that are corrected together: every column of a group against one reference, over a dataset's domains."""

    name: str
    """`pacs (4 domains), prompts photo: 8 backbones against RN50; 40 tests`."""
    of: str = "backbones"
    """`backbones`, `prompts` or `heads`: by which the columns differ. `runs`: one column, in two runs."""
    reference: Column | None
    """None between two runs, where it is the same column of the other run."""
    correction: str
    """`holm`, `bh` or `none`."""
    tests: tuple[Comparison, ...]
    others: int = 0
    """Tests that p is corrected over too, of pairs without the reference: more than none where the numbers chose it."""
    at_once: tuple[AllAtOnce, ...]
    ranks: tuple[Rank, ...]
    notes: tuple[str, ...] = ()
    """A sentence each, such as that images are duplicates."""
