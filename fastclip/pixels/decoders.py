"""The decoders by name: how each is made, and all of it that can change a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

from fastclip.errors import UserError
from fastclip.pixels.decoder import HARDWARE_LOAD, Decoder


def make_decoder(name: str, sides: Sequence[int], batch_size: int, device: torch.device, threads: int) -> Decoder:
    """The decoder called `name`; DALI decodes on `device` and uses `threads` CPU threads, torchvision one."""
    if name == "torchvision":
        from fastclip.pixels.torchvision import TorchvisionDecoder

        return TorchvisionDecoder(sides, batch_size, device)
    from fastclip.pixels.dali import DaliDecoder

    return DaliDecoder(sides, batch_size, device, threads)


def decoder_spec(name: str, device: torch.device) -> str:
    """Everything about a decoder that can change a pixel, as text. It is part of every embedding's key."""
    # From the packages' metadata: a run that only scores does not import them, which takes seconds.
    fallback = f"torchvision {version('torchvision')}, pillow {version('pillow')}"
    if name == "torchvision":
        return fallback
    try:
        dali = f"dali {version('nvidia-dali-cuda130')}"
        if device.type != "cuda":
            return f"{dali} cpu, odd files by {fallback}"
        libraries = ", ".join(f"{name} {version(name)}" for name in ("nvidia-nvimgcodec-cu13", "nvidia-nvjpeg"))
        left = "odd files, JPEG but Huffman YCbCr and grey, PNG under 8 bits"
        return f"{dali} mixed, engine {HARDWARE_LOAD:g}, {libraries}, {left} by {fallback}"
    except PackageNotFoundError as error:
        raise UserError(
            f"The DALI decoder needs the package {error.name}, which is not installed.",
            fix=f"pip install {error.name}, or choose --decoder torchvision",
        ) from None
