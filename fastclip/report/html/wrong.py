"""Wrong images of the shown column: which of them the page shows, and of how many."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from fastclip.files import digest
from fastclip.report.html.shown import Shown
from fastclip.results.answers import NO_ANSWER, DomainAnswers
from fastclip.results.cells import Column

SHARES = {"suspects": 0.4, "sample": 0.4, "leads": 0.2}
"""Of the pictures of a dataset."""
MOST_WITHOUT_PICTURES = 24
"""Images of a list, where there is no picture of them."""


@dataclass(frozen=True)
class Place:
    """One image: a row of the answers of one domain."""

    domain: int
    row: int


@dataclass(frozen=True, kw_only=True)
class WrongImage:
    """One wrong image, as the page tells of it."""

    domain: str
    key: str
    path: str
    true: str
    predicted: str
    margin: float
    """The lead of the predicted class over the second, in cosine; of suspects the smallest of all columns."""
    right: tuple[Column, ...]
    """The columns beside that are right."""


@dataclass(frozen=True, kw_only=True)
class WrongList:
    """Some wrong images, and of how many they are."""

    kind: str
    """`suspects`, `sample` or `leads`."""
    total: int
    places: tuple[Place, ...]
    images: tuple[WrongImage, ...]


@dataclass(frozen=True)
class _Rows:
    """Rows of all domains, one after the other."""

    domains: Int64[np.ndarray, " rows"]
    rows: Int64[np.ndarray, " rows"]
    leads: Float32[np.ndarray, " rows"]

    def largest(self, count: int) -> list[Place]:
        """Those with the largest lead; of equal ones the first."""
        order = np.argsort(-self.leads, kind="stable")[:count]
        return self.places(order.tolist())

    def places(self, numbers: Sequence[int]) -> list[Place]:
        return [Place(int(self.domains[each]), int(self.rows[each])) for each in numbers]


def wrong_lists(shown: Shown, pictures: int, *, with_pictures: bool) -> Iterator[WrongList]:
    """The lists of a dataset, with `pictures` images in all; without pictures they are short."""
    counts = {kind: int(pictures * share) for kind, share in SHARES.items()}
    if not with_pictures:
        counts = dict.fromkeys(SHARES, MOST_WITHOUT_PICTURES)
    if len(shown.beside) > 1:
        rows = _suspects(shown)
        yield _list(shown, "suspects", rows, rows.largest(counts["suspects"]))
    rows = _wrong(shown)
    total = len(rows.rows)
    seed = int(digest(f"{shown.dataset.manifest_sha256} {shown.column}".encode())[:16], 16)
    # Python's own generator: NumPy promises no stream from one version to the next.
    sample = sorted(random.Random(seed).sample(range(total), min(total, counts["sample"])))
    yield _list(shown, "sample", rows, rows.places(sample))
    yield _list(shown, "leads", rows, rows.largest(counts["leads"]))


def _list(shown: Shown, kind: str, rows: _Rows, places: Sequence[Place]) -> WrongList:
    images = tuple(_describe(shown, each, shown.beside if kind == "suspects" else (shown.column,)) for each in places)
    return WrongList(kind=kind, total=len(rows.rows), places=tuple(places), images=images)


def _wrong(shown: Shown) -> _Rows:
    """All images that the shown column classifies, and wrongly."""
    found = []
    for each in shown.domains:
        answers = each.columns[shown.column]
        rows = np.flatnonzero(answers.classified & ~answers.right)
        found.append((rows, answers.margin[rows]))
    return _joined(found)


def _suspects(shown: Shown) -> _Rows:
    """The images that all columns beside give to one class that is not theirs, with the smallest of their leads."""
    found = []
    for each in shown.domains:
        first, *others = (each.columns[column] for column in shown.beside)
        agreed = (first.predicted != each.labels) & (first.predicted != NO_ANSWER)
        for other in others:
            agreed &= other.predicted == first.predicted
        rows = np.flatnonzero(agreed)
        lead = first.margin[rows]
        for other in others:
            lead = np.minimum(lead, other.margin[rows])
        found.append((rows, lead))
    return _joined(found)


def _joined(found: Sequence[tuple[np.ndarray, np.ndarray]]) -> _Rows:
    domains = [np.full(len(rows), number, np.int64) for number, (rows, _) in enumerate(found)]
    return _Rows(
        np.concatenate(domains),
        np.concatenate([rows.astype(np.int64) for rows, _ in found]),
        np.concatenate([leads for _, leads in found]),
    )


def _describe(shown: Shown, place: Place, sure: Sequence[Column]) -> WrongImage:
    """The image at a place; its margin is the smallest of the columns `sure`."""
    answers: DomainAnswers = shown.domains[place.domain]
    own, row = answers.columns[shown.column], place.row
    return WrongImage(
        domain=answers.domain,
        key=str(answers.keys[row]),
        path=str(answers.paths[row]),
        true=shown.class_name(int(answers.labels[row])),
        predicted=shown.class_name(int(own.predicted[row])),
        margin=min(float(answers.columns[column].margin[row]) for column in sure),
        right=tuple(column for column in shown.beside if answers.columns[column].right[row]),
    )
