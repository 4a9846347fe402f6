"""The pixels of every decoder against those of CLIP's own preprocessing, which is Pillow's."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fastclip.data.image_headers import MAX_PIXELS, check_header
from fastclip.data.images import check_image
from fastclip.data.shards.reader import OpenShard
from fastclip.errors import UserError
from fastclip.evaluate.setup import Setup
from fastclip.models.numerics import fixed_numerics
from fastclip.pixels.decoder import Decoder, EncodedImage
from fastclip.pixels.decoders import decoder_spec, make_decoder
from fastclip.store.recipes import DECODERS
from fastclip.verify.check import Check
from fastclip.verify.odd_files import odd_files

PIXELS = "CLIP's pixels"

BATCH = 32
"""Images that a decoder gets at once when pixels are compared."""

MEAN_LEVELS = {"torchvision": 0.02, "dali": 0.25}
"""The promise: the largest mean difference from CLIP's own pixels over all images, in grey levels of 255."""

WORST_LEVELS, WORST_LEVELS_THIN, THIN = 0.5, 1.0, 16
"""The promise for every single image; the second where its short side has fewer than `THIN` pixels, and below `SIDE`.

Pillow rounds between its two passes, which shows where a photo becomes a hundredth: at side 64 DALI's worst is 0.65 of
448 photos, at 224 it is 0.22.
"""

SIDE = 224
"""The smallest side of OpenAI's backbones."""


def check_decoders(setup: Setup, on_step: Callable[[str], None]) -> Iterator[Check]:
    """Every decoder that is installed here, at every side of the backbones, on all images of the sample."""
    engine = setup.engine
    assert engine, "nothing of the sample is embedded yet"
    images, odd = _images(setup), odd_files()
    sides = {candidate.backbone.side for candidate in engine.candidates.values()}
    for name, side in itertools.product(DECODERS, sorted(sides)):
        on_step(f"comparing pixels: {name} at {side}")
        try:
            decoder_spec(name, engine.device)
        except UserError as error:
            yield Check(PIXELS, f"{name} at {side}", f"not checked: {error}", None)
            continue
        with fixed_numerics(engine.device):
            yield pixel_check(name, make_decoder(name, [side], BATCH, engine.device, engine.cores), images, side)
            if side == min(sides):
                yield odd_check(name, make_decoder(name, [SIDE], 1, engine.device, engine.cores), odd)


def _images(setup: Setup) -> dict[str, EncodedImage]:
    """Every image of the sample by its path."""
    images = {}
    for unit in setup.units:
        opened = OpenShard(unit.folder, unit.shard)
        for row, record in enumerate(opened.records):
            path = f"{unit.folder.name}/{unit.shard.domain}/{record.path}"
            images[path] = EncodedImage(opened.image_bytes(row), record.height, record.width)
    return images


def odd_check(name: str, decoder: Decoder, files: Mapping[str, bytes]) -> Check:
    """Whether odd files come out as Pillow's pixels, or are refused for the reason that sharding gives.

    Each is alone in its batch: in DALI's, one that goes to the CPU takes the others with it.
    """
    images, details, refused = {}, [], 0
    for kind, data in files.items():
        try:
            _, height, width = check_image(data)
            images[kind] = EncodedImage(memoryview(bytearray(data)), height, width)
        except ValueError as error:
            refused += 1
            found = [reason for _, reason in decoder.decode([_offered(data)]).unreadable]
            if found != [str(error)]:
                details.append(f"{name}: {kind}, which sharding refuses ({error}), is {found or 'decoded'}")
    check = pixel_check(name, decoder, images, SIDE, batch=1)
    figure = f"{check.figure}, {refused} refused alike"
    return Check(PIXELS, f"{name}, odd files", figure, bool(check.holds) and not details, (*details, *check.details))


def _offered(data: bytes) -> EncodedImage:
    """A file as a shard offers it, with the size in its header, or any where it gives none."""
    try:
        _, height, width, *_ = check_header(data)
    except ValueError:
        height = width = 1
    return EncodedImage(memoryview(bytearray(data)), height, width)


def pixel_check(
    name: str, decoder: Decoder, images: Mapping[str, EncodedImage], side: int, *, batch: int = BATCH
) -> Check:
    """Whether the crops of `images` (by path) are as near to Pillow's as the decoder called `name` promises."""
    apart, details = [], []
    for first in range(0, len(images), batch):
        paths = list(images)[first : first + batch]
        decoded = decoder.decode([images[path] for path in paths])
        crops = decoded.crops[side].cpu().numpy().astype(np.int16)
        failed = dict(decoded.unreadable)
        for row, path in enumerate(paths):
            image = images[path]
            if row in failed:
                details.append(f"{name}: {path}, which Pillow decodes, does not: {failed[row]}")
            elif (reference := clip_crop(image.data, side)) is not None:
                apart.append(difference := float(np.abs(crops[row] - reference).mean()))
                hard = min(image.height, image.width) < THIN or side < SIDE
                limit = WORST_LEVELS_THIN if hard else WORST_LEVELS
                if difference > limit:
                    details.append(f"{name} at {side}: {path} differs by {difference:.2f} grey levels, over {limit}")
    if not apart:
        return Check(PIXELS, f"{name} at {side}", "no image to compare", False if details else None, tuple(details))
    mean = sum(apart) / len(apart)
    if mean > MEAN_LEVELS[name]:
        details.append(f"{name} at {side}: the mean is over {MEAN_LEVELS[name]}")
    left_out = f", {len(images) - len(apart)} not compared" if len(apart) < len(images) else ""
    figure = f"mean {mean:.4f}, worst {max(apart):.4f} grey levels{left_out}"
    return Check(PIXELS, f"{name} at {side}", figure, not details, tuple(details))


def clip_crop(data: memoryview, side: int) -> UInt8[np.ndarray, "3 side side"] | None:
    """The model's input by CLIP's own preprocessing: RGB, shorter side to `side` by Pillow's bicubic, centre crop.

    None for a strip so long that this would need more than the pixel budget.
    """
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = (side * length // min(image.size) for length in image.size)
    if width * height > MAX_PIXELS:
        return None
    left, top = round((width - side) / 2), round((height - side) / 2)
    crop = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    return np.asarray(crop).transpose(2, 0, 1)
