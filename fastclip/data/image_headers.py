"""Reads images' headers: the format by the first bytes, the size, and what must not be decoded. Nothing is decoded."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError, features

MAX_PIXELS = 1 << 26
"""The most pixels an image may have (67 million, 201 MB decoded): a larger one is a bomb or a mistake."""

MAX_SCANS = 50
"""The most scans that a JPEG may have: libjpeg writes ten, programs that optimise for size hardly twice that.

Every scan passes over the whole image (36 ms of a core at the pixel budget), and an empty one is ten bytes long: the
ten thousand in a file of 100 kB would take six minutes.
"""

TOO_DEEP = "{} bits a channel; CLIP's preprocessing is defined for 8"

MAX_CHUNKS = 1000
"""Chunks before a PNG's pixels that are looked at for an animation; a file with more counts as one."""

# Pillow warns of odd EXIF and palettes; only the pixels count. Set once: `catch_warnings` is not for threads.
warnings.filterwarnings("ignore", module="PIL")

DECODED = {
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
    "avif": "AVIF",
    "pbm": "PPM",
    "pgm": "PPM",
    "ppm": "PPM",
}
"""The extensions that images have in shards, and Pillow's names of their formats."""

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".apng"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".pam"),
        *(".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jxl", ".svg", ".psd", ".ico", ".tga", ".exr", ".hdr", ".mpo"),
    )
)
"""A file with such a name counts as an image: if it cannot be used, it is an unreadable image of its class."""

REFUSED = {
    "heic": "HEIC",
    "jp2": "JPEG 2000",
    "jxl": "JPEG XL",
    "psd": "PSD",
    "svg": "SVG",
    "raw": "a camera's raw file",
    "bigtiff": "BigTIFF",
    "pam": "PAM",
    "pfm": "floating-point PNM",
    "ico": "ICO",
}
"""Images that are known by their first bytes and not decoded."""

# A TIFF's version says what kind it is; cameras write others, or their name behind the first offset. Two letters do not
# make a BMP: the size of its second header follows. An AVIF may call itself HEIF first.
_FORMATS = re.compile(
    rb"""(?P<jpg>\xff\xd8\xff) | (?P<png>\x89PNG\r\n\x1a\n) | (?P<webp>RIFF....WEBP) | (?P<gif>GIF8[79]a)
    | (?P<bmp>BM.{12}[\x0c(48@l|]\0\0\0)
    | (?P<raw>II\*\0....CR | II(?:R[OS]|U\0) | MMOR | FUJIFILMCCD-RAW | FOVb | ....ftypcrx)
    | (?P<tiff>II\*\0 | MM\0\*) | (?P<bigtiff>II\+\0 | MM\0\+)
    | (?P<pbm>P[14]\s+[\d\#]) | (?P<pgm>P[25]\s+[\d\#]) | (?P<ppm>P[36]\s+[\d\#]) | (?P<pam>P7\s) | (?P<pfm>P[Ff]\s)
    | (?P<avif>....ftyp(?:avi[fs] | m[is]f1....(?:....){0,8}?avi[fs])) | (?P<heic>....ftyp(?:he[iv][cmsx]|m[is]f1))
    | (?P<jp2>\0\0\0\x0cjP\ \  | \xff\x4f\xff\x51) | (?P<jxl>\0\0\0\x0cJXL\  | \xff\x0a)
    | (?P<psd>8BPS) | (?P<ico>\0\0\x01\0[^\0]) | (?P<svg>\s*(?:<\?xml[^>]*>\s*)?<(?:svg|!DOCTYPE\ svg))
    """,
    re.DOTALL | re.VERBOSE,
)
_NO_IMAGES = {
    "a web page": re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body)", re.IGNORECASE),
    "PDF": re.compile(rb"%PDF-"),
    "a pointer of Git LFS, whose file was never fetched": re.compile(rb"version https://git-lfs"),
}


class Header(NamedTuple):
    """An image as its header says that it is."""

    extension: str
    """A key of `DECODED`."""
    height: int
    width: int
    """In pixels, as Pillow gives them: EXIF's orientation is ignored, TIFF's is not."""
    odd: bool
    """Whether every decoder leaves the image to Pillow, because some decode it otherwise or not at all."""
    odd_on_gpu: bool
    """Whether DALI on a GPU leaves the image to the CPU's decoder: it shows the image otherwise, or might."""


def sniff(data: bytes | memoryview) -> str | None:
    """An image's format by its first bytes (64 suffice): a key of `DECODED` or of `REFUSED`; None for anything else."""
    found = _FORMATS.match(data)
    return found.lastgroup if found else None


