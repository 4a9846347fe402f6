"""The check of Pillow, whose pixels are CLIP's, and the photo that is drawn for all decoders."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, __version__

from fastclip.doctor.finding import Finding, fail, ok


def drawn_photo() -> bytes:
    """A JPEG with smooth colours, 100 wide and 80 high."""
    y, x = np.mgrid[0:80, 0:100] / 100
    pixels = np.stack([x, y, (np.sin(9 * x * y) + 1) / 2], axis=-1)
    file = io.BytesIO()
    Image.fromarray((255 * pixels).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def with_pillow() -> list[Finding]:
    """Pillow itself, whose pixels are CLIP's."""
    pixels = np.asarray(Image.open(io.BytesIO(drawn_photo())).convert("RGB")).astype(int)
    corner = pixels[2, 97].tolist()
    if abs(corner[0] - 247) > 12 or corner[1] > 20:
        what = f"It decodes a photo to other colours: {corner}."
        return [fail("Pillow", what, "pip install --force-reinstall pillow")]
    return [ok("Pillow", f"It decodes a JPEG; version {__version__}.")]
