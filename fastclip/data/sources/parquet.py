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

from fastclip.data.catalogue import DatasetCard, readable_name, same_name
from fastclip.data.shards.manifest import Rejected
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.listing import Listing, SourceImage, with_distinct_paths
from fastclip.errors import IntegrityError, UserError

LABELS = ("label", "labels", "class", "category", "fine_label", "wnid", "class_name")
DOMAINS = ("domain", "domains", "style", "environment")


def list_parquet(source: Path, card: DatasetCard | None) -> Listing | None:
    """The images in the Parquet files of `source`, in the order of files and rows; None if there are no such files.

    Classes are the label column's names (`ClassLabel`), or its texts. Domains are the domain column's; without one,
    each split (`clipart-00000-of-00002.parquet`) is a domain.
    """
    paths = [source] if source.suffix == ".parquet" else sorted(source.rglob("*.parquet")) if source.is_dir() else []
    if not paths:
        return None
    tables = [_Table.open(path, source) for path in paths]
    class_names = _agree([table.label_names for table in tables], "classes", source)
    label_of, classes, names = _classes(class_names, card, source)
    domain_of = {
        same_name(folder): domain.name
        for domain in (card.domains if card else ())
        for folder in (domain.name, *domain.folders)
    }
    found: list[SourceImage] = []
    rejected: list[Rejected] = []
    for table in tables:
        for row, size, file, label, spelling in table.rows():
            at = f"{table.name}#{row}"
            domain = domain_of.get(same_name(spelling)) if card else spelling
            if card and domain is None and len(card.domains) == 1 and table.domain_column is None:
                domain = card.domains[0].name
            if domain is None or label is None or size is None:
                reason = f"{spelling!r} is no domain of {card.title if card else source}" if label and size else None
                rejected.append(Rejected(path=at, reason=reason or "a row without image or label"))
                continue
            folder = classes[label_of[label]]
            # Rows may have no names; the row's number keeps such images apart.
            path = f"{folder}/{posixpath.basename(file)}" if file else f"{folder}/{at}"
            blob = Blob("parquet", table.path, size, table.mtime_ns, row, table.image_column)
            found.append(SourceImage(domain, label_of[label], path, at, blob))
    present = {image.domain for image in found}
    domains = [d.name for d in card.domains if d.name in present] if card else sorted(present)
    if not found:
        raise UserError(
            f"No row of {source} is an image of a domain that is asked for.", fix="Look at its columns and card."
        )
    order = {domain: index for index, domain in enumerate(domains)}
    found.sort(key=lambda image: order[image.domain])  # stable: rows stay in order, row groups are read once
    return Listing(
        layout="Parquet files",
        classes=classes,
        names=names,
        domains=tuple(domains),
        images=tuple(with_distinct_paths(found)),
        rejected=tuple(rejected),
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
    features: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, source: Path) -> _Table:
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise IntegrityError(
                f"{path} is not a whole Parquet file: {str(error).splitlines()[0]}", fix="Download it again."
            ) from error
        images = [field.name for field in schema if _is_image(field.type)]
        labels = [name for name in LABELS if name in schema.names]
        if not images or not labels:
            raise UserError(
                f"{path} has no column of {'labels' if images else 'images'}; it has {', '.join(schema.names)}.",
                fix=f"Expected `image` (bytes) and one of {', '.join(LABELS)}.",
            )
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return cls(
            path,
            path.relative_to(source).as_posix() if source.is_dir() else path.name,
            path.stat().st_mtime_ns,
            "image" if "image" in images else images[0],
            labels[0],
            next((name for name in DOMAINS if name in schema.names), None),
            metadata.get("info", {}).get("features", {}),
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
        texts = pc.unique(pq.read_table(self.path, columns=[self.label_column]).column(0)).to_pylist()
        return tuple(sorted(text for text in texts if text is not None))

    def _names_of(self, column: str) -> tuple[str, ...]:
        names = self.features.get(column, {})
        return tuple(names.get("names", ())) if isinstance(names, dict) else ()

    def rows(self) -> Iterator[tuple[int, int | None, str, str | None, str]]:
        """Row number, bytes of the image, its file name (may be empty), class name and domain of every row."""
        split = re.sub(r"-\d+-of-\d+$", "", self.path.stem)
        columns = [self.image_column, self.label_column, *([self.domain_column] if self.domain_column else [])]
        first = 0
        for batch in pq.ParquetFile(self.path).iter_batches(batch_size=256, columns=columns):
            images = batch.column(self.image_column)
            data = images.field("bytes") if pa.types.is_struct(images.type) else images
            files: Sequence[str | None] = (
                images.field("path").to_pylist()
                if pa.types.is_struct(images.type) and images.type.get_field_index("path") >= 0
                else [None] * len(batch)
            )
            sizes = pc.binary_length(data).to_pylist()
            labels = self._texts(batch, self.label_column)
            domains = self._texts(batch, self.domain_column) if self.domain_column else [split] * len(batch)
            for row, (size, file, label, domain) in enumerate(zip(sizes, files, labels, domains, strict=True)):
                yield first + row, size, file or "", label, domain or ""
            first += len(batch)

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


def _agree(candidates: Sequence[tuple[str, ...]], what: str, source: Path) -> tuple[str, ...]:
    if len(set(candidates)) == 1:
        return candidates[0]
    if all(list(names) == sorted(names) for names in candidates):  # texts: a file need not hold every class
        return tuple(sorted({name for names in candidates for name in names}))
    raise UserError(f"The Parquet files in {source} disagree about their {what}.", fix="Give one dataset at a time.")


def _classes(
    found: Sequence[str], card: DatasetCard | None, source: Path
) -> tuple[dict[str, int], tuple[str, ...], tuple[str, ...]]:
    """Class name → label; class folders; readable names."""
    if card is None:
        return {name: label for label, name in enumerate(found)}, tuple(found), tuple(map(readable_name, found))
    by_name = {same_name(name): label for label, name in enumerate(card.names)}
    by_name |= {same_name(name): label for label, name in enumerate(card.classes)}
    if unknown := [name for name in found if same_name(name) not in by_name]:
        raise UserError(
            f"{source} has the class {unknown[0]!r}, which is none of {card.title}.",
            fix="Shard under another NAME to take the classes as they are.",
        )
    return {name: by_name[same_name(name)] for name in found}, card.classes, card.names


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
            column = self._file.read_row_group(group, columns=[blob.member]).column(0)
            self._cached[group] = column
            while len(self._cached) > 2:
                self._cached.popitem(last=False)
        value = self._cached[group][blob.offset - self._groups[group][0]].as_py()
        return value["bytes"] if isinstance(value, dict) else value
