"""Greedy forward selection: ensembles that grow by the candidate that helps most, several at once over the same images.

A chooser is given the counts of its own parts and of no others: the labels of a part that is held out cannot reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64

from fastclip.prompts.hold_out import Part

Ensemble: TypeAlias = tuple[int, ...]
"""The numbers of candidates, sorted: equal ensembles are asked about once."""

Counts: TypeAlias = Mapping[Part, Int64[np.ndarray, " candidates"]]
"""The right answers in a part, if each candidate is added to an ensemble."""

Count: TypeAlias = Callable[[Mapping[Ensemble, frozenset[Part]]], Mapping[Ensemble, Counts]]
"""The counts of extended ensembles, each on the parts that are asked for."""


@dataclass
class Chooser:
    """One ensemble that grows."""

    images: Mapping[Part, int]
    """The images of every part that chooses."""
    most: int
    chosen: list[int] = field(default_factory=list)
    """In the order in which they were taken."""
    average: Fraction = Fraction(-1)
    done: bool = False

    @property
    def ensemble(self) -> Ensemble:
        """The chosen ones as the key of their counts."""
        return tuple(sorted(self.chosen))

    def take(self, counts: Counts) -> None:
        """Take the candidate with the best average over domains, the first of equal ones; stop if none is better."""
        averages = self._averages(counts)
        free = (row for row in range(len(averages)) if row not in self.chosen)
        best = max(free, key=lambda row: (averages[row], -row), default=None)
        if best is None or averages[best] <= self.average:
            self.done = True
            return
        self.chosen.append(best)
        self.average = averages[best]
        self.done = len(self.chosen) >= self.most

    def _averages(self, counts: Counts) -> list[Fraction]:
        domains = dict.fromkeys(part.domain for part in self.images)
        right = {domain: sum(counts[part] for part in self.images if part.domain == domain) for domain in domains}
        images = {domain: sum(self.images[part] for part in self.images if part.domain == domain) for domain in domains}
        there = {domain: np.asarray(right[domain]).tolist() for domain in domains if images[domain]}
        rows = range(len(next(iter(there.values()), ())))
        every = ([Fraction(there[each][row], images[each]) for each in there] for row in rows)
        return [sum(each, Fraction(0)) / len(each) for each in every]


def grow(choosers: Sequence[Chooser], count: Count) -> None:
    """Let every chooser grow its ensemble until it is done. One call of `count` is one step of all of them."""
    while active := [each for each in choosers if not each.done]:
        asked: dict[Ensemble, set[Part]] = {}
        for each in active:
            asked.setdefault(each.ensemble, set()).update(each.images)
        found = count({ensemble: frozenset(parts) for ensemble, parts in asked.items()})
        for each in active:
            counts = found[each.ensemble]
            each.take({part: counts[part] for part in each.images})