def check_header(data: bytes | memoryview) -> Header:
    """The facts in an image's header. Raises `ValueError` with a reason if this image must not be decoded.

    It must not if it has another format, no size, too many pixels, more than 8 bits a channel, too many scans or
    senseless tags. 10 µs for JPEG, PNG and WebP. Pillow clips 16 bits to white, DALI scales them, torchvision returns
    them: no decoder may see them.
    """
    extension = sniff(data)
    if extension not in DECODED:
        raise ValueError(_why_not(extension, data))
    odd = odd_on_gpu = False
    if extension == "jpg":
        height, width, odd, odd_on_gpu = _jpeg(data)
    elif extension == "png":
        height, width, odd, odd_on_gpu = _png(data)
    elif extension == "webp":
        height, width = _webp(data)
    else:
        height, width, odd, odd_on_gpu = *_others(extension, data), True, True
    if not height * width:
        raise ValueError("does not decode: its header gives no size")
    check_budget(height, width)
    return Header(extension, height, width, odd, odd_on_gpu)


def _why_not(extension: str | None, data: bytes | memoryview) -> str:
    if extension:
        return f"{REFUSED[extension]}, which is not decoded; convert it to JPEG or PNG"
    what = next((what for what, pattern in _NO_IMAGES.items() if pattern.match(data)), None)
    if what:
        return f"not an image but {what}"
    return f"not an image of a known format: it starts with {bytes(data[:8])!r}" if data else "empty file"


def check_budget(height: int, width: int) -> None:
    """Raise `ValueError` for more than `MAX_PIXELS`."""
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} × {height} pixels, more than the budget of {MAX_PIXELS:,}")


def open_lazily(data: bytes | memoryview, extension: str) -> Image.Image:
    """Pillow's image, of which the header alone was read. Raises `ValueError` with a reason."""
    with reasons():
        return Image.open(io.BytesIO(data), formats=(DECODED[extension],))


