"""Pixels against CLIP's own preprocessing: Pillow, torchvision's `Resize` and `CenterCrop` on PIL images."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import image_bytes
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms.v2.functional import resized_crop

from fastclip.data.images import open_image
from fastclip.models.numerics import is_out_of_memory
from fastclip.pixels.dali import DaliDecoder
from fastclip.pixels.decoder import EncodedImage
from fastclip.pixels.decoders import make_decoder
from fastclip.pixels.geometry import Region, crop_region, resized_shape

SIDES = (224, 288, 336, 384, 448)
CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
DECODERS = ("torchvision", "dali")

MEAN_LEVELS = {"torchvision": 0.02, "dali": 0.25}
"""Largest mean difference over a set of images, in grey levels of 255."""

WORST_LEVELS = {"torchvision": 0.5, "dali": 0.5}
"""Largest mean difference of one image; 1.0 where its short side is under 16 pixels."""


def reference(data: bytes, side: int) -> np.ndarray:
    """CLIP's crop [3, side, side]. RGB first, as ImageFolder's loader: a resized palette takes the nearest pixel."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    crop = Compose([Resize(side, InterpolationMode.BICUBIC), CenterCrop(side)])
    return np.asarray(crop(image)).transpose(2, 0, 1)


def encoded(data: bytes) -> EncodedImage:
    width, height = Image.open(io.BytesIO(data)).size
    return EncodedImage(memoryview(bytearray(data)), height, width)


def mean_differences(decoder: str, device: torch.device, images: list[bytes], side: int) -> np.ndarray:
    """Per image, in grey levels."""
    decoded = make_decoder(decoder, [side], len(images), device, 2).decode([encoded(data) for data in images])
    assert decoded.unreadable == []
    crops = decoded.crops[side].cpu().numpy().astype(np.int16)
    return np.array([np.abs(crop - reference(data, side)).mean() for crop, data in zip(crops, images, strict=True)])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_photos_come_out_as_clip_preprocesses_them(decoder: str, side: int, photos: list[Path]):
    # All 200 at the side of most backbones, every fourth at the others: two cores want their time back.
    chosen = photos if side == 224 else photos[::4]
    differences = mean_differences(decoder, CPU, [path.read_bytes() for path in chosen], side)
    assert differences.mean() <= MEAN_LEVELS[decoder], differences.mean()
    assert differences.max() <= WORST_LEVELS[decoder], differences.max()


@pytest.mark.gpu
@pytest.mark.parametrize("side", SIDES)
def test_photos_decoded_on_a_gpu_come_out_as_clip_preprocesses_them(side: int, photos: list[Path]):
    differences = mean_differences("dali", GPU, [path.read_bytes() for path in photos], side)
    assert differences.mean() <= MEAN_LEVELS["dali"], differences.mean()
    assert differences.max() <= WORST_LEVELS["dali"], differences.max()


@pytest.mark.gpu
@pytest.mark.parametrize("hardware_load", [0.0, 0.65])
def test_what_a_gpu_decoded_before_changes_no_pixel(hardware_load: float, photos: list[Path]):
    """A short batch first, or none: the JPEG engine, where it is used, takes the same images of the next one."""
    images = [encoded(path.read_bytes()) for path in photos[:64]]
    fresh, used = (DaliDecoder([224], 64, GPU, 2, hardware_load=hardware_load) for _ in range(2))
    used.decode(images[:5])
    assert torch.equal(fresh.decode(images).crops[224], used.decode(images).crops[224])


