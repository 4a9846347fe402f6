"""Writes a hand-over: an image a row of `items.parquet`, shard by shard, and for FiftyOne a folder that it opens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from fastclip.data.shards.manifest import read_rejected
from fastclip.data.shards.reader import read_images
from fastclip.features.export.rows import Rows, read_rows
from fastclip.features.read import Features
from fastclip.files import write_folder
from fastclip.handover.answers import Dealt
from fastclip.handover.facts import HandedOver, LeftOut, make_facts
from fastclip.handover.folder import FACTS, ITEMS, SCRIPT, thumbnail_name
from fastclip.handover.form import Form
from fastclip.handover.items import ROWS_PER_GROUP, answer_columns, item_columns, schema_of, shown_classes
from fastclip.handover.material import Material
from fastclip.handover.plane import Plane, find_plane
from fastclip.handover.thumbnails import NoThumbnail, read_thumbnails
from fastclip.threads import threads

OnImages = Callable[[int], object]

_COMPRESSION = {"embedding.list.element": "none", "thumb": "none", "thumb.bytes": "none"}
"""Of vectors and JPEGs, which are noise: compressing them takes long and saves little. Other columns: zstd."""


def hand_over(
    material: Material, folder: Path, form: Form, cores: int, on_images: OnImages = lambda images: None
) -> HandedOver:
    """Write `folder`, which is there whole afterwards or not at all, and replaces one that is there.

    A shard is read, written and forgotten. `on_images` is told of each shard's images twice: when they are laid out,
    and when they are written. Raises `IntegrityError` for a part, a tar or an answer that is not what it was.
    """
    features = list(material.features)
    plane = lay_out(features, on_images)
    dealt = Dealt(material.answers) if material.answers else None
    columns = dealt.columns if dealt else {}
    schema = schema_of(list(columns), form.viewer, thumbnails=form.side is not None)
    done = HandedOver()

    def write(temporary: Path) -> None:
        with (
            pq.ParquetWriter(
                temporary / ITEMS,
                schema,
                compression={**dict.fromkeys(schema.names, "zstd"), **_COMPRESSION},
                use_dictionary=["dataset", "domain", "class"],
            ) as writer,
            threads(cores, "thumbnails") as pool,
        ):
            make = _Tables(form, plane, dealt, temporary, pool, done)
            for each in features:
                for rows in read_rows(each, raw=False):
                    values = make.columns(each, rows)
                    table = pa.table([pa.array(values[field.name], field.type) for field in schema], schema)
                    writer.write_table(table, row_group_size=ROWS_PER_GROUP)
                    on_images(rows.shard.images)
                done.unreadable += _rejected(each)
        if dealt:
            dealt.check_all_dealt()
        if form.viewer == "fiftyone":
            (temporary / SCRIPT).write_bytes(Path(__file__).with_name(SCRIPT).read_bytes())
        (temporary / FACTS).write_bytes(make_facts(material, form, plane, columns, done, temporary))

    write_folder(folder, write)
    return done


def lay_out(features: Sequence[Features], on_images: OnImages = lambda images: None) -> Plane:
    """The plane in which the embeddings of all datasets differ most."""

    def vectors(each: Features) -> Iterator[Float32[np.ndarray, "images dim"]]:
        for rows in each:
            on_images(rows.shard.images)
            yield rows.vectors.astype(np.float32)

    with_images = next((each for each in features if next(each.target.shards, None)), features[0])
    return find_plane(chain.from_iterable(map(vectors, features)), with_images.dim)


@dataclass(frozen=True)
class _Tables:
    """Makes the columns of one shard after the other, and notes in `done` where each image went."""

    form: Form
    plane: Plane
    dealt: Dealt | None
    folder: Path
    pool: ThreadPoolExecutor
    done: HandedOver

    def columns(self, features: Features, rows: Rows) -> dict[str, Any]:
        target, domain = rows.target, rows.shard.domain
        values = item_columns(target, domain, rows.records, self.plane.places(rows.vectors), rows.single)
        if self.dealt:
            values |= self._answers(rows)
        if self.form.side is not None:
            values["thumb"] = self._thumbnails(features, rows, self.form.side)
        self.done.rows += len(rows.records)
        self.done.unreadable += [
            LeftOut(target.name, domain, record.key, record.path, reason) for record, reason in rows.unreadable
        ]
        return values

    def _answers(self, rows: Rows) -> dict[str, Any]:
        assert self.dealt, "asked before"
        images = read_images(rows.target.folder, rows.shard)
        answers = self.dealt.of(rows.target.name, rows.shard, images.keys, images.digests)
        row_at = {offset: row for row, offset in enumerate(images.spans[:, 0].tolist())}
        own = np.array([row_at[record.offset] for record in rows.records], np.int64)
        return answer_columns(answers, own, shown_classes(rows.target))

    def _thumbnails(self, features: Features, rows: Rows, side: int) -> list[Any]:
        crop = features.recipe.preprocessing.side
        pictures = read_thumbnails(rows.target, rows.shard, rows.records, crop, side, self.pool)
        found: list[Any] = []
        for number, (record, picture) in enumerate(zip(rows.records, pictures, strict=True), self.done.rows):
            if isinstance(picture, NoThumbnail):
                place = rows.target.name, rows.shard.domain, record.key, record.path
                self.done.without_thumbnail.append(LeftOut(*place, str(picture)))
                found.append(None)
            else:
                found.append(self._picture(picture, number))
        return found

    def _picture(self, jpeg: bytes, number: int) -> Any:
        """A cell of the column `thumb`, as the viewer takes it."""
        name = thumbnail_name(number)
        if self.form.viewer == "fiftyone":
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg)
            return name
        return {"bytes": jpeg, "path": name} if self.form.viewer == "atlas" else jpeg


def _rejected(features: Features) -> Iterator[LeftOut]:
    """Images of the wanted domains that are in no shard, because they could not be read when it was written."""
    target = features.target
    for row in read_rejected(target.folder, target.manifest):
        if row.domain in target.domains:
            yield LeftOut(target.name, row.domain, None, row.path, row.reason)
