"""Hugging Face `datasets` and other tables as Parquet: a column of images, one of labels, maybe one of domains."""

from __future__ import annotations

import json
import posixpath
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from fastclip.data.catalogue import DatasetCard, same_name
from fastclip.data.classes import NO_LABEL, Classes, check_numbers, one_form
from fastclip.data.shards.manifest import Rejected
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.listing import Listing, SourceImage, checked, other_files, with_distinct_paths
from fastclip.data.sources.pieces import Piece, check_whole, find_files, group_names, grouped, pieces
from fastclip.data.twins import check_twins
from fastclip.errors import IntegrityError, UserError
from fastclip.faults import open_steadily, steadily

LABELS = ("label", "labels", "class", "category", "fine_label", "coarse_label", "class_name", "wnid")
DOMAINS = ("domain", "domains", "style", "environment")


def list_parquet(source: Path, card: DatasetCard | None) -> Listing | None:
    """The images in the Parquet files of `source`, in the order of files and rows; None if there are no such files.

    Classes are the label column's names (`ClassLabel`), or its texts. Domains are the domain column's. Without one,
    each split (`clipart-00000-of-00002.parquet`) is a domain, and so is each split of each configuration
    (`CONFIGURATION/train/0000.parquet`). With one, several splits are kept apart (`clipart-train`), but for a card.
    """
    paths = find_files(source, (".parquet",))
    if not paths or (source.is_dir() and not any(map(_may_hold_images, paths))):
        return None  # tables of labels or facts beside images
    tables = _tables(source, paths)
    column = _label_column(tables, card)
    names, listed = _class_names(tables, column, source)
    found = Classes.make(names, card, str(source))
    splits = sorted({table.split for table in tables})
    alone = len({table.configuration for table in tables}) == len(splits)
    only = card.only_domain(splits) if card and len(card.domains) == 1 else None
    domain_of = card.domain_of if card else {}
    images: list[SourceImage] = []
    used: set[int] = set()
    rejected = other_files(source, set(paths), "not a Parquet file")
    for table in tables:
        for row, size, file, number, spelling in table.rows(column, names):
            at = f"{table.name}#{row}"
            domain: str | None = spelling
            if not card and table.domain_column and spelling and len(splits) > 1:
                domain = f"{spelling}-{table.split}"
            if card:
                domain = card.domains[0].name if only == spelling else domain_of.get(same_name(spelling))
                if alone and not domain:  # a configuration for each domain
                    domain = domain_of.get(same_name(posixpath.basename(table.configuration)))
            label = found.labels[number] if number is not None else None
            if not domain or label is None or number is None:
                reason = f"its domain {spelling!r} is not asked for" if spelling else "a row without a domain"
                reason = "a row without a label" if label is None else reason
                rejected.append(Rejected(path=at, reason=reason))
                continue
            used.add(number)
            if size is None:
                rejected.append(Rejected(path=at, reason="a row without an image", domain=domain, label=label))
                continue
            # Rows may have no names; the row's number keeps such images apart.
            folder = found.classes[label]
            path = f"{folder}/{posixpath.basename(file)}" if file else f"{folder}/{at}"
            blob = Blob("parquet", table.path, size, table.mtime_ns, row, table.image_column, table.ctime_ns)
            images.append(SourceImage(domain, label, path, at, blob))
    present = {image.domain for image in images}
    domains = [d.name for d in card.domains if d.name in present] if card else sorted(present)
    if not images:
        raise UserError(
            f"No row of {source} is an image of a domain that is asked for "
            f"({rejected[-1].reason if rejected else 'there is no row'}).",
            fix="Get the split that has labels; or shard under another NAME to take the domains as they are.",
        )
    if listed:
        check_numbers(names, used, card, f"the list of classes of {column!r}")
    order = {domain: index for index, domain in enumerate(domains)}
    images.sort(key=lambda image: order[image.domain])  # stable: rows stay in order, row groups are read once
    listing = checked(
        Listing(
            layout="Parquet files",
            classes=found.classes,
            names=found.names,
            domains=tuple(domains),
            images=tuple(with_distinct_paths(images)),
            rejected=tuple(rejected),
        )
    )
    if card is None and not listed:
        check_twins(listing)
    return listing