@contextmanager
def reasons() -> Iterator[None]:
    """Turns whatever Pillow raises for a damaged file into a `ValueError` whose text depends on the bytes alone."""
    try:
        yield
    except UnidentifiedImageError:
        raise ValueError("does not decode: no image can be identified") from None  # Pillow's text holds an address
    except Image.DecompressionBombError:
        raise ValueError(f"more than the budget of {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes Pillow's plugins raise anything
        if "out of memory" in str(error):  # from a codec
            raise MemoryError(str(error)) from error
        raise ValueError(f"does not decode: {error}") from error


def _png(data: bytes | memoryview) -> tuple[int, int, bool, bool]:
    """Height, width, whether it is animated, and whether it is that or has fewer than 8 bits a channel or index.

    DALI shows an animation's first frame, Pillow the image before it. On a GPU it shows 2 and 4 bits 64 to 116 grey
    levels off.
    """
    if data[12:16] != b"IHDR":
        return 0, 0, False, False
    depth = data[24:25]  # in the header chunk, which always comes first
    if depth == b"\x10":
        raise ValueError(TOO_DEEP.format(16))
    animated, at = True, 33
    for _ in range(MAX_CHUNKS):
        kind = data[at + 4 : at + 8]
        if kind in (b"IDAT", b"acTL", b""):
            animated = kind == b"acTL"
            break
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    height, width = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    return height, width, animated, animated or depth != b"\x08"


def is_sound_png(data: bytes | memoryview) -> bool:
    """Whether every chunk up to the last has its checksum. It takes 3 % of decoding them.

    torchvision 0.29 ends the process where libpng finds an error among the pixels; Pillow reads on or raises.
    """
    at = 8
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False


def _webp(data: bytes | memoryview) -> tuple[int, int]:
    """By the first chunk: an extended file's canvas (24 bits, less one), or a frame (14 bits, in VP8L less one)."""
    if data[12:16] == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if data[12:16] == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if data[12:16] == b"VP8 " and len(data) >= 30:
        return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF
    return 0, 0


START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
LOSSY_HUFFMAN = frozenset({0xC0, 0xC1, 0xC2})
START_OF_SCAN, END_OF_IMAGE, JFIF, ADOBE = 0xDA, 0xD9, 0xE0, 0xEE
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""The start of a segment of a JPEG, or the end of the image. An FF before another byte is data of a scan."""


def _jpeg(data: bytes | memoryview) -> tuple[int, int, bool, bool]:
    """Height and width from the first frame header, whether the image is odd, and whether it is on a GPU.

    It is odd with other than one or three components: DALI shows CMYK without Adobe's marker as negatives. On a GPU it
    shows RGB 79 and lossless images 138 grey levels off, and nvJPEG knows no arithmetic coding.

    Raises `ValueError` for more than 8 bits and too many scans. These are counted where there can be several, in
    progressive files and where the first has not all components. An ordinary file is read up to its first scan, others
    in full, which takes a hundredth of decoding them.
    """
    height = width = components = scans = frame = 0
    letters = transform = b""
    jfif = False
    for marker, at in _jpeg_segments(data):
        if marker in START_OF_FRAME and not components:
            height, width = int.from_bytes(data[at + 1 : at + 3], "big"), int.from_bytes(data[at + 3 : at + 5], "big")
            components, frame = int.from_bytes(data[at + 5 : at + 6], "big"), marker
            letters = bytes(data[at + 6 : at + 15 : 3])
            if (depth := int.from_bytes(data[at : at + 1], "big")) > 8:
                raise ValueError(TOO_DEEP.format(depth))
        elif marker == START_OF_SCAN:
            scans += 1
            if frame not in PROGRESSIVE and scans == 1 and int.from_bytes(data[at : at + 1], "big") >= components:
                break
            if scans > MAX_SCANS:
                raise ValueError(f"more than {MAX_SCANS} scans: decoding this JPEG would take too long")
        elif scans:
            continue  # libjpeg decides on the colours before the first scan
        elif marker == JFIF and data[at : at + 5] == b"JFIF\0":
            jfif = True
        elif marker == ADOBE and data[at : at + 5] == b"Adobe":
            transform = bytes(data[at + 11 : at + 12])
    odd = components not in (1, 3)
    plain = components == 1 or _is_surely_ycbcr(letters, jfif, transform)
    return height, width, odd, odd or frame not in LOSSY_HUFFMAN or not plain


def _is_surely_ycbcr(letters: bytes, jfif: bool, transform: bytes) -> bool:
    """Whether every reader takes three components for luma and chroma: by Adobe's marker, by JFIF, or by their numbers.

    Readers differ where two of them disagree, and where there is none.
    """
    if letters == b"RGB":
        return False
    return transform == b"\1" if transform else jfif or letters == b"\1\2\3"


def _jpeg_segments(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Each segment's marker and where its contents begin. The bytes of scans are passed over."""
    at = 2
    while (found := _SEGMENT.search(data, at)) and (marker := data[found.end() - 1]) != END_OF_IMAGE:
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        yield marker, found.end() + 2
        at = found.end() + max(length, 2)  # libjpeg passes over a length that cannot be


def _others(extension: str, data: bytes | memoryview) -> tuple[int, int]:
    """Height and width by Pillow, which makes room for these formats' pixels only when it decodes them."""
    if extension == "tiff":
        _check_tiff(data)
    elif extension in ("pgm", "ppm"):
        _check_pnm(data)
    elif extension == "avif" and not _has_avif():
        raise ValueError("AVIF, which this Pillow does not decode; convert it to JPEG or PNG")
    image = open_lazily(data, extension)
    return image.height, image.width


@cache
def _has_avif() -> bool:
    return "avif" in features.modules and bool(features.check("avif"))


_PNM = re.compile(rb"P\d(?:(?:\s|#[^\r\n]*[\r\n])+(\d+)){3}\s")
"""The header of a PNM but a bitmap; the last of its three numbers is the largest value of a channel."""


def _check_pnm(data: bytes | memoryview) -> None:
    if not (found := _PNM.match(data)):
        raise ValueError("does not decode: its header gives no size")
    if int(found[1][-9:]) > 255:
        raise ValueError(TOO_DEEP.format(16))


SUBFILE_TYPE, BITS, TILE_WIDTH, TILE_HEIGHT, SUB_FILES, DNG_VERSION = 254, 258, 322, 323, 330, 50706
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of a value by the type of a TIFF's tag."""
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I"}


def _check_tiff(data: bytes | memoryview) -> None:
    """Raise `ValueError` for deep channels, for tiles beyond the pixel budget, and for a camera's raw file."""
    tags = _tiff_tags(data)
    # A camera's file is a TIFF whose first page is a preview; the picture lies in a file of its own behind it.
    if DNG_VERSION in tags or (SUB_FILES in tags and max(tags.get(SUBFILE_TYPE, ()), default=0) & 1):
        raise ValueError(_why_not("raw", data))
    if (depth := max(tags.get(BITS, ()), default=1)) > 8:
        raise ValueError(TOO_DEEP.format(depth))
    check_budget(*(max(tags.get(tag, ()), default=0) for tag in (TILE_HEIGHT, TILE_WIDTH)))  # libtiff makes room


def _tiff_tags(data: bytes | memoryview) -> dict[int, tuple[int, ...]]:
    """The tags of a TIFF's first page that are whole numbers, none for a tag of another type.

    Raises `ValueError` if all tags together say more than the file holds: Pillow copies every tag's values, so that
    many tags of the same bytes are a bomb.
    """
    order = "<" if data[:2] == b"II" else ">"
    try:
        (at,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, at)
        rows = list(struct.iter_unpack(order + "HHI4s", data[at + 2 : at + 2 + 12 * entries]))
        if sum(count * _BYTES.get(kind, 0) for _, kind, count, _ in rows) > len(data):
            raise ValueError("does not decode: its tags say more than the file holds")
        tags = {}
        for tag, kind, count, value in rows:
            inside = count * _BYTES.get(kind, 0) <= 4
            where = (value, 0) if inside else (data, struct.unpack(order + "I", value)[0])
            letter = _INTEGERS.get(kind)
            tags[tag] = struct.unpack_from(f"{order}{count}{letter}", *where) if letter else ()
        return tags
    except struct.error:
        raise ValueError("does not decode: its tags lie behind its end") from None
