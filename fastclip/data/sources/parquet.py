"""Hugging Face `datasets` as Parquet files on disk: a column of images, one of labels, maybe one of domains."""

from __future__ import annotations

import json
import posixpath
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fastclip.data.catalogue import DatasetCard, same_name
from fastclip.data.classes import Classes
from fastclip.data.shards.manifest import Rejected
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.listing import Listing, SourceImage, other_files, with_distinct_paths
from fastclip.errors import IntegrityError, UserError

LABELS = ("label", "labels", "class", "category", "fine_label", "wnid", "class_name")
DOMAINS = ("domain", "domains", "style", "environment")
NUMBERED = re.compile(r"-\d+-of-(?P<count>\d+)(-[0-9a-f]{16})?$")
"""How the files of one split are told apart in their names."""


def list_parquet(source: Path, card: DatasetCard | None) -> Listing | None:
    """The images in the Parquet files of `source`, in the order of files and rows; None if there are no such files.

    Classes are the label column's names (`ClassLabel`), or its texts. Domains are the domain column's; without one,
    each split (`clipart-00000-of-00002.parquet`) is a domain.
    """
    paths = [source] if source.suffix == ".parquet" else sorted(source.rglob("*.parquet")) if source.is_dir() else []
    if not paths:
        return None
    tables = [_Table.open(path, source) for path in paths]
    _check_numbers(tables, source)
    names = _agree([table.label_names for table in tables], source)
    found = Classes.make(names, card, str(source))
    number_of = {name: number for number, name in enumerate(names)}
    splits = sorted({table.split for table in tables})
    only = card.only_domain(splits) if card and len(card.domains) == 1 else None
    images: list[SourceImage] = []
    rejected = other_files(source, set(paths), "not a Parquet file")
    for table in tables:
        for row, size, file, class_name, spelling in table.rows():
            at = f"{table.name}#{row}"
            domain: str | None = spelling
            if card:
                domain = card.domains[0].name if only == spelling else card.domain_of.get(same_name(spelling))
            label = found.labels[number_of[class_name]] if class_name is not None else None
            if not domain or label is None:
                reason = "a row without a label" if label is None else f"its domain {spelling!r} is not asked for"
                rejected.append(Rejected(path=at, reason=reason))
            elif size is None:
                rejected.append(Rejected(path=at, reason="a row without an image", domain=domain, label=label))
            else:
                # Rows may have no names; the row's number keeps such images apart.
                folder = found.classes[label]
                path = f"{folder}/{posixpath.basename(file)}" if file else f"{folder}/{at}"
                blob = Blob("parquet", table.path, size, table.mtime_ns, row, table.image_column)
                images.append(SourceImage(domain, label, path, at, blob))
    present = {image.domain for image in images}
    domains = [d.name for d in card.domains if d.name in present] if card else sorted(present)
    if not images:
        raise UserError(
            f"No row of {source} is an image of a domain that is asked for ({rejected[-1].reason}).",
            fix="Shard under another NAME to take the domains as they are.",
        )
    order = {domain: index for index, domain in enumerate(domains)}
    images.sort(key=lambda image: order[image.domain])  # stable: rows stay in order, row groups are read once
    return Listing(
        layout="Parquet files",
        classes=found.classes,
        names=found.names,
        domains=tuple(domains),
        images=tuple(with_distinct_paths(images)),
        rejected=tuple(rejected),
    )


def _check_numbers(tables: Sequence[_Table], source: Path) -> None:
    """Raise `UserError` if files called NAME-00000-of-00003 are not all there."""
    for table in tables:
        if match := NUMBERED.search(table.path.stem):
            stem, count = table.path.stem[: match.start()], int(match["count"])
            siblings = [t for t in tables if t.path.parent == table.path.parent and t.path.stem.startswith(f"{stem}-")]
            if len(siblings) != count:
                raise UserError(
                    f"{source} holds {len(siblings):,} of the {count:,} files {stem}-*-of-{match['count']}.parquet.",
                    fix="Get the others: a part of a dataset gives other numbers than the whole.",
                )


