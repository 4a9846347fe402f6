"""The seam between shards and towers: a batch of encoded images in, square crops of every needed side out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

from fastclip.data.image_headers import Header, check_header
from fastclip.data.shards.manifest import Unreadable
from fastclip.pixels.geometry import Region

DECODERS = ("torchvision", "dali")

HARDWARE_LOAD = 0.0
"""The part of a batch that DALI gives to the GPU's JPEG engine instead of its cores.

Zero, although an H100 decodes 17,066 photos/s with 0.65 and 5,891 without: not every GPU has an engine, a container may
hide it, and no damaged or odd file has been tried with it.
"""


class EncodedImage(NamedTuple):
    """An image file, and the height and width of its pixels as stored (EXIF is not applied)."""

    data: memoryview
    height: int
    width: int
    region: Region | None = None
    """The part that is kept, squeezed into the square; None for CLIP's centre crop."""


def check_encoded(image: EncodedImage) -> Header:
    """The header of `image`. Raises `ValueError` unless it gives the size that the shard's index gives.

    Shards come from anywhere: an index with a wrong size must neither hide a decompression bomb nor move the crop.
    """
    header = check_header(image.data)
    if (header.height, header.width) != (image.height, image.width):
        found, said = f"{header.width} × {header.height}", f"{image.width} × {image.height}"
        raise ValueError(f"{found} pixels by its header, {said} by the shard's index")
    return header


class DecodedBatch(NamedTuple):
    """RGB crops by side, on the device that computes. Rows of unreadable images and of padding are zero."""

    crops: dict[int, UInt8[Tensor, "batch 3 side side"]]
    unreadable: list[Unreadable]


@runtime_checkable  # the tests check annotations
class Decoder(Protocol):
    """Decodes batch after batch, in one thread only."""

    def decode(self, images: Sequence[EncodedImage]) -> DecodedBatch:
        """Crop every image at every side, or squeeze its region into it.

        `images` may be shorter than the batch size; the crops are not.
        """
        ...
