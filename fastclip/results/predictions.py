"""Predictions as a Parquet file, a row an image: every count can be traced back to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from fastclip.data.shards.manifest import Shard
from fastclip.data.shards.reader import read_index
from fastclip.files import replace_file
from fastclip.heads.scores import Predictions
from fastclip.results.cells import ZERO_SHOT
from fastclip.results.pairs import Pair
from fastclip.storage.folders import Folder


@dataclass(frozen=True)
class ShardPredictions:
    """The answers for one shard of the dataset in `folder`.

    Index rows that are asked about and not in `rows` are unreadable.
    """

    folder: Folder
    shard: Shard
    backbone: str
    prompts: str
    head: str
    rows: Int64[np.ndarray, " answers"]
    predictions: Predictions
    asked: Bool[np.ndarray, " images"] | None = None
    """Which rows of the index are asked about; None means all."""


def write_predictions(path: Path, answers: Iterable[ShardPredictions]) -> None:
    """Write a row an image, backbone and head to a Parquet file, replacing it."""
    import pyarrow as pa  # its import takes a tenth of a second, and few runs need it
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("dataset", pa.string()),
            ("domain", pa.string()),
            ("key", pa.string()),
            ("path", pa.string()),
            ("label", pa.int32()),
            ("backbone", pa.string()),
            ("prompts", pa.string()),
            ("head", pa.string()),
            ("predicted", pa.int32()),  # null where the image is unreadable, and so are the next two
            ("rank", pa.int32()),
            ("margin", pa.float32()),
        ]
    )

    def write(file: Any) -> None:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for answer in answers:
                writer.write_table(pa.Table.from_pylist(list(_rows(answer)), schema))

    replace_file(path, write)


def _rows(answer: ShardPredictions) -> Iterator[dict[str, Any]]:
    found = {
        row: (int(predicted), int(rank), float(margin))
        for row, predicted, rank, margin in zip(
            answer.rows.tolist(),
            answer.predictions.predicted,
            answer.predictions.rank,
            answer.predictions.margin,
            strict=True,
        )
    }
    for row, record in enumerate(read_index(answer.folder, answer.shard)):
        if answer.asked is not None and not answer.asked[row]:
            continue
        predicted, rank, margin = found.get(row, (None, None, None))
        yield {
            "dataset": answer.folder.name,
            "domain": answer.shard.domain,
            "key": record.key,
            "path": record.path,
            "label": record.label,
            "backbone": answer.backbone,
            "prompts": answer.prompts,
            "head": answer.head,
            "predicted": predicted,
            "rank": rank,
            "margin": margin,
        }


def pairs(answers: Iterable[ShardPredictions], prompts: str) -> list[Pair]:
    """Every fitted head beside zero-shot with a prompt set, domain by domain."""
    groups: dict[tuple[str, str, str], dict[str, list[np.ndarray]]] = {}
    for each in answers:
        if each.head == ZERO_SHOT and each.prompts != prompts:
            continue
        of_heads = groups.setdefault((each.folder.name, each.shard.domain, each.backbone), {})
        of_heads.setdefault(each.head, []).append(each.predictions.rank == 0)
    return [pair for key, of_heads in groups.items() for pair in _pairs(*key, prompts, of_heads)]


def _pairs(
    dataset: str, domain: str, backbone: str, prompts: str, right: dict[str, list[np.ndarray]]
) -> Iterator[Pair]:
    joined: dict[str, np.ndarray] = {head: np.concatenate(found) for head, found in right.items()}
    zero_shot = joined.pop(ZERO_SHOT)
    for head, found in joined.items():
        yield Pair(
            dataset=dataset,
            domain=domain,
            backbone=backbone,
            head=head,
            prompts=prompts,
            only_head=int((found & ~zero_shot).sum()),
            only_zero_shot=int((zero_shot & ~found).sum()),
        )
