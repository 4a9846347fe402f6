"""Classes of the shown column: how many of each are right, and which are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Int64

from fastclip.report.html.shown import Shown, confusion_counts
from fastclip.results.statistics import Interval, wilson

WORST = 20
MOST_CONFUSIONS = 50


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class, over all domains."""

    name: str
    right: int
    images: int
    """Those that were classified."""
    interval: Interval | None
    taken_for: str
    """The class that its wrong images are most often taken for; empty if none is wrong."""
    taken: int

    @property
    def recall(self) -> Fraction | None:
        """The share of its images that are right; None without images."""
        return Fraction(self.right, self.images) if self.images else None


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Images of one class that are taken for one other."""

    true: str
    predicted: str
    count: int
    images: int
    """Of the true class."""


@dataclass(frozen=True, kw_only=True)
class ClassReport:
    """The classes of a dataset under its shown column."""

    shown: Shown
    counts: Int64[np.ndarray, "classes classes"]
    rows: tuple[ClassRow, ...]
    """In label order."""
    confusions: tuple[Confusion, ...]
    """The largest, and `pairs` says of how many."""
    pairs: int
    per_class: Fraction | None
    """The mean of the recalls of classes with images."""

    @property
    def worst(self) -> Sequence[ClassRow]:
        """The classes with the lowest recall, worst first; of equal ones the one with more images."""
        seen = [
            (row.recall, -row.images, number, row) for number, row in enumerate(self.rows) if row.recall is not None
        ]
        return [row for *_, row in sorted(seen, key=lambda each: each[:3])[:WORST]]


def class_report(shown: Shown) -> ClassReport:
    """Counts, recalls and confusions of the shown column."""
    counts = confusion_counts(shown)
    names = [shown.class_name(label) for label in range(len(counts))]
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    images = counts.sum(axis=1)
    rows = []
    for label, name in enumerate(names):
        right, total, other = int(counts[label, label]), int(images[label]), int(wrong[label].argmax())
        taken = int(wrong[label, other])
        interval = wilson(right, total) if total else None
        rows.append(
            ClassRow(name=name, right=right, images=total, interval=interval, taken_for=names[other] if taken else "",
                     taken=taken)
        )  # fmt: skip
    order = np.argsort(-wrong, axis=None, kind="stable")[: min(MOST_CONFUSIONS, np.count_nonzero(wrong))]
    confusions = [
        Confusion(true=names[true], predicted=names[other], count=int(wrong[true, other]), images=int(images[true]))
        for true, other in zip(*np.unravel_index(order, wrong.shape), strict=True)
    ]
    recalls = [row.recall for row in rows if row.recall is not None]
    return ClassReport(
        shown=shown,
        counts=counts,
        rows=tuple(rows),
        confusions=tuple(confusions),
        pairs=int(np.count_nonzero(wrong)),
        per_class=sum(recalls, Fraction(0)) / len(recalls) if recalls else None,
    )