def _tables(source: Path, paths: Sequence[Path]) -> list[_Table]:
    """The tables at `paths`. Raises `UserError` if one is missing, or if sets that must not be mixed are."""
    found = pieces(source, paths)
    groups = grouped(found)
    for group in groups:
        check_whole(group)
    splits = group_names(groups, by_file=True)
    tables = [_Table.open(piece, source, splits[piece.group]) for piece in found]
    configurations = sorted({table.configuration for table in tables})
    having = [table for table in tables if table.domain_column and table.holds(table.domain_column)]
    for table in tables:
        if having and table.domain_column != having[0].domain_column:
            raise UserError(
                f"{having[0].path} has a column of domains, {having[0].domain_column!r}, and {table.path} has not.",
                fix="Point --source at one of them, or put each set into a folder of its own.",
            )
    if len(configurations) > 1 and having:
        raise UserError(
            f"{source} holds several configurations ({', '.join(configurations)}), and each has all domains.",
            fix="Point --source at one of them: their images may be the same.",
        )
    return tables


@dataclass(frozen=True)
class _Table:
    """One Parquet file and what its columns are."""

    path: Path
    name: str
    mtime_ns: int
    ctime_ns: int
    schema: pa.Schema
    features: Mapping[str, Any]
    """What `datasets` says of the columns."""
    image_column: str
    domain_column: str | None
    split: str
    """The domain of its rows where no column names it."""
    configuration: str
    """The folders above the split."""

    @classmethod
    def open(cls, piece: Piece, source: Path, split: str) -> _Table:
        path = piece.path
        facts = steadily(path.stat, path)
        try:
            schema = _schema(path)
            metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
            features = dict(metadata.get("info", {}).get("features", {}))
        except (pa.ArrowInvalid, OSError, ValueError, TypeError, AttributeError) as error:
            raise _damaged(path, error) from error
        if twice := next((name for name in schema.names if schema.names.count(name) > 1), None):
            raise UserError(f"{path} has two columns {twice!r}.", fix="Save it again with one of them.")
        return cls(
            path,
            path.relative_to(source).as_posix() if source.is_dir() else path.name,
            facts.st_mtime_ns,
            facts.st_ctime_ns,
            schema,
            features,
            _image_column(path, schema, features),
            next((name for name in DOMAINS if name in schema.names), None),
            split or path.parent.name,
            "/".join(piece.folders if piece.word else piece.folders[:-1]),
        )

    @property
    def label_columns(self) -> list[str]:
        """The columns that are called as labels are; if there is none, those that are a `ClassLabel`."""
        columns = [name for name in self.schema.names if name not in (self.image_column, *DOMAINS)]
        called = [name for name in columns if name in LABELS]
        plain = [name for name in called if _holds(self.schema.field(name).type)]
        return plain or called or [name for name in columns if self.names_of(name)]

    def names_of(self, column: str) -> tuple[str, ...]:
        """The names of a `ClassLabel`, in the order of their numbers; empty for another column."""
        feature = self.features.get(column)
        names = feature.get("names") if isinstance(feature, dict) else None
        return tuple(map(one_form, names)) if isinstance(names, list) and all(type(n) is str for n in names) else ()

    def holds(self, column: str) -> str:
        """`texts` or `numbers`. Raises `UserError` if a column is of something else."""
        type_ = self.schema.field(column).type
        if kind := _holds(type_):
            return kind
        raise UserError(
            f"{self.path}: the column {column!r} holds {type_}, neither texts nor numbers.",
            fix="Save it again with a class's name, or with datasets' ClassLabel, in each row.",
        )

    def values(self, column: str) -> Iterator[str | int | None]:
        """The texts or numbers of a column, row by row."""
        for batch in self.batches([column]):
            yield from self.decoded(batch, column)

    def decoded(self, batch: pa.RecordBatch, column: str) -> list[str | int | None]:
        """The texts or numbers of a column. Raises `UserError` for a broken number, or bytes that are no text."""
        try:
            return [_value(each) for each in batch.column(column).to_pylist()]
        except ValueError as error:
            raise UserError(
                f"{self.path}: the column {column!r} holds {error}.",
                fix="Save it again with a class's name, or with datasets' ClassLabel, in each row.",
            ) from error

    def rows(self, label_column: str, names: Sequence[str]) -> Iterator[tuple[int, int | None, str, int | None, str]]:
        """Row number, bytes of the image, its file name (may be empty), class number and domain of every row."""
        labelled = label_column in self.schema.names
        columns = [self.image_column, *([label_column] if labelled else [])]
        columns += [self.domain_column] if self.domain_column else []
        number_of = {name: number for number, name in enumerate(names)}
        first = 0
        for batch in self.batches(columns):
            sizes, files = _images(batch.column(self.image_column))
            labels: list[int | None] = [None] * len(batch)
            if labelled:
                found = self.decoded(batch, label_column)
                labels = [
                    number_of[each] if isinstance(each, str) else self._number(each, label_column) for each in found
                ]
            domains = self._domains(batch) if self.domain_column else [self.split] * len(batch)
            for row, (size, file, label, domain) in enumerate(zip(sizes, files, labels, domains, strict=True)):
                yield first + row, size, file or "", label, domain or ""
            first += len(batch)

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            with open_steadily(self.path) as file:
                yield from pq.ParquetFile(file).iter_batches(batch_size=256, columns=columns)
        except pa.ArrowNotImplementedError as error:
            raise UserError(
                f"{self.path} cannot be read: {str(error).splitlines()[0]}", fix="Save it again with plain columns."
            ) from error
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(self.path, error) from error

    def _number(self, value: int | None, column: str) -> int | None:
        """A class's number; None for -1, by which `datasets` says that there is no label."""
        if value is None or value == -1:
            return None
        names = self.names_of(column)
        if not names:
            raise UserError(
                f"{self.path}: the column {column!r} holds numbers without names.",
                fix="Save it again with a class's name in each row, or with datasets' ClassLabel and its names.",
            )
        if not 0 <= value < len(names):
            begin = ": labels seem to begin at 1" if value == len(names) else ""
            raise UserError(
                f"{self.path}: {column!r} has the number {value}, and names for 0 to {len(names) - 1}{begin}.",
                fix="Get the file again, or save it with the names that belong to the numbers.",
            )
        return value

    def _domains(self, batch: pa.RecordBatch) -> list[str | None]:
        assert self.domain_column is not None
        values = self.decoded(batch, self.domain_column)
        if not self.names_of(self.domain_column):
            return [None if value is None else str(value) for value in values]
        numbers = [value if isinstance(value, str) else self._number(value, self.domain_column) for value in values]
        names = self.names_of(self.domain_column)
        return [names[value] if isinstance(value, int) else value for value in numbers]


