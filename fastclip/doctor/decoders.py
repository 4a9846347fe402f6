"""Checks of the decoders: a photo that is drawn here, by each of them, against Pillow's pixels."""

from __future__ import annotations

import io
import sys
from types import ModuleType

import numpy as np
import torch
from PIL import Image

from fastclip.doctor.finding import Finding, fail, ok, warn
from fastclip.doctor.pillow import drawn_photo
from fastclip.doctor.program import loaded_otherwise

SIDE = 64
MOST_LEVELS = 1.0
"""The largest mean difference from Pillow's pixels, in grey levels: half a level is promised of photos at side 224."""


def with_decoder(name: str, called: str, package: str) -> list[Finding]:
    """A decoder of fastclip, on the CPU, and DALI also on a GPU if torch sees one. Findings are `called` so."""
    from fastclip.errors import UserError
    from fastclip.pixels.decoders import decoder_spec

    cpu = torch.device("cpu")
    try:
        decoder_spec(name, cpu)
    except UserError as error:
        if name == "dali" and sys.platform == "linux":
            return [warn(called, str(error), error.fix)]
        return [ok(called, str(error))]
    if other := loaded_otherwise(package, _module(name)):
        return [other]
    devices = [cpu, *([torch.device("cuda", 0)] if name == "dali" and torch.cuda.is_available() else [])]
    return [_on(device, name, called if device == cpu else f"{called} on GPU", package) for device in devices]


def _module(name: str) -> ModuleType:
    if name == "dali":
        from nvidia import dali

        return dali
    import torchvision

    return torchvision


def _on(device: torch.device, name: str, called: str, package: str) -> Finding:
    from fastclip.models.numerics import fixed_numerics
    from fastclip.pixels.decoder import EncodedImage
    from fastclip.pixels.decoders import make_decoder

    data = drawn_photo()
    with fixed_numerics(device):
        decoder = make_decoder(name, [SIDE], 1, device, 1)
        decoded = decoder.decode([EncodedImage(memoryview(bytearray(data)), 80, 100)])
    cure = f"pip install --force-reinstall {package}, or choose another --decoder"
    if decoded.unreadable:
        return fail(called, f"It does not decode a JPEG: {decoded.unreadable[0].reason}", cure)
    found = decoded.crops[SIDE].cpu().numpy()[0].astype(int)
    apart = float(np.abs(found - _clip_crop(data)).mean())
    if apart > MOST_LEVELS:
        return fail(called, f"It decodes a JPEG {apart:.2f} grey levels away from Pillow's pixels.", cure)
    return ok(called, f"It decodes a JPEG, {apart:.3f} grey levels from Pillow's pixels.")


def _clip_crop(data: bytes) -> np.ndarray:
    """CLIP's own preprocessing of `drawn_photo`: the shorter side to SIDE, then the middle."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE * 100 // 80, SIDE), Image.Resampling.BICUBIC)
    left = (image.width - SIDE) // 2
    return np.asarray(image.crop((left, 0, left + SIDE, SIDE))).transpose(2, 0, 1).astype(int)