@dataclass(frozen=True)
class _Table:
    """One Parquet file and what its columns are."""

    path: Path
    name: str
    mtime_ns: int
    image_column: str
    label_column: str
    domain_column: str | None
    split: str
    """The split that its name or folder gives: `train` for `train-00000-of-00002.parquet` and `train/0000.parquet`."""
    features: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, source: Path) -> _Table:
        try:
            schema = pq.read_schema(path)
            metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
            features = dict(metadata.get("info", {}).get("features", {}))
        except (pa.ArrowInvalid, OSError, ValueError, TypeError, AttributeError) as error:
            raise _damaged(path, error) from error
        images = [field.name for field in schema if _is_image(field.type)]
        labels = [name for name in LABELS if name in schema.names]
        if not images or not labels:
            raise UserError(
                f"{path} has no column of {'labels' if images else 'images'}; it has {', '.join(schema.names)}.",
                fix=f"Expected `image` (bytes) and one of {', '.join(LABELS)}.",
            )
        stem = NUMBERED.sub("", path.stem)
        return cls(
            path,
            path.relative_to(source).as_posix() if source.is_dir() else path.name,
            path.stat().st_mtime_ns,
            "image" if "image" in images else images[0],
            labels[0],
            next((name for name in DOMAINS if name in schema.names), None),
            path.parent.name if stem.isdecimal() else stem,
            features,
        )

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names in the order of their numbers; of a text column, the sorted texts."""
        column = pq.read_schema(self.path).field(self.label_column)
        if names := self._names_of(self.label_column):
            return names
        if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
            raise UserError(
                f"{self.path}: the column {self.label_column!r} holds numbers without names.",
                fix="Save it again with datasets' ClassLabel, so that the names are in the file.",
            )
        try:
            texts = pc.unique(pq.read_table(self.path, columns=[self.label_column]).column(0)).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(self.path, error) from error
        return tuple(sorted(text for text in texts if text is not None))

    def _names_of(self, column: str) -> tuple[str, ...]:
        names = self.features.get(column, {})
        return tuple(names.get("names", ())) if isinstance(names, dict) else ()

    def rows(self) -> Iterator[tuple[int, int | None, str, str | None, str]]:
        """Row number, bytes of the image, its file name (may be empty), class name and domain of every row."""
        columns = [self.image_column, self.label_column, *([self.domain_column] if self.domain_column else [])]
        first = 0
        for batch in self._batches(columns):
            images = batch.column(self.image_column)
            data = images.field("bytes") if pa.types.is_struct(images.type) else images
            files: Sequence[str | None] = (
                images.field("path").to_pylist()
                if pa.types.is_struct(images.type) and images.type.get_field_index("path") >= 0
                else [None] * len(batch)
            )
            sizes = pc.binary_length(data).to_pylist()
            labels = self._texts(batch, self.label_column)
            domains = self._texts(batch, self.domain_column) if self.domain_column else [self.split] * len(batch)
            for row, (size, file, label, domain) in enumerate(zip(sizes, files, labels, domains, strict=True)):
                yield first + row, size, file or "", label, domain or ""
            first += len(batch)

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            yield from pq.ParquetFile(self.path).iter_batches(batch_size=256, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(self.path, error) from error

    def _texts(self, batch: pa.RecordBatch, column: str) -> list[str | None]:
        values = batch.column(column).to_pylist()
        names = self._names_of(column)
        if names and any(value is not None and not 0 <= value < len(names) for value in values):
            raise UserError(
                f"{self.path}: {column!r} has numbers outside its {len(names)} names.", fix="Get the file again."
            )
        return [None if value is None else names[value] if names else str(value) for value in values]


def _is_image(type_: pa.DataType) -> bool:
    if pa.types.is_struct(type_):
        index = type_.get_field_index("bytes")
        return index >= 0 and _is_image(type_.field(index).type)
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _agree(candidates: Sequence[tuple[str, ...]], source: Path) -> tuple[str, ...]:
    if len(set(candidates)) == 1:
        return candidates[0]
    if all(list(names) == sorted(names) for names in candidates):  # texts: a file need not hold every class
        return tuple(sorted({name for names in candidates for name in names}))
    raise UserError(f"The Parquet files in {source} disagree about their classes.", fix="Give one dataset at a time.")


def _damaged(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(
        f"{path} is not a whole Parquet file: {str(error).splitlines()[0]}", fix="Get it again; is it complete?"
    )


class ParquetContainer:
    """Reads single rows; a few row groups stay in memory, because the rows of a shard lie together."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        counts = [self._file.metadata.row_group(index).num_rows for index in range(self._file.num_row_groups)]
        self._groups = [(sum(counts[:index]), count) for index, count in enumerate(counts)]
        self._cached: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def read(self, blob: Blob) -> bytes:
        """The image in row `blob.offset`."""
        group = next(i for i, (first, count) in enumerate(self._groups) if first <= blob.offset < first + count)
        if group not in self._cached:
            try:
                column = self._file.read_row_group(group, columns=[blob.member]).column(0)
            except pa.ArrowInvalid as error:
                raise ValueError(f"damaged in the table: {error}") from error
            self._cached[group] = column
            while len(self._cached) > 2:
                self._cached.popitem(last=False)
        value = self._cached[group][blob.offset - self._groups[group][0]].as_py()
        return value["bytes"] if isinstance(value, dict) else value
