"""The seam between shards and towers: a batch of encoded images in, square crops of every needed side out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

from fastclip.data.images import check_header
from fastclip.data.shards.manifest import Unreadable

DECODERS = ("torchvision", "dali")

HARDWARE_LOAD = 0.0
"""Part of a batch that DALI gives to the GPU's JPEG engine, where there is one, and not to its cores: it decides which
image takes which route. None until somebody has measured what the engine saves (`benchmarks/decoders.py`): not every
GPU has one, a container may hide it, and it reports no image as damaged.
"""


class EncodedImage(NamedTuple):
    """A JPEG, PNG or WebP file, and the height and width of its pixels as stored (EXIF is not applied)."""

    data: memoryview
    height: int
    width: int


def check_encoded(image: EncodedImage) -> None:
    """Raise `ValueError` if `image` must not be decoded. What a decoder is given has the size that its index says.

    An index comes with its shards, from anywhere: one that lies must neither hide a bomb nor move the crop.
    """
    if (shape := check_header(image.data)) != (image.height, image.width):
        raise ValueError(
            f"{shape[1]} × {shape[0]} pixels by its header, {image.width} × {image.height} by the shard's index"
        )


class DecodedBatch(NamedTuple):
    """RGB crops by side, on the device that computes. Rows of unreadable images and of padding are zero."""

    crops: dict[int, UInt8[Tensor, "batch 3 side side"]]
    unreadable: list[Unreadable]


@runtime_checkable  # the tests check annotations
class Decoder(Protocol):
    """Decodes batch after batch; not to be shared between threads."""

    def decode(self, images: Sequence[EncodedImage]) -> DecodedBatch:
        """Crop every image at every side. `images` may be shorter than the batch size; the crops are not."""
        ...
