"""Answers image by image: of one shard, as they are scored, and of a whole domain, as counts are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from fastclip.data.shards.manifest import Shard
from fastclip.heads.scores import Predictions
from fastclip.results.cells import Column, PredictionFile
from fastclip.storage.folders import Folder

NO_ANSWER = -1
"""The predicted class, the rank and the margin of an unreadable image."""


@dataclass(frozen=True)
class ColumnAnswers:
    """Of each image the best class, the rank of the true one (0 is best) and the best score's lead over the second."""

    predicted: Int32[np.ndarray, " images"]
    rank: Int32[np.ndarray, " images"]
    margin: Float32[np.ndarray, " images"]

    @property
    def classified(self) -> Bool[np.ndarray, " images"]:
        """Which images have an answer; the others are unreadable."""
        return self.rank != NO_ANSWER

    @property
    def right(self) -> Bool[np.ndarray, " images"]:
        """Which images are classified correctly."""
        return self.rank == 0


@dataclass(frozen=True)
class ShardAnswers:
    """The answers of one column for the images of one shard that are asked about, in the order of its index."""

    folder: Folder
    """Of the dataset."""
    shard: Shard
    column: Column
    rows: Int64[np.ndarray, " images"]
    """Their rows in the index."""
    answers: ColumnAnswers


@dataclass(frozen=True)
class DomainAnswers:
    """The answers of several columns for the same images of one domain, in one order."""

    dataset: str
    domain: str
    labels: Int32[np.ndarray, " images"]
    columns: Mapping[Column, ColumnAnswers]
    keys: Sequence[str] = ()
    """Unique in shards that fastclip wrote. Empty where nobody asked for them, and so are the next two."""
    paths: Sequence[str] = ()
    """CLASS/FILE of the source."""
    digests: Sequence[str] = ()
    """SHA-256 of each image's bytes."""


@dataclass(frozen=True)
class PredictionRows:
    """The rows of a file of predictions: the answers by (dataset, domain), and the images that they are about."""

    facts: PredictionFile
    """Of the rows that were read."""
    domains: Mapping[tuple[str, str], DomainAnswers]
    fingerprints: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Dataset → domain → fingerprint. Empty for a file of before."""
    manifests: Mapping[str, str] = field(default_factory=dict)
    """Dataset → SHA-256 of its manifest: only under one manifest do equal keys mean equal images."""


def align(
    images: int,
    asked: Int64[np.ndarray, " asked"],
    rows: Int64[np.ndarray, " answers"],
    predictions: Predictions,
) -> ColumnAnswers:
    """The answers for the rows `asked` of an index of `images` rows; `predictions` are those of `rows`."""
    columns = []
    for values, kind in ((predictions.predicted, np.int32), (predictions.rank, np.int32),
                         (predictions.margin, np.float32)):  # fmt: skip
        whole = np.full(images, NO_ANSWER, kind)
        whole[rows] = values
        columns.append(whole[asked])
    return ColumnAnswers(*columns)


def by_domain(answers: Iterable[ShardAnswers]) -> dict[tuple[str, str], dict[Column, list[ShardAnswers]]]:
    """The answers by (dataset, domain) and column, in the order in which they come."""
    found: dict[tuple[str, str], dict[Column, list[ShardAnswers]]] = {}
    for each in answers:
        found.setdefault((each.folder.name, each.shard.domain), {}).setdefault(each.column, []).append(each)
    return found


def joined(answers: Sequence[ShardAnswers]) -> ColumnAnswers:
    """The answers of one column for several shards, one after the other."""
    return ColumnAnswers(
        np.concatenate([each.answers.predicted for each in answers]),
        np.concatenate([each.answers.rank for each in answers]),
        np.concatenate([each.answers.margin for each in answers]),
    )
