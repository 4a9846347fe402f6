"""Predictions as a Parquet file, a row an image and column: every count can be traced back to them.

The file proves itself by the SHA-256 of its rows: of each column the SHA-256 of its values, and of those the SHA-256.
Other versions of Parquet libraries write other bytes for the same rows, so the file's own digest would not do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from fastclip.data.shards.reader import read_images
from fastclip.errors import IntegrityError, UserError, printable
from fastclip.files import digest, replace_file
from fastclip.results.answers import NO_ANSWER, ColumnAnswers, DomainAnswers, ShardAnswers
from fastclip.results.cells import Column, Evaluation, PredictionFile
from fastclip.threads import threads

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "fastclip.predictions/1"
PREDICTIONS = "predictions.parquet"

TEXTS = ("dataset", "domain", "key", "path", "sha256", "backbone", "prompts", "head")
NUMBERS = {"label": np.int32, "predicted": np.int32, "rank": np.int32, "margin": np.float32}
ORDER = ("dataset", "domain", "key", "path", "sha256", "label", "backbone", "prompts", "head", "predicted", "rank",
         "margin")  # fmt: skip

ROWS_PER_GROUP = 65_536
"""Rows of a row group, at least, unless it is the last."""


def write_predictions(path: Path, answers: Iterable[ShardAnswers], evaluation: Evaluation) -> PredictionFile:
    """Write a row an image and column to a Parquet file, replacing it; unreadable images have nulls for an answer."""
    import pyarrow.parquet as pq  # its import takes a tenth of a second

    state = _Digest()

    def write(file: Any) -> None:
        with pq.ParquetWriter(file, _schema(evaluation), compression="zstd") as writer, threads(1, "digest") as pool:
            for table in _row_groups(answers, evaluation):
                digested = pool.submit(state.update, table)
                writer.write_table(table, row_group_size=table.num_rows)
                digested.result()

    replace_file(path, write)
    return PredictionFile(file=PREDICTIONS, sha256=state.hexdigest(), rows=state.rows)


def digest_predictions(answers: Iterable[ShardAnswers], evaluation: Evaluation) -> PredictionFile:
    """The facts of the file that `write_predictions` would write."""
    state = _Digest()
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
            yield _join(*waiting).combine_chunks()
            waiting = []
    if waiting:
        yield _join(*waiting).combine_chunks()


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


class _Digest:
    """The digest of rows, however they are cut into tables."""

    def __init__(self) -> None:
        self.rows = 0
        self._states = {name: [hashlib.sha256(), hashlib.sha256()] for name in ORDER}

    def update(self, table: pa.Table) -> None:
        self.rows += table.num_rows
        for name in ORDER:
            values, lengths = self._states[name]
            for chunk in table.column(name).chunks:
                if name in NUMBERS:
                    values.update(_numbers(chunk, name).tobytes())
                else:
                    data, sizes = _text_bytes(chunk)
                    values.update(data)
                    lengths.update(sizes)

    def hexdigest(self) -> str:
        return digest(b"".join(state.digest() for name in ORDER for state in self._states[name]))


def _numbers(chunk: pa.Array, name: str) -> np.ndarray:
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


@dataclass(frozen=True)
class PredictionRows:
    """A file of predictions: the answers by (dataset, domain), and the images that they are about."""

    facts: PredictionFile
    """Of the rows that were read."""
    domains: Mapping[tuple[str, str], DomainAnswers]
    fingerprints: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Dataset → domain → fingerprint. Empty for a file of before."""
    manifests: Mapping[str, str] = field(default_factory=dict)
    """Dataset → SHA-256 of its manifest: only under one manifest do equal keys mean equal images."""


