"""The answers of a run, dealt out to the images of one shard after the other, under names that any program takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fastclip.data.shards.manifest import Shard
from fastclip.errors import IntegrityError
from fastclip.results.answers import NO_ANSWER, ColumnAnswers, PredictionRows
from fastclip.results.cells import Column


def identifiers(columns: Iterable[Column]) -> dict[str, Column]:
    """Each column under a name of small letters, digits and underscores that no other has: `vit_b_32_photo`."""
    found: dict[str, Column] = {}
    for column in columns:
        words = re.sub("[^a-z0-9]+", "_", f"{column.backbone} {column.way}".lower()).strip("_")[:60] or "answers"
        plain = words if words[0].isalpha() else f"c_{words}"
        name, number = plain, 1
        while name in found:
            number += 1
            name = f"{plain}_{number}"
        found[name] = column
    return found


class Dealt:
    """The answers of a run. Shards must be asked for in the order of their manifest."""

    def __init__(self, rows: PredictionRows) -> None:
        self._domains = rows.domains
        self._next = dict.fromkeys(rows.domains, 0)
        self.columns: Mapping[str, Column] = identifiers(
            dict.fromkeys(column for each in rows.domains.values() for column in each.columns)
        )
        """By identifier."""

    def of(
        self, dataset: str, shard: Shard, keys: Sequence[str], digests: Sequence[str]
    ) -> dict[str, ColumnAnswers | None]:
        """The answers for the images of a shard's index, and NO_ANSWER for those that were not asked about.

        None for a column that did not answer in this domain. Raises `IntegrityError` for answers about other bytes.
        """
        place = dataset, shard.domain
        answers, first = self._domains[place], self._next[place]
        theirs = answers.keys[first : first + len(keys)]
        rows: list[int] = []
        for row, key in enumerate(keys):
            if len(rows) < len(theirs) and theirs[len(rows)] == key:
                rows.append(row)
        asked = slice(first, first + len(rows))
        if [digests[row] for row in rows] != list(answers.digests[asked]):
            raise _other_images(f"{dataset}/{shard.name}")
        self._next[place] = asked.stop
        return {
            name: _spread(answers.columns[column], asked, rows, len(keys)) if column in answers.columns else None
            for name, column in self.columns.items()
        }

    def check_all_dealt(self) -> None:
        """Raise `IntegrityError` if an answer is about an image that no shard has."""
        for (dataset, domain), answers in self._domains.items():
            if self._next[dataset, domain] != len(answers.labels):
                raise _other_images(f"{dataset}/{domain}")


def _spread(own: ColumnAnswers, asked: slice, rows: Sequence[int], images: int) -> ColumnAnswers:
    spread = []
    for values in (own.predicted, own.rank, own.margin):
        whole = np.full(images, NO_ANSWER, values.dtype)
        whole[rows] = values[asked]
        spread.append(whole)
    return ColumnAnswers(*spread)


def _other_images(place: str) -> IntegrityError:
    return IntegrityError(
        f"The predictions of {place} are about other images than its shards hold.",
        fix="Run the evaluation again; nothing is embedded twice.",
    )
