"""A result that this process has made: its answers are in memory, not in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fastclip.results.files.kept import KeptResult

if TYPE_CHECKING:
    from fastclip.results.answers import DomainAnswers, PredictionRows, ShardAnswers
    from fastclip.results.cells import Column, Evaluation


@dataclass(frozen=True)
class ScoredResult(KeptResult):
    """A result with the answers behind it."""

    answers: Sequence[ShardAnswers] = ()

    @property
    def has_answers(self) -> bool:
        """Whether `rows` are there."""
        return True

    @cached_property
    def rows(self) -> PredictionRows:
        """The answers, image by image. Reads the indexes of the shards, for keys and paths."""
        from fastclip.results.answers import PredictionRows, by_domain

        assert self.result and self.result.predictions, "it was made with the facts of its predictions"
        return PredictionRows(
            facts=self.result.predictions,
            domains={place: _domain(*place, columns) for place, columns in by_domain(self.answers).items()},
            fingerprints={each.name: each.fingerprints for each in self.result.datasets},
            manifests={each.name: each.manifest_sha256 for each in self.result.datasets},
        )


def scored(command: str, evaluation: Evaluation, answers: Sequence[ShardAnswers]) -> ScoredResult:
    """The result of a run, called as its folder would be: equal work has the same name."""
    from fastclip.results.files.runs import run_name, with_predictions

    name = run_name(command, evaluation)
    return ScoredResult(name, with_predictions(evaluation, answers), None, tuple(answers))


def _domain(dataset: str, domain: str, columns: dict[Column, list[ShardAnswers]]) -> DomainAnswers:
    import numpy as np

    from fastclip.data.shards.reader import read_images
    from fastclip.results.answers import DomainAnswers, joined

    shards = next(iter(columns.values()))
    images = [read_images(each.folder, each.shard) for each in shards]
    labels = [found.labels[each.rows] for found, each in zip(images, shards, strict=True)]
    return DomainAnswers(
        dataset=dataset,
        domain=domain,
        labels=np.concatenate(labels).astype(np.int32),
        columns={column: joined(each) for column, each in columns.items()},
        keys=[found.keys[row] for found, each in zip(images, shards, strict=True) for row in each.rows],
        paths=[found.paths[row] for found, each in zip(images, shards, strict=True) for row in each.rows],
        digests=[found.digests[row] for found, each in zip(images, shards, strict=True) for row in each.rows],
    )
