"""The rows of `items.parquet`: an image each, with its place in the plane, answers, embedding and thumbnail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from fastclip.data.shards.manifest import ImageRecord
from fastclip.data.shards.targets import Target
from fastclip.results.answers import ColumnAnswers

ROWS_PER_GROUP = 25_000
"""Rows of a row group at most: browsers read a group at once."""

FIRST = (("class", pa.string()), ("domain", pa.string()), ("key", pa.string()))
"""The columns of an image that stand before the answers about it: viewers show the first ones."""

KNOWN = (
    ("dataset", pa.string()),
    ("label", pa.int32()),
    ("path", pa.string()),
    ("sha256", pa.string()),
    ("x", pa.float32()),
    ("y", pa.float32()),
    ("embedding", pa.list_(pa.float32())),
)
"""Those that stand behind them."""

ANSWER = {"predicted": pa.string(), "right": pa.bool_(), "rank": pa.int32(), "margin": pa.float32()}
"""The columns of an answer: each is called `IDENTIFIER_predicted`, and so on."""

THUMBNAILS = {
    "atlas": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "spotlight": pa.binary(),
    "fiftyone": pa.string(),
}
"""The type of the column `thumb` by viewer: a picture, or where it lies in the folder."""


def schema_of(columns: Sequence[str], viewer: str, *, thumbnails: bool) -> pa.Schema:
    """The columns of a file of items, whose answers have the identifiers `columns`."""
    picture = [("thumb", THUMBNAILS[viewer])] if thumbnails else []
    answers = [(f"{column}_{name}", kind) for column in columns for name, kind in ANSWER.items()]
    return pa.schema([*picture, *FIRST, *answers, *KNOWN])


def shown_classes(target: Target) -> list[str]:
    """The readable name of each class, with its folder's where two classes have the same."""
    manifest = target.manifest
    counts = Counter(manifest.names)
    return [
        name if counts[name] == 1 else f"{name} ({folder})"
        for name, folder in zip(manifest.names, manifest.classes, strict=True)
    ]


def item_columns(
    target: Target,
    domain: str,
    records: Sequence[ImageRecord],
    places: np.ndarray,
    vectors: Float32[np.ndarray, "images dim"],
) -> dict[str, Any]:
    """The columns of some images of one domain, but for answers and thumbnails. `places` are those in the plane."""
    classes = shown_classes(target)
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    return {
        "key": [each.key for each in records],
        "dataset": [target.name] * len(records),
        "domain": [domain] * len(records),
        "class": [classes[each.label] for each in records],
        "label": [each.label for each in records],
        "path": [each.path for each in records],
        "sha256": [each.sha256 for each in records],
        "x": places[:, 0].astype(np.float32),
        "y": places[:, 1].astype(np.float32),
        "embedding": pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel())),
    }


def answer_columns(
    answers: Mapping[str, ColumnAnswers | None], rows: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """The columns of the answers for some rows of a shard's index; null where there is none."""
    found: dict[str, Any] = {}
    for column, own in answers.items():
        if own is None:
            found |= {f"{column}_{name}": pa.nulls(len(rows), kind) for name, kind in ANSWER.items()}
            continue
        without = ~own.classified[rows]
        words = np.array([*classes, ""], object)  # NO_ANSWER takes the last
        values = {
            "predicted": words[own.predicted[rows]],
            "right": own.right[rows],
            "rank": own.rank[rows],
            "margin": own.margin[rows],
        }
        found |= {f"{column}_{name}": pa.array(each, ANSWER[name], mask=without) for name, each in values.items()}
    return found
