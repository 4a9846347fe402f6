"""The room that a hand-over takes, forecast before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from fastclip.data.shards.manifest import Shard
from fastclip.features.read import Features
from fastclip.handover.form import Form
from fastclip.handover.material import Material
from fastclip.report.html.pictures import crop_jpeg, reader_of

SHARDS, IMAGES = 4, 12
"""Shards, and images of each, whose thumbnails are made to know how large one is."""
TEXT_BYTES = 120
"""Of an image's digest, and of its key and path as they are compressed."""
ANSWER_BYTES = 8
BLOCK_BYTES = 4096
"""That a small file takes on most file systems."""


def forecast_bytes(material: Material, form: Form) -> int:
    """About as many bytes as `hand_over` will write."""
    features = next((each for each in material.features if next(each.target.shards, None)), None)
    if features is None:
        return 0
    columns = set().union(*(each.columns for each in material.answers.domains.values())) if material.answers else ()
    one = TEXT_BYTES + 4 * features.dim + ANSWER_BYTES * len(columns)
    return material.images * (one + (_thumbnail_bytes(material, form) if form.side else 0))


def _thumbnail_bytes(material: Material, form: Form) -> int:
    """The mean size of a thumbnail, as the viewer's files hold it."""
    shards = [(each, shard) for each in material.features for shard in each.target.shards]
    sizes = [size for features, shard in shards[:: -(-len(shards) // SHARDS)] for size in _sizes(features, shard, form)]
    if form.viewer == "fiftyone":
        sizes = [-(-size // BLOCK_BYTES) * BLOCK_BYTES for size in sizes]
    return sum(sizes) // len(sizes) if sizes else 0


def _sizes(features: Features, shard: Shard, form: Form) -> Iterator[int]:
    """The sizes of some thumbnails of a shard, whose tar is not proved: nothing of it is kept."""
    assert form.side, "asked before"
    records, read = features.of(shard).records(), reader_of(features.target.folder, shard)
    for record in records[:: max(1, len(records) // IMAGES)][:IMAGES]:
        with suppress(ValueError):  # no thumbnail
            crop = features.recipe.preprocessing.side
            yield len(crop_jpeg(read(record.offset, record.size), crop, form.side))
