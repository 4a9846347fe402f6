"""Checks and opens images: JPEG, PNG or WebP with 8 bits a channel that decodes within the pixel budget."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 1 << 26
"""The most pixels an image may have (67 million, 201 MB decoded): a larger one is a bomb or a mistake."""

MAX_SCANS = 50
"""The most scans that a JPEG may have: libjpeg writes ten, programs that optimise for size hardly twice that.

Every scan passes over the whole image (36 ms of a core at the pixel budget), and an empty one is ten bytes long: the
ten thousand in a file of 100 kB would take six minutes.
"""

# Pillow warns of odd EXIF and palettes; only the pixels count. Set once: `catch_warnings` is not for threads.
warnings.filterwarnings("ignore", module="PIL")

PNG = b"\x89PNG\r\n\x1a\n"

START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""The start of a segment of a JPEG, or the end of the image. An FF before another byte is data of a scan."""


def check_image(data: bytes) -> tuple[str, int, int]:
    """Decode an image; return its extension (jpg, png or webp), and height and width in pixels as stored.

    Raises `ValueError` with the reason if it is of another format, has more than `MAX_PIXELS` or does not decode.
    """
    extension = sniff_extension(data)
    image = open_image(data)
    return extension, image.height, image.width


def read_header(data: bytes) -> tuple[str, int, int]:
    """The same as `check_image`, from the header alone: the image may still not decode."""
    extension = sniff_extension(data)
    with _open(data) as image:
        return extension, image.height, image.width


def sniff_extension(data: bytes | memoryview) -> str:
    """`jpg`, `png` or `webp` by the first bytes, whatever the file is called; `ValueError` for anything else."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    if data[:8] == PNG:
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise ValueError(f"not JPEG, PNG or WebP: it starts with {bytes(data[:8])!r}" if data else "empty file")


def sniff(data: bytes | memoryview) -> str | None:
    try:
        return sniff_extension(data)
    except ValueError:
        return None


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
    check_header(data)  # before Pillow sees it: for a WebP it allocates the whole canvas twice just to open it
    with _reasons():
        return Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))


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


def check_header(data: bytes | memoryview) -> tuple[int, int]:
    """Height and width in pixels as stored. Raises `ValueError` if this image must not be decoded.

    It must not if it has another format, no size, too many pixels, 16 bits a channel or too many scans. 10 µs.
    Pillow clips 16 bits to white, DALI scales them, torchvision returns them: no decoder may see them.
    """
    extension = sniff_extension(data)
    height, width = {"jpg": _jpeg_shape, "png": _png_shape, "webp": _webp_shape}[extension](data)
    if not height * width:
        raise ValueError("does not decode: its header gives no size")
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} × {height} pixels, more than the budget of {MAX_PIXELS:,}")
    if extension == "png" and data[24:25] == b"\x10":  # the depth in the header chunk, which always comes first
        raise ValueError("16 bits a channel; CLIP's preprocessing is defined for 8")
    return height, width


def _png_shape(data: bytes | memoryview) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        return 0, 0
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def _webp_shape(data: bytes | memoryview) -> tuple[int, int]:
    """By the first chunk: an extended file's canvas (24 bits, less one), or a frame (14 bits, in VP8L less one)."""
    if data[12:16] == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if data[12:16] == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if data[12:16] == b"VP8 " and len(data) >= 30:
        return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF
    return 0, 0


def _jpeg_shape(data: bytes | memoryview) -> tuple[int, int]:
    """From the first frame header. Raises `ValueError` if there are too many scans.

    Scans are counted where there can be several: in progressive files, and where the first has not all components.
    An ordinary file is read up to its first scan, others in full, which takes a hundredth of decoding them.
    """
    height = width = components = scans = 0
    progressive = False
    for marker, at in _jpeg_segments(data):
        if marker in START_OF_FRAME and not components:
            height, width = int.from_bytes(data[at + 1 : at + 3], "big"), int.from_bytes(data[at + 3 : at + 5], "big")
            components, progressive = int.from_bytes(data[at + 5 : at + 6], "big"), marker in PROGRESSIVE
        elif marker == START_OF_SCAN:
            scans += 1
            if not progressive and scans == 1 and int.from_bytes(data[at : at + 1], "big") >= components:
                break
            if scans > MAX_SCANS:
                raise ValueError(f"more than {MAX_SCANS} scans: decoding this JPEG would take too long")
    return height, width


def _jpeg_segments(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Each segment's marker and where its contents begin. The bytes of scans are passed over."""
    at = 2
    while (found := _SEGMENT.search(data, at)) and (marker := data[found.end() - 1]) != END_OF_IMAGE:
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        yield marker, found.end() + 2
        at = found.end() + max(length, 2)  # libjpeg passes over a length that cannot be