def read_predictions(path: Path, expected: PredictionFile | None = None) -> PredictionRows:
    """The answers in a file of predictions, those that `expected` names if it is given. About 40 bytes a row.

    Raises `UserError` for another file, and `IntegrityError` for a torn one or for predictions of another run.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"There are no predictions {path}.", fix="fastclip eval … --predictions FILE writes them.")
    state = _Digest()
    domains: dict[tuple[str, str], _Growing] = {}
    try:
        with pq.ParquetFile(path) as file:
            facts = json.loads((file.schema_arrow.metadata or {}).get(b"fastclip", b"{}"))
            if missing := [name for name in ORDER if name not in file.schema_arrow.names]:
                raise UserError(
                    f"{path} has no column {missing[0]}: it is no file of predictions, or one of before.",
                    fix="fastclip eval … --predictions FILE writes it anew.",
                )
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, columns=list(ORDER)).combine_chunks()
                state.update(table)
                for place, columns in _by_place(table).items():
                    domains.setdefault(place, _Growing()).add(columns)
        answers = {place: each.answers(*place) for place, each in domains.items()}
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = printable(str(error).splitlines()[0]) if str(error) else type(error).__name__
        raise IntegrityError(
            f"{path} is torn, or no file of predictions: {reason}.", fix="Write it again, by the command that made it."
        ) from None
    found = PredictionFile(file=path.name, sha256=state.hexdigest(), rows=state.rows)
    if expected and (found.sha256, found.rows) != (expected.sha256, expected.rows):
        raise IntegrityError(
            f"{path} holds predictions of another run: {found.rows:,} rows, {found.sha256[:12]}; the result was made "
            f"with {expected.rows:,} rows, {expected.sha256[:12]}.",
            fix="--predictions FILE with those of this result, or leave it out",
        )
    return PredictionRows(found, answers, facts.get("fingerprints", {}), facts.get("manifests", {}))


def _by_place(table: pa.Table) -> dict[tuple[str, str], dict[Column, pa.Table]]:
    """The rows of a row group by (dataset, domain) and column."""
    names = ("dataset", "domain", "backbone", "head", "prompts")
    codes, words = [], []
    for name in names:
        encoded = table.column(name).combine_chunks().dictionary_encode()
        codes.append(encoded.indices.to_numpy())
        words.append(encoded.dictionary.to_pylist())
    starts = np.flatnonzero(np.r_[True, np.any([np.diff(each) != 0 for each in codes], axis=0)])
    found: dict[tuple[str, str], dict[Column, pa.Table]] = {}
    for start, end in zip(starts, np.r_[starts[1:], table.num_rows], strict=True):
        dataset, domain, *column = (word[code[start]] for word, code in zip(words, codes, strict=True))
        of_place, rows = found.setdefault((dataset, domain), {}), table.slice(start, end - start)
        key = Column(*column)
        of_place[key] = _join(of_place[key], rows) if key in of_place else rows
    return found


def _join(*tables: pa.Table) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables(tables)


class _Growing:
    """The answers of one domain, as they are read."""

    def __init__(self) -> None:
        self._images: list[pa.Table] = []
        self._answers: dict[Column, list[list[np.ndarray]]] = {}

    def add(self, columns: Mapping[Column, pa.Table]) -> None:
        """Add the rows of some images: all columns have all of them, in the same order."""
        names = ["key", "path", "sha256", "label"]
        images = next(iter(columns.values())).select(names).combine_chunks()
        if self._answers and self._answers.keys() != columns.keys():
            raise ValueError("some images have no row for a column that others have")
        for column, table in columns.items():
            if not table.select(names).combine_chunks().equals(images):
                raise ValueError(f"{column.backbone}, {column.way}: its images are not those of the other columns")
            numbers = [_whole(table, name) for name in ("predicted", "rank", "margin")]
            self._answers.setdefault(column, []).append(numbers)
        self._images.append(images)

    def answers(self, dataset: str, domain: str) -> DomainAnswers:
        images = _join(*self._images).combine_chunks()
        columns = {
            column: ColumnAnswers(*(np.concatenate(each) for each in zip(*found, strict=True)))
            for column, found in self._answers.items()
        }
        texts = [_Texts(images.column(name).chunk(0)) for name in ("key", "path", "sha256")]
        return DomainAnswers(dataset, domain, _whole(images, "label"), columns, *texts)


class _Texts(Sequence[str]):
    """A column of texts, in a quarter of the memory that a list of them takes."""

    def __init__(self, column: pa.Array) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        found: str | list[str] = (
            self._column[place].to_pylist() if isinstance(place, slice) else self._column[place].as_py()
        )
        return found


def _whole(table: pa.Table, name: str) -> np.ndarray:
    return np.concatenate([_numbers(chunk, name) for chunk in table.column(name).chunks])