def _schema(path: Path) -> pa.Schema:
    with open_steadily(path) as file:
        return pq.read_schema(file)


def _may_hold_images(path: Path) -> bool:
    """Whether a file has a column of bytes, or cannot be read."""
    try:
        return any(_is_image(field.type) for field in _schema(path))
    except (pa.ArrowInvalid, OSError):
        return True


def _image_column(path: Path, schema: pa.Schema, features: Mapping[str, Any]) -> str:
    """The column of images. Raises `UserError` if there is none, or if there are several and none is called `image`."""
    found = [f.name for f in schema if _is_image(f.type) and f.name not in (*LABELS, *DOMAINS)]
    typed = [name for name in found if isinstance(features.get(name), dict) and features[name].get("_type") == "Image"]
    found = typed or found
    if not found:
        raise UserError(
            f"{path} has no column of images; it has {', '.join(schema.names)}.",
            fix=f"Expected `image` (bytes) and one of {', '.join(LABELS)}.",
        )
    if len(found) > 1 and "image" not in found:
        raise UserError(
            f"{path} has several columns of images: {', '.join(found)}.", fix="Call the one that counts `image`."
        )
    return "image" if "image" in found else found[0]


def _label_column(tables: Sequence[_Table], card: DatasetCard | None) -> str:
    """The column of labels, the same in all tables. Raises `UserError` if there is none, or if several differ.

    With a card ids (`wnid`) come first, because the card has them; else names do, because prompts need them.
    """
    order = ("wnid", *LABELS) if card else LABELS
    found = sorted(
        {name for table in tables for name in table.label_columns},
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )
    if not found:
        table = tables[0]
        raise UserError(
            f"{table.path} has no column of labels; it has {', '.join(table.schema.names)}.",
            fix=f"Expected `image` (bytes) and one of {', '.join(LABELS)}.",
        )
    for other in found[1:]:
        pairs: set[tuple[str | int | None, str | int | None]] = set()
        for table in tables:
            here = [name in table.schema.names for name in (found[0], other)]
            if all(here):
                pairs |= set(zip(table.values(found[0]), table.values(other), strict=True))
            elif any(here):
                pairs = set()
                break
        firsts, others = ({pair[side] for pair in pairs} for side in (0, 1))
        crossed = any(pair[0] != pair[1] for pair in pairs) and any(isinstance(each, str) for each in firsts & others)
        if not pairs or crossed or not len(pairs) == len(firsts) == len(others):
            raise UserError(
                f"{tables[0].path} has several columns of labels that say different things: {found[0]} and {other}.",
                fix="Keep the one that counts, and drop the other column.",
            )
    return found[0]


