"""The layout of clip-retrieval, which autofaiss and embedding-reader read: numbered pairs of a matrix and a table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastclip.features.export.rows import Rows, known_of_images
from fastclip.features.read import Features


def write_clip_retrieval(folder: Path, features: Features, rows: Iterable[Rows]) -> None:
    """Write `img_emb/img_emb_N.npy` (fp16) and `metadata/metadata_N.parquet`, a pair for each shard that has rows.

    Readers sort names as text, so all numbers have the same length. They skip an empty matrix and not its table: from
    there on every row would get the table of another.
    """
    target = features.target
    digits = len(str(max(0, sum(1 for _ in target.shards) - 1)))
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir()
    for number, each in enumerate(rows):
        known = known_of_images(each)
        paths = [f"{each.shard.domain}/{record.path}" for record in each.records]
        captions = [target.manifest.names[record.label] for record in each.records]
        table = known.add_column(0, "caption", pa.array(captions, pa.string()))
        table = table.add_column(0, "image_path", pa.array(paths, pa.string()))
        np.save(folder / "img_emb" / f"img_emb_{number:0{digits}}.npy", each.vectors.astype("<f2", copy=False))
        pq.write_table(table, folder / "metadata" / f"metadata_{number:0{digits}}.parquet", compression="zstd")
