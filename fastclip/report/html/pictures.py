"""Small pictures of chosen images, read from their shards: the crop that the model saw and nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from fastclip.data.images import open_image
from fastclip.data.shards.manifest import Manifest, Shard, read_manifest
from fastclip.data.shards.reader import read_images, read_records
from fastclip.errors import FastclipError, UserError, printable
from fastclip.faults import MachineError, open_steadily
from fastclip.files import digest
from fastclip.pixels.geometry import crop_region
from fastclip.report.html.shown import Shown
from fastclip.report.html.wrong import Place
from fastclip.results.answers import DomainAnswers
from fastclip.storage.folders import Folder, LocalFolder, Location, open_folder

SIDE = 96
QUALITY = 70
PICTURE_BYTES = 2_000_000
"""Of all pictures of a page, in base64: 400 photos take 1.3 MB, but noise takes three times as much."""


class PictureError(Exception):
    """There are no pictures of a dataset; the message says why and what to do, in a sentence."""


class Picture(NamedTuple):
    """A JPEG in base64, or why there is none."""

    jpeg: str = ""
    why: str = ""


OTHER_BYTES = Picture(why="its bytes are not those of the result")

Reader = Callable[[Sequence[Place]], Mapping[Place, Picture]]
"""The pictures of places."""


def find_pictures(shown: Shown, shards: Location | None) -> Reader:
    """A reader of a dataset's pictures. Raises `PictureError` unless the shards are those of the result.

    The page is sent to others, so no reason names a path of this machine.
    """
    name = printable(shown.dataset.name)
    if shards is None:
        raise PictureError("They are read from the shards: add --shards DIR, the folder of all sharded datasets.")
    folder = open_folder(shards).child(shown.dataset.name)
    try:
        manifest = read_manifest(folder)
    except UserError:
        raise PictureError(
            f"There are no shards of {name} where they were looked for. --shards DIR is the folder of all sharded "
            "datasets."
        ) from None
    except MachineError:
        raise
    except (FastclipError, OSError):
        raise PictureError(f"The manifest of {name} cannot be used: fastclip shards check {name}") from None
    if digest(manifest.to_json()) != shown.dataset.manifest_sha256:
        raise PictureError(
            f"The shards of {name} that were found are not those of the result: their manifest has another digest. "
            "--shards DIR is the folder of the others."
        )

    return partial(_read, folder, manifest, shown)


def _read(folder: Folder, manifest: Manifest, shown: Shown, places: Sequence[Place]) -> dict[Place, Picture]:
    found: dict[Place, Picture] = {}
    for number, answers in enumerate(shown.domains):
        rows = sorted({each.row for each in places if each.domain == number})
        for shard, there in _shards_of(folder, manifest, answers, rows):
            try:
                records = read_records(folder, shard, list(there.values()))
                read = reader_of(folder, shard)
                for row, record in zip(there, records, strict=True):
                    data = read(record.offset, record.size)
                    same = digest(data) == answers.digests[row]
                    found[Place(number, row)] = _picture(data, shown.side) if same else OTHER_BYTES
            except MachineError:
                raise
            except (FastclipError, OSError):
                unread = Picture(why=f"its shard cannot be read: fastclip shards check {printable(folder.name)}")
                found.update((Place(number, row), unread) for row in there)
    return found


def reader_of(folder: Folder, shard: Shard) -> Callable[[int, int], bytes]:
    """Reads bytes of a tar by offset and size. Each image proves itself by its digest: here no tar is hashed."""
    if not isinstance(folder, LocalFolder):
        fetched = folder.open(shard.name, size=shard.bytes, sha256=shard.sha256)
        return lambda offset, size: bytes(fetched.read(offset, size))

    def read(offset: int, size: int) -> bytes:
        with open_steadily(folder.path / shard.name) as file:
            file.seek(offset)
            return file.read(size)

    return read


def _shards_of(
    folder: Folder, manifest: Manifest, answers: DomainAnswers, rows: Sequence[int]
) -> Iterable[tuple[Shard, dict[int, int]]]:
    """The shards that hold some of a domain's images: row of the answers → row of the shard's index.

    Answers stand in the order of the shards. Where they are of all images, their number is enough to find them.
    """
    shards = manifest.shards_of(answers.domain)
    start, whole = 0, sum(each.images for each in shards) == len(answers.labels)
    wanted = {answers.keys[row]: row for row in rows}
    for shard in shards:
        if whole:
            there = {row: row - start for row in rows if 0 <= row - start < shard.images}
            start += shard.images
        else:
            keys = read_images(folder, shard).keys
            there = {wanted[key]: number for number, key in enumerate(keys) if key in wanted}
        if there:
            yield shard, there


def _picture(data: bytes, side: int) -> Picture:
    try:
        return Picture(jpeg=base64.b64encode(crop_jpeg(data, side)).decode())
    except ValueError as error:
        return Picture(why=str(error))


def crop_jpeg(data: bytes | memoryview, side: int, shown: int = SIDE) -> bytes:
    """The crop that a model with this `side` sees, `shown` pixels wide, as a JPEG. Raises `ValueError` with the reason.

    It is decoded and encoded again without anything that came with it: a place, a comment, a colour profile.
    """
    image = open_image(data)
    from PIL import Image

    top, left, bottom, right = crop_region(image.height, image.width, side)
    box = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    small = image.resize((shown, shown), Image.Resampling.BICUBIC, box=box)
    small.info = {}  # Pillow would write the comment of the old file
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
