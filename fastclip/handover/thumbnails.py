"""Thumbnails of the images of a shard: the crop that the model saw, from a tar that is what its manifest says."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from fastclip.data.shards.manifest import ImageRecord, Shard
from fastclip.data.shards.reader import OpenTar
from fastclip.data.shards.targets import Target
from fastclip.report.html.pictures import crop_jpeg


class NoThumbnail(str):
    """The reason why an image has no thumbnail."""


def read_thumbnails(
    target: Target, shard: Shard, records: Sequence[ImageRecord], crop: int, side: int, pool: ThreadPoolExecutor
) -> list[bytes | NoThumbnail]:
    """A JPEG of `side` pixels for each of `records`, which are of the shard. `crop` is the side that the model sees.

    Raises `IntegrityError` for a tar whose bytes are not those of the manifest.
    """
    tar = OpenTar(target.folder, shard)

    def thumbnail(record: ImageRecord) -> bytes | NoThumbnail:
        try:
            return crop_jpeg(tar.read(record.offset, record.size), crop, side)
        except ValueError as error:
            return NoThumbnail(error)

    found = list(pool.map(thumbnail, records))
    tar.check_unchanged()
    return found
