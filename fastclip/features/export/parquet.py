"""One Parquet file: a row group a shard, vectors as lists of fixed length in fp32.

fp16 would halve the file, but pandas and Polars have failed to read fp16 from Parquet for years.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fastclip.features.export.rows import KNOWN, Rows, known_of_images
from fastclip.features.read import Features

NAME = "features.parquet"
VECTOR = "embedding"
"""The column that embedding-reader takes unless told otherwise."""


def write_parquet(folder: Path, features: Features, rows: Iterable[Rows]) -> None:
    """Write `features.parquet`."""
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), features.dim)
    schema = KNOWN.append(pa.field(VECTOR, vector, nullable=False))
    with pq.ParquetWriter(
        folder / NAME,
        schema,
        # Vectors are noise: compressing them takes ten times as long as writing them and saves 8 %.
        compression={**dict.fromkeys(KNOWN.names, "zstd"), f"{VECTOR}.list.element": "none"},
        use_dictionary=["dataset", "domain", "class"],
        write_statistics=KNOWN.names,
    ) as writer:
        for each in rows:
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(each.single.ravel()), type=vector)
            table = known_of_images(each).append_column(schema.field(VECTOR), vectors)
            writer.write_table(table, row_group_size=len(table))
