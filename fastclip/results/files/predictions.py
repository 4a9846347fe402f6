"""Predictions as a Parquet file, a row an image and column: every count can be traced back to them.

The file proves itself by the SHA-256 of its rows: of each column the SHA-256 of its values, and of those the SHA-256.
Other versions of Parquet libraries write other bytes for the same rows, so the file's own digest would not do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastclip.data.shards.reader import read_images
from fastclip.files import digest, replace_file
from fastclip.results.answers import NO_ANSWER, ShardAnswers
from fastclip.results.cells import Evaluation, PredictionFile
from fastclip.threads import threads

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "fastclip.predictions/1"
PREDICTIONS = "predictions.parquet"
DIGEST = "fastclip.sha256"
"""The entry of the file's metadata that holds the digest of its rows."""

TEXTS = ("dataset", "domain", "key", "path", "sha256", "backbone", "prompts", "head")
NUMBERS = {"label": np.int32, "predicted": np.int32, "rank": np.int32, "margin": np.float32}
ORDER = ("dataset", "domain", "key", "path", "sha256", "label", "backbone", "prompts", "head", "predicted", "rank",
         "margin")  # fmt: skip

ROWS_PER_GROUP = 65_536
"""Rows of a row group, at least, unless it is the last."""


def write_predictions(path: Path, answers: Iterable[ShardAnswers], evaluation: Evaluation) -> PredictionFile:
    """Write a row an image and column to a Parquet file, replacing it; unreadable images have nulls for an answer."""
    import pyarrow.parquet as pq  # its import takes a tenth of a second

    state = RowDigest()

    def write(file: Any) -> None:
        with pq.ParquetWriter(file, _schema(evaluation), compression="zstd") as writer, threads(1, "digest") as pool:
            for table in _row_groups(answers, evaluation):
                digested = pool.submit(state.update, table)
                writer.write_table(table, row_group_size=table.num_rows)
                digested.result()
            writer.add_key_value_metadata({DIGEST: state.hexdigest()})

    replace_file(path, write)
    return PredictionFile(file=PREDICTIONS, sha256=state.hexdigest(), rows=state.rows)


def digest_predictions(answers: Iterable[ShardAnswers], evaluation: Evaluation) -> PredictionFile:
    """The facts of the file that `write_predictions` would write."""
    state = RowDigest()
    for table in _row_groups(answers, evaluation):
        state.update(table)
    return PredictionFile(file=PREDICTIONS, sha256=state.hexdigest(), rows=state.rows)


def _schema(evaluation: Evaluation) -> pa.Schema:
    import pyarrow as pa

    kinds = {np.int32: pa.int32(), np.float32: pa.float32()}
    rows = [(name, kinds[NUMBERS[name]] if name in NUMBERS else pa.string()) for name in ORDER]
    facts = {
        "schema": SCHEMA,
        "fastclip": evaluation.program,
        "fingerprints": {each.name: dict(each.fingerprints) for each in evaluation.datasets},
        "manifests": {each.name: each.manifest_sha256 for each in evaluation.datasets},
    }
    return pa.schema(rows, metadata={"fastclip": json.dumps(facts, sort_keys=True)})


def _row_groups(answers: Iterable[ShardAnswers], evaluation: Evaluation) -> Iterator[pa.Table]:
    """The rows of all answers. Those of a shard stay together: its keys and paths are then stored once."""
    of_shards: dict[tuple[str, str], list[ShardAnswers]] = {}
    for each in answers:
        of_shards.setdefault((each.folder.name, each.shard.name), []).append(each)
    schema = _schema(evaluation)
    waiting: list[pa.Table] = []
    for of_shard in of_shards.values():
        waiting += _tables(of_shard, schema)
        if sum(each.num_rows for each in waiting) >= ROWS_PER_GROUP:
            yield join(*waiting).combine_chunks()
            waiting = []
    if waiting:
        yield join(*waiting).combine_chunks()


def _tables(of_shard: Sequence[ShardAnswers], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of one shard, a table for each column."""
    import pyarrow as pa

    first = of_shard[0]
    images, rows = read_images(first.folder, first.shard), first.rows
    common = {"dataset": pa.repeat(first.folder.name, len(rows)), "domain": pa.repeat(first.shard.domain, len(rows))}
    for name, texts in (("key", images.keys), ("path", images.paths), ("sha256", images.digests)):
        common[name] = pa.array(texts, pa.string()).take(pa.array(rows))
    common["label"] = pa.array(images.labels[rows].astype(np.int32))
    for each in of_shard:
        assert np.array_equal(each.rows, rows), "columns of one shard are asked about the same images"
        values = {**common, **{name: pa.repeat(word, len(rows)) for name, word in each.column._asdict().items()}}
        for name in ("predicted", "rank", "margin"):
            values[name] = pa.array(getattr(each.answers, name), mask=~each.answers.classified)
        yield pa.table([values[name] for name in ORDER], schema=schema)


class RowDigest:
    """The digest of rows, however they are cut into tables."""

    def __init__(self) -> None:
        self.rows = 0
        self._states = {name: [hashlib.sha256(), hashlib.sha256()] for name in ORDER}

    def update(self, table: pa.Table) -> None:
        """Add the rows of a table."""
        self.rows += table.num_rows
        for name in ORDER:
            values, lengths = self._states[name]
            for chunk in table.column(name).chunks:
                if name in NUMBERS:
                    values.update(numbers(chunk, name).tobytes())
                else:
                    data, sizes = _text_bytes(chunk)
                    values.update(data)
                    lengths.update(sizes)

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return digest(b"".join(state.digest() for name in ORDER for state in self._states[name]))


def join(*tables: pa.Table) -> pa.Table:
    """The rows of several tables, one after the other."""
    import pyarrow as pa

    return pa.concat_tables(tables)


def numbers(chunk: pa.Array, name: str) -> np.ndarray:
    """The values of a column of NUMBERS, NO_ANSWER for null."""
    filled: np.ndarray = chunk.fill_null(NO_ANSWER).to_numpy(zero_copy_only=False)
    return filled.astype(NUMBERS[name], copy=False)


def _text_bytes(chunk: pa.Array) -> tuple[bytes, bytes]:
    """All letters of a column of texts, and the length of each as int32, which together are the texts."""
    import pyarrow.compute as pc

    if chunk.null_count:
        raise ValueError("a text is missing")
    lengths = pc.binary_length(chunk).to_numpy(zero_copy_only=False).astype(np.int32)
    start = np.frombuffer(chunk.buffers()[1], np.int32, count=chunk.offset + len(chunk) + 1)[chunk.offset :]
    letters = chunk.buffers()[2]
    return (letters[int(start[0]) : int(start[-1])].to_pybytes() if letters else b""), lengths.tobytes()
