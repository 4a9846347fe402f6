"""What counts as an image: JPEG, PNG or WebP with 8 bits a channel that decodes within the pixel budget."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 1 << 26
"""The most pixels an image may have (67 million, 201 MB decoded): what lies above is a bomb or a mistake."""

# Pillow warns of odd EXIF and palettes; what counts is the pixels. Set once: `catch_warnings` is not for threads.
warnings.filterwarnings("ignore", module="PIL")

PNG = b"\x89PNG\r\n\x1a\n"


def check_image(data: bytes) -> tuple[str, int, int]:
    """Decode an image: its extension (jpg, png or webp), and height and width in pixels as stored.

    Raises `ValueError` with the reason if it is of another format, has more than `MAX_PIXELS` or does not decode.
    """
    extension = sniff_extension(data)
    image = open_image(data)
    return extension, image.height, image.width


def read_header(data: bytes) -> tuple[str, int, int]:
    """What `check_image` returns, from the header alone: whether the image decodes is not known."""
    extension = sniff_extension(data)
    with _open(data) as image:
        return extension, image.height, image.width


def sniff_extension(data: bytes) -> str:
    """`jpg`, `png` or `webp` by the first bytes, whatever the file is called; `ValueError` for anything else."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    if data[:8] == PNG:
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise ValueError(f"not JPEG, PNG or WebP: it starts with {bytes(data[:8])!r}" if data else "empty file")


def open_image(data: bytes | memoryview) -> Image.Image:
    """The decoded image, not yet converted to RGB.

    Raises `ValueError` with a reason that depends on the bytes alone, so that it may stand in results.
    """
    image = _open(data)
    with _reasons():
        image.load()
    return image


def _open(data: bytes | memoryview) -> Image.Image:
    """An image whose header was read and may be decoded."""
    with _reasons():
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
    check_header(data, image.height, image.width)
    return image


@contextmanager
def _reasons() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError:
        raise ValueError("does not decode: no image can be identified") from None  # Pillow's text holds an address
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes Pillow's plugins raise anything
        raise ValueError(f"does not decode: {error}") from error


def check_header(data: bytes | memoryview, height: int, width: int) -> None:
    """Raise `ValueError` if this image must not be decoded: too many pixels, or 16 bits a channel.

    Pillow clips 16 bits to white, DALI scales them, torchvision returns them: no decoder may see them.
    """
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} × {height} pixels, more than the budget of {MAX_PIXELS:,}")
    if data[:8] == PNG and data[24:25] == b"\x10":  # the depth in the header chunk, which always comes first
        raise ValueError("16 bits a channel; CLIP's preprocessing is defined for 8")