def picture(height: int, width: int) -> Image.Image:
    """Something with edges, slopes and noise."""
    rng = np.random.default_rng([height, width])
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 9) * 80, np.cos(y / 7) * 80, (x + y) % 64], axis=2) + 120
    noisy = waves + rng.normal(0, 12, waves.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def save(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


SHAPES: dict[str, Callable[[], bytes]] = {
    "1x1": lambda: save(picture(1, 1), "PNG"),
    "3x1000": lambda: save(picture(3, 1000), "PNG"),
    "1000x3": lambda: save(picture(1000, 3), "PNG"),
    "1x400": lambda: save(picture(1, 400), "PNG"),
    "400x1": lambda: save(picture(400, 1), "PNG"),
    "5000x40": lambda: save(picture(5000, 40), "JPEG"),
    "40x5000": lambda: save(picture(40, 5000), "JPEG"),
    "already 224": lambda: save(picture(224, 224), "PNG"),
    "5000x40 GIF": lambda: save(picture(5000, 40).convert("P"), "GIF"),
    "grey": lambda: save(picture(150, 201).convert("L"), "JPEG"),
    "CMYK": lambda: save(picture(150, 201).convert("CMYK"), "JPEG"),
    "palette": lambda: save(picture(150, 201).convert("P"), "PNG"),
    "progressive": lambda: save(picture(333, 217), "JPEG", progressive=True),
    "WebP": lambda: save(picture(333, 217), "WEBP"),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_shape_comes_out_as_clip_preprocesses_it_at_every_side(decoder: str, shape: str, side: int):
    data = SHAPES[shape]()
    (difference,) = mean_differences(decoder, CPU, [data], side)
    worst = {"torchvision": MEAN_LEVELS, "dali": WORST_LEVELS}[decoder][decoder]
    assert difference <= (1.0 if min(Image.open(io.BytesIO(data)).size) < 16 else worst)


def test_a_dithered_image_shows_how_far_the_two_resizers_can_differ():
    """Noise of full contrast, black or white at every pixel: nothing in a photo comes near."""
    data = save(picture(150, 201).convert("1"), "PNG")
    assert mean_differences("torchvision", CPU, [data], 224)[0] <= WORST_LEVELS["torchvision"]
    assert mean_differences("dali", CPU, [data], 224)[0] <= 3.0


BROKEN = {
    "truncated": save(picture(100, 130), "JPEG")[:-200],
    "empty": b"",
    "a web page": b"<html>not found</html>",
    "16 bits": image_bytes(mode="I;16"),
}


@pytest.mark.parametrize("where", [[0], [3], [7], list(range(8))])
@pytest.mark.parametrize(
    ("decoder", "device"), [("torchvision", CPU), ("dali", CPU), pytest.param("dali", GPU, marks=pytest.mark.gpu)]
)
def test_broken_images_are_named_and_the_rest_of_the_batch_is_unharmed(
    decoder: str, device: torch.device, where: list[int]
):
    good = save(picture(100, 130), "JPEG")
    kinds = list(BROKEN)
    files = [BROKEN[kinds[row % len(kinds)]] if row in where else good for row in range(8)]
    batch = [EncodedImage(memoryview(bytearray(data)), 100, 130) for data in files]
    machine = make_decoder(decoder, [224], 10, device, 1)
    for _ in range(2):  # a second batch, for a pipeline that an error made invalid
        decoded = machine.decode(batch)
        assert [row for row, _ in decoded.unreadable] == where
        crops = decoded.crops[224].cpu().numpy().astype(int)
        assert crops.shape == (10, 3, 224, 224)
        assert not crops[where].any() and not crops[8:].any()
        for row in set(range(8)) - set(where):
            assert np.abs(crops[row] - reference(good, 224)).mean() < 0.5


@pytest.mark.parametrize(
    ("message", "is_the_images"),
    [
        ('File "/envs/cuda13/dali.py", line 1\n\nencountered:\n\nFailed to decode sample #1', True),
        ("encountered:\n\nFailed to decode\nStacktrace (9 entries):\n[frame 0]: libdali.so(Memory::Allocate)", True),
        ('File "/home/me/dali.py", line 1\n\nencountered:\n\nCUDA allocation failed', False),
    ],
)
def test_a_fault_of_the_machine_is_not_taken_for_one_of_an_image(
    message: str, is_the_images: bool, monkeypatch: pytest.MonkeyPatch
):
    def fail() -> None:
        raise RuntimeError(f"Critical error in pipeline:\n{message}\nCurrent pipeline object is no longer valid.")

    machine = DaliDecoder([224], 1, CPU, 1)
    monkeypatch.setattr(machine._pipeline, "run", fail)
    if is_the_images:
        assert machine.decode([encoded(image_bytes())]).unreadable == []
    else:
        with pytest.raises(RuntimeError) as error:
            machine.decode([encoded(image_bytes())])
        assert is_out_of_memory(error.value)


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_image_beyond_the_pixel_budget_is_not_decoded(decoder: str):
    small = save(picture(20, 20), "PNG")
    batch = [EncodedImage(memoryview(bytearray(small)), 20_000, 20_000), encoded(small)]
    decoded = make_decoder(decoder, [224], 2, CPU, 1).decode(batch)
    assert [row for row, _ in decoded.unreadable] == [0]
    assert "20000 × 20000" in decoded.unreadable[0].reason


def test_a_side_that_nobody_needs_is_not_made():
    for decoder in DECODERS:
        decoded = make_decoder(decoder, [288], 2, CPU, 1).decode([encoded(save(picture(50, 60), "PNG"))])
        assert set(decoded.crops) == {288} and decoded.crops[288].shape == (2, 3, 288, 288)


REGIONS: dict[str, tuple[int, int, Callable[[int, int], Region]]] = {
    "a half, shrunk": (400, 520, lambda h, w: Region(h // 4, w // 8, h, w - 30)),
    "a corner, enlarged": (300, 200, lambda h, w: Region(h - 37, w - 50, h, w)),
    "all of it": (224, 300, lambda h, w: Region(0, 0, h, w)),
    "of the very size": (500, 400, lambda h, w: Region(100, 50, 324, 274)),
    "one pixel": (90, 70, lambda h, w: Region(40, 30, 41, 31)),
    "a strip's middle": (3, 4000, lambda h, w: Region(0, 1998, 3, 2002)),
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF"])  # the last is Pillow's
@pytest.mark.parametrize("case", REGIONS)
def test_a_region_is_squeezed_into_the_square_as_torchvision_does_it(case: str, format: str):
    height, width, choose = REGIONS[case]
    region = choose(height, width)
    data = save(picture(height, width), format)
    image = encoded(data)._replace(region=region)
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)
    top, left, bottom, right = region
    theirs = resized_crop(
        pixels, top, left, bottom - top, right - left, [224, 224], InterpolationMode.BICUBIC, antialias=True
    )
    ours = make_decoder("torchvision", [224, 64], 2, CPU, 1).decode([image, encoded(data)])
    assert torch.equal(ours.crops[224][0], theirs)
    assert ours.crops[64].shape == (2, 3, 64, 64)
    alone = make_decoder("torchvision", [224], 1, CPU, 1).decode([encoded(data)])
    assert torch.equal(ours.crops[224][1], alone.crops[224][0])  # what stands beside it keeps CLIP's crop
    assert ours.unreadable == []


@pytest.mark.parametrize("side", [64, 224, 336])
@pytest.mark.parametrize("decoder", DECODERS)
def test_regions_of_photos_come_out_as_pillow_crops_and_resizes_them(decoder: str, side: int, photos: list[Path]):
    rng = np.random.default_rng(side)
    images, expected = [], []
    for path in photos[:: 4 if side == 224 else 16]:
        data = path.read_bytes()
        image = Image.open(io.BytesIO(data)).convert("RGB")
        down, across = (int(length * rng.uniform(0.3, 1)) for length in (image.height, image.width))
        top, left = int(rng.integers(image.height - down + 1)), int(rng.integers(image.width - across + 1))
        images.append(encoded(data)._replace(region=Region(top, left, top + down, left + across)))
        crop = image.crop((left, top, left + across, top + down)).resize((side, side), Image.Resampling.BICUBIC)
        expected.append(np.asarray(crop, np.int16).transpose(2, 0, 1))
    found = make_decoder(decoder, [side], len(images), CPU, 2).decode(images).crops[side].numpy()
    differences = np.abs(found - np.stack(expected)).mean(axis=(1, 2, 3))
    assert differences.mean() <= {"torchvision": 0.1, "dali": 0.25}[decoder], differences.mean()
    assert differences.max() <= WORST_LEVELS[decoder], differences.max()


def test_the_region_is_the_crop_of_torchvision_for_every_size():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 5000, (500, 2)).tolist():
        for side in SIDES:
            new_height, new_width = resized_shape(height, width, side)
            long, short = max(height, width), min(height, width)
            assert sorted((new_height, new_width)) == [side, int(side * long / short)]
            top, left, bottom, right = crop_region(height, width, side)
            assert 0 <= top < bottom <= height + 1e-9 and 0 <= left < right <= width + 1e-9


def test_the_reason_for_an_unreadable_image_depends_on_its_bytes_alone():
    with pytest.raises(ValueError) as first:
        open_image(BROKEN["a web page"])
    with pytest.raises(ValueError) as second:
        open_image(BROKEN["a web page"])
    assert str(first.value) == str(second.value) and "0x" not in str(first.value)
