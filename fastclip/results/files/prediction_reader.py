"""Reads files of predictions, and refuses torn ones and those of another run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from fastclip.errors import IntegrityError, UserError, printable
from fastclip.faults import open_steadily
from fastclip.results.answers import NO_ANSWER, ColumnAnswers, DomainAnswers, PredictionRows
from fastclip.results.cells import Column, PredictionFile
from fastclip.results.files.predictions import DIGEST, ORDER, SCHEMA, RowDigest, join, numbers

if TYPE_CHECKING:
    import pyarrow as pa


def read_predictions(path: Path, expected: PredictionFile | None = None) -> PredictionRows:
    """The answers in a file of predictions, those that `expected` names if it is given. About 40 bytes a row.

    Raises `UserError` for another file, and `IntegrityError` for a torn one or for predictions of another run.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"There are no predictions {path}.", fix="fastclip eval … --predictions FILE writes them.")
    state = RowDigest()
    domains: dict[tuple[str, str], _Growing] = {}
    try:
        with open_steadily(path) as opened, pq.ParquetFile(opened) as file:
            if missing := [name for name in ORDER if name not in file.schema_arrow.names]:
                raise UserError(
                    f"{path} has no column {missing[0]}: it is no file of predictions, or one of before.",
                    fix="fastclip eval … --predictions FILE writes it anew.",
                )
            metadata = file.metadata.metadata or {}
            facts = json.loads(metadata[b"fastclip"])
            if facts["schema"] != SCHEMA:
                raise ValueError(f"it is a {facts['schema']}, and this version of fastclip reads {SCHEMA}")
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, columns=list(ORDER)).combine_chunks()
                state.update(table)
                for place, columns in _by_place(table).items():
                    domains.setdefault(place, _Growing()).add(columns)
        if not expected and metadata[DIGEST.encode()].decode() != state.hexdigest():
            raise ValueError("the digest of its rows is another than it says")
        answers = {place: each.answers(*place) for place, each in domains.items()}
        fingerprints, manifests = dict(facts["fingerprints"]), dict(facts["manifests"])
    except (
        pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError
    ) as error:  # fmt: skip
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
    return PredictionRows(found, answers, fingerprints, manifests)


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
        of_place[key] = join(of_place[key], rows) if key in of_place else rows
    return found


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
        self._images.append(
            images.take(np.arange(images.num_rows))
        )  # a copy: a slice keeps all columns' rows in memory

    def answers(self, dataset: str, domain: str) -> DomainAnswers:
        images = join(*self._images).combine_chunks()
        columns = {
            column: ColumnAnswers(*(np.concatenate(each) for each in zip(*found, strict=True)))
            for column, found in self._answers.items()
        }
        _check(_whole(images, "label"), columns.values())
        texts = [_Texts(images.column(name).chunk(0)) for name in ("key", "path", "sha256")]
        return DomainAnswers(dataset, domain, _whole(images, "label"), columns, *texts)


def _check(labels: np.ndarray, columns: Iterable[ColumnAnswers]) -> None:
    """Raise `ValueError` for answers that no head gives."""
    for each in columns:
        answered = each.classified
        if (labels < 0).any() or (each.rank < NO_ANSWER).any() or (each.predicted < NO_ANSWER).any():
            raise ValueError("a class or a rank is impossible")
        if ((each.predicted != NO_ANSWER) != answered).any() or ((each.predicted == labels) != each.right).any():
            raise ValueError("a rank and a predicted class contradict each other")
        if not (each.margin[answered] >= 0).all():
            raise ValueError("a margin is negative, or no number")


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
    return np.concatenate([numbers(chunk, name) for chunk in table.column(name).chunks])
