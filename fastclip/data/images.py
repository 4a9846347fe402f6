"""Checks and opens images of every format that is decoded, with 8 bits a channel and within the pixel budget."""

from __future__ import annotations

from PIL import Image

from fastclip.data.image_headers import check_header, open_lazily, reasons


def check_image(data: bytes) -> tuple[str, int, int]:
    """Decode an image; return its extension (`jpg`, `png` …), and its height and width in pixels as decoders give them.

    Raises `ValueError` with the reason if it is of another format, has more than `MAX_PIXELS` or does not decode.
    """
    header = check_header(data)
    open_image(data)
    return header.extension, header.height, header.width


def read_header(data: bytes) -> tuple[str, int, int]:
    """The same as `check_image`, from the header alone: the image may still not decode."""
    header = check_header(data)
    open_lazily(data, header.extension)
    return header.extension, header.height, header.width


def open_image(data: bytes | memoryview) -> Image.Image:
    """The decoded image in RGB: alpha is dropped, EXIF's orientation ignored, the first frame taken.

    Raises `ValueError` with a reason that depends on the bytes alone, so that it may stand in results.
    """
    header = check_header(data)  # before Pillow sees it: for a WebP it allocates the whole canvas twice just to open it
    image = open_lazily(data, header.extension)
    with reasons():
        image.load()
        if image.mode != "RGB":
            image = image.convert("RGB")
    if (image.height, image.width) != (header.height, header.width):
        raise ValueError("does not decode: its pixels have another size than its header says")
    return image
