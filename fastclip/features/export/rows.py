"""The rows of an export: a row a readable image, in manifest order, with all that is known of the image."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float32

from fastclip.data.shards.manifest import ImageRecord, Shard
from fastclip.data.shards.reader import read_index
from fastclip.data.shards.targets import Target
from fastclip.errors import IntegrityError
from fastclip.features.read import Features
from fastclip.threads import threads

SHARDS_AHEAD = 2
"""Shards that are in memory beside the one that is written."""


KNOWN = pa.schema(
    [
        ("dataset", pa.string()),
        ("domain", pa.string()),
        ("key", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("label", pa.int32()),
        ("class", pa.string()),
        ("norm", pa.float32()),
    ]
)
"""The columns of an image."""


@dataclass(frozen=True)
class Rows:
    """The rows that one shard gives."""

    target: Target
    shard: Shard
    records: list[ImageRecord]
    vectors: Float[np.ndarray, "images dim"]
    """Unit vectors as they are stored, or raw ones in fp32."""
    norms: Float32[np.ndarray, " images"]
    unreadable: list[tuple[ImageRecord, str]]
    """Images that have no row, and why."""

    @property
    def single(self) -> Float32[np.ndarray, "images dim"]:
        """The vectors in fp32."""
        return self.vectors.astype(np.float32, copy=False)


@runtime_checkable
class Writer(Protocol):
    """Writes all rows to files of one format."""

    def __call__(self, folder: Path, features: Features, rows: Iterable[Rows]) -> None:
        """Write into `folder`, which is there and empty. Each of `rows` has at least one row."""


def read_rows(features: Features, raw: bool) -> Iterator[Rows]:
    """The rows of every shard in manifest order, read ahead in a thread. Raises as iterating over `features` does."""

    def read(shard: Shard) -> Rows:
        found = features.of(shard)
        if not np.isfinite(found.vectors).all():
            raise IntegrityError(
                f"An embedding of {features.target.name}/{shard.name} is not finite.",
                fix="Remove the embeddings (fastclip store) and embed the images again.",
            )
        index = read_index(features.target.folder, shard)
        return Rows(
            features.target,
            shard,
            [index[row] for row in found.rows],
            found.raw() if raw else found.vectors,
            found.norms,
            [(index[row], reason) for row, reason in found.unreadable],
        )

    ahead: deque[Future[Rows]] = deque()
    # Two threads took no less time: most of it is JSON, which one thread at a time reads.
    with threads(1, "features") as pool:
        for shard in features.target.shards:
            ahead.append(pool.submit(read, shard))
            if len(ahead) > SHARDS_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def known_of_images(rows: Rows) -> pa.Table:
    """All that is known of the images of `rows`, without their vectors: the columns of `KNOWN`."""
    images, classes = len(rows.records), rows.target.manifest.classes
    columns: list[list[object] | np.ndarray] = [
        [rows.target.name] * images,
        [rows.shard.domain] * images,
        [each.key for each in rows.records],
        [each.path for each in rows.records],
        [each.sha256 for each in rows.records],
        [each.label for each in rows.records],
        [classes[each.label] for each in rows.records],
        rows.norms,
    ]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, KNOWN, strict=True)], KNOWN)


def file_name(backbone: str) -> str:
    """A backbone's name as the name of a file, spelt as jindongwang/transferlearning does: `ViT-B_32`."""
    return re.sub(r"[^\w.@+-]", "_", backbone)