def _class_names(tables: Sequence[_Table], column: str, source: Path) -> tuple[tuple[str, ...], bool]:
    """The classes in the order of their numbers, and whether a list gave them: a `ClassLabel`. Else they are texts.

    Texts are names, also where the column's `ClassLabel` was left behind. Raises `UserError` if files disagree.
    """
    having = [table for table in tables if column in table.schema.names]
    numbers = [table for table in having if table.holds(column) == "numbers"]
    texts = {text for table in having if table not in numbers for text in table.values(column) if isinstance(text, str)}
    lists = {names for table in numbers or having if (names := table.names_of(column))}
    if len(lists) == 1:
        (names,) = lists
        if all(names.count(text) == 1 for text in texts):
            return names, True
    if any(table.names_of(column) for table in numbers):
        raise UserError(
            f"The Parquet files in {source} disagree about their classes.", fix="Give one dataset at a time."
        )
    if lists and (numeral := next((text for text in sorted(texts) if text.isdecimal()), None)):
        raise UserError(
            f"{having[0].path}: {column!r} holds the text {numeral!r}, and its ClassLabel has no class of that name.",
            fix="Save the labels as numbers, or as names.",
        )
    return tuple(sorted(texts)), False


def _value(value: Any) -> str | int | None:
    """A cell as text or number; None if it is empty. Raises `ValueError` that says what it is."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{value[:20]!r}, which is no UTF-8 text") from None
    if isinstance(value, str):
        text = one_form(value.rstrip("\0").strip())
        return None if text in ("", NO_LABEL) else text
    if isinstance(value, float):
        if value != value:
            return None
        if not value.is_integer():
            raise ValueError(f"{value}, which is no whole number")
    return None if value is None else int(value)


def _images(images: pa.Array) -> tuple[list[int | None], Sequence[str | None]]:
    """The sizes of the images in a column, and the names of their files."""
    data, files = images, list[str | None]([None] * len(images))
    if pt.is_struct(images.type):
        data = pc.struct_field(images, "bytes")
        if images.type.get_field_index("path") >= 0:
            files = [_text(each) for each in pc.struct_field(images, "path").to_pylist()]
    if pt.is_dictionary(data.type):
        data = data.dictionary_decode()
    if data.type == pa.binary_view():  # pyarrow has no lengths of views
        data = data.cast(pa.large_binary())
    return pc.binary_length(data).to_pylist(), files


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _plain(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pt.is_dictionary(type_) else type_


def _holds(type_: pa.DataType) -> str:
    """`texts` or `numbers`; empty for a column of neither."""
    plain = _plain(type_)
    if pt.is_string(plain) or pt.is_large_string(plain) or plain == pa.string_view() or _is_bytes(plain):
        return "texts"
    numbers = pt.is_integer(plain) or pt.is_floating(plain) or pt.is_boolean(plain) or pt.is_null(plain)
    return "numbers" if numbers else ""


def _is_bytes(type_: pa.DataType) -> bool:
    found = pt.is_binary(type_) or pt.is_large_binary(type_) or pt.is_fixed_size_binary(type_)
    return bool(found or type_ == pa.binary_view())


def _is_image(type_: pa.DataType) -> bool:
    if pt.is_struct(type_):
        index = type_.get_field_index("bytes")
        return index >= 0 and _is_bytes(_plain(type_.field(index).type))
    return _is_bytes(_plain(type_))


def _damaged(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(
        f"{path} is not a whole Parquet file: {str(error).splitlines()[0]}", fix="Get it again; is it complete?"
    )


class ParquetContainer:
    """Reads single rows; a few row groups stay in memory, because the rows of a shard lie together."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = pq.ParquetFile(file)
        counts = [self._file.metadata.row_group(index).num_rows for index in range(self._file.num_row_groups)]
        self._groups = [(sum(counts[:index]), count) for index, count in enumerate(counts)]
        self._cached: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def read(self, blob: Blob) -> bytes:
        """The image in row `blob.offset`."""
        group = next(i for i, (first, count) in enumerate(self._groups) if first <= blob.offset < first + count)
        if group not in self._cached:
            try:
                column = self._file.read_row_group(group, columns=[blob.member]).column(0)
            except (pa.ArrowInvalid, OSError) as error:  # of a codec; those of the file are no `OSError`
                raise ValueError(f"damaged in the table: {error}") from error
            self._cached[group] = column
            while len(self._cached) > 2:
                self._cached.popitem(last=False)
        value = self._cached[group][blob.offset - self._groups[group][0]].as_py()
        return value["bytes"] if isinstance(value, dict) else value
