"""The drawn dataset `shapes`: twelve classes of shapes in four domains, made on the spot from a seed.

An image depends on (seed, domain, class, index) and on nothing else, so that any process may draw any part of the
dataset. Bytes are the same for one version of numpy and Pillow; another version may encode the same picture otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from fastclip.files import storing

DOMAINS: tuple[str, ...] = ("flat", "night", "outline", "texture")
CLASSES: tuple[str, ...] = (
    "arrow", "circle", "cross", "four_leaf", "half_moon", "heart",
    "hexagon", "rain_drop", "ring", "square", "star", "triangle",
)  # fmt: skip
HELD_OUT_DOMAIN: str = "outline"
"""The domain that the backbone `tiny` never sees in training."""
SCORED_SEED: int = 0
"""The seed of the dataset that `fastclip demo` scores. Training refuses it."""

Points = NDArray[np.float64]
Colour = tuple[int, int, int]
Size = tuple[int, int]

_SUPERSAMPLING = 3


def draw_shapes(folder: Path, *, seed: int, images_per_class: int, domains: Sequence[str] = DOMAINS) -> int:
    """Write `folder/domain/class/0000.jpg` (or `.png`) and so on; return how many images were written.

    Raises ValueError for a domain that is not in DOMAINS, FileExistsError if a domain's folder is already there: what
    another seed left in it would be counted with the new images.
    """
    written = 0
    for domain, domain_index in [(domain, _position(domain, DOMAINS, "domain")) for domain in domains]:
        (folder / domain).mkdir(parents=True)
        for class_index, class_name in enumerate(CLASSES):
            (folder / domain / class_name).mkdir()
            for index in range(images_per_class):
                rng = np.random.default_rng([seed, domain_index, class_index, index])
                image = draw_image(domain, class_name, rng)
                stem = folder / domain / class_name / f"{index:04d}"
                with storing(stem):
                    if rng.random() < 2 / 3:
                        image.save(stem.with_suffix(".jpg"), quality=int(rng.integers(80, 96)))
                    else:
                        image.save(stem.with_suffix(".png"), compress_level=1)
                written += 1
    return written


def draw_image(domain: str, class_name: str, rng: np.random.Generator) -> Image.Image:
    """Draw one RGB image: short side 80 to 200 pixels, long side up to 1.5 times that, the shape in the central square.

    Raises ValueError for a domain that is not in DOMAINS or a class that is not in CLASSES.
    """
    _position(domain, DOMAINS, "domain")
    _position(class_name, CLASSES, "class")
    return _PAINTERS[domain](_compose(class_name, rng), rng)


def _position(name: str, names: tuple[str, ...], what: str) -> int:
    if name not in names:
        raise ValueError(f"no {what} named {name!r} among the drawn ones: {', '.join(names)}.")
    return names.index(name)


# Geometry: the places of all things, before a domain decides how they look.


@dataclass(frozen=True)
class _Scene:
    """All coordinates are pixels, x before y. `outlines` is the shape's border and, for a ring, its hole."""

    size: Size
    radius: float
    outlines: tuple[Points, ...]
    shards: tuple[Points, ...]
    """Small triangles and quadrangles that belong to no class."""
    bar: Points | None
    """A bar across the shape, in front of it."""


def _compose(class_name: str, rng: np.random.Generator) -> _Scene:
    side = int(rng.integers(80, 201))
    long_side = round(side * rng.uniform(1, 1.5))
    size = (long_side, side) if rng.random() < 0.5 else (side, long_side)
    radius = side * rng.uniform(0.16, 0.36)
    # CLIP's preprocessing keeps the central square alone: the shape keeps inside it but for a few pixels.
    reach = side / 2 - 0.95 * radius
    centre = np.array(size) / 2 + rng.uniform(-reach, reach, 2)
    angle = rng.uniform(-0.6, 0.6)
    stretch = rng.uniform(0.88, 1.12, 2)
    outlines = tuple(_turn(outline * stretch, angle) * radius + centre for outline in _OUTLINES[class_name])
    shards = tuple(
        _turn(_regular(int(rng.integers(3, 5))) * rng.uniform(0.3, 1, 2), rng.uniform(0, 6.3))
        * (side * rng.uniform(0.02, 0.1))
        + rng.uniform(0, 1, 2) * size
        for _ in range(rng.integers(4, 16))
    )
    bar = None
    if rng.random() < 0.5:
        corners = np.array([[-9, -1], [9, -1], [9, 1], [-9, 1]]) * [1, rng.uniform(0.08, 0.18)]
        bar = _turn(corners + np.array([0, rng.uniform(-0.6, 0.6)]), rng.uniform(0, 6.3)) * radius + centre
    return _Scene(size, radius, outlines, shards, bar)


def _turn(points: Points, angle: float) -> Points:
    cosine, sine = np.cos(angle), np.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def _regular(corners: int, inner: float = 1.0) -> Points:
    """A regular polygon in the unit circle; with `inner` below 1 every other corner lies at that radius (a star)."""
    angles = np.arange(corners) * 2 * np.pi / corners
    radii = np.where(np.arange(corners) % 2, inner, 1.0)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _unit_outlines() -> dict[str, tuple[Points, ...]]:
    """Every class as outlines in or near the unit circle, y downwards."""
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    half = np.linspace(0, np.pi, 30)
    leaf = 0.3 + 0.7 * np.abs(np.cos(2 * t))
    heart_y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    arm = 0.3
    quarter_arm = np.array([[-arm, -1.0], [arm, -1.0], [arm, -arm]])
    arrow = [[0, -1], [0.75, -0.15], [0.27, -0.15], [0.27, 1], [-0.27, 1], [-0.27, -0.15], [-0.75, -0.15]]
    return {
        "arrow": (np.array(arrow),),
        "circle": (0.92 * _regular(60),),
        "cross": (np.concatenate([_turn(quarter_arm, quarter * np.pi / 2) for quarter in range(4)]),),
        "four_leaf": (np.stack([leaf * np.sin(t), -leaf * np.cos(t)], axis=1),),
        "half_moon": (np.stack([np.cos(half), 0.45 - np.sin(half)], axis=1),),
        "heart": (np.stack([16 * np.sin(t) ** 3, -2.5 - heart_y], axis=1) / 16.5,),
        "hexagon": (_regular(6),),
        "rain_drop": (np.stack([0.95 * np.sin(t) * np.sin(t / 2) ** 1.5, -np.cos(t)], axis=1),),
        "ring": (0.95 * _regular(60), 0.5 * _regular(60)),
        "square": (_regular(4),),
        "star": (_regular(10, inner=0.42),),
        "triangle": (_regular(3),),
    }


_OUTLINES = _unit_outlines()


# Masks: "L" images, 255 where paint goes.


def _filled(size: Size, outlines: Sequence[Points], fills: Sequence[int]) -> Image.Image:
    canvas = Image.new("L", (size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    for outline, fill in zip(outlines, fills, strict=True):
        pen.polygon((outline * _SUPERSAMPLING).ravel().tolist(), fill=fill)
    return canvas.reduce(_SUPERSAMPLING)


def _shape(scene: _Scene) -> Image.Image:
    return _filled(scene.size, scene.outlines, (255, 0)[: len(scene.outlines)])


def _bar(scene: _Scene) -> Image.Image:
    return _filled(scene.size, (scene.bar,), (255,)) if scene.bar is not None else Image.new("L", scene.size)


def _strokes(size: Size, outlines: Sequence[Points], width: float) -> Image.Image:
    """Closed strokes of `width` pixels with round corners."""
    canvas = Image.new("L", (size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    thick = max(1, round(width * _SUPERSAMPLING))
    for outline in outlines:
        corners = outline * _SUPERSAMPLING
        pen.line([*corners.ravel().tolist(), *corners[0].tolist()], fill=255, width=thick)
        for x, y in corners.tolist():
            pen.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=255)
    return canvas.reduce(_SUPERSAMPLING)


def _hatching(scene: _Scene, width: float, rng: np.random.Generator) -> Image.Image:
    """Parallel strokes across the shape."""
    offsets = np.arange(-1.2, 1.2, rng.uniform(0.12, 0.3))
    angle = rng.uniform(0, 3.1)
    centre = scene.outlines[0].mean(axis=0)
    ends = [np.array([[-1.5, offset], [1.5, offset + rng.normal(0, 0.05)]]) for offset in offsets]
    lines = [_turn(line, angle) * scene.radius + centre for line in ends]
    return ImageChops.multiply(_strokes(scene.size, lines, 0.6 * width), _shape(scene))


def _by_hand(outline: Points, wobble: float, rng: np.random.Generator) -> Points:
    """`outline` drawn by an unsteady hand: 48 points along it, each off by about `wobble` pixels, smoothly."""
    closed = np.concatenate([outline, outline[:1]])
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    where = np.sort(np.concatenate([np.linspace(0, along[-1], 48, endpoint=False), along[:-1]]))
    points = np.stack([np.interp(where, along, closed[:, axis]) for axis in (0, 1)], axis=1)
    knots = rng.normal(0, wobble, (13, 2))
    knots[-1] = knots[0]
    drift = [np.interp(where / along[-1] * 12, np.arange(13), knots[:, axis]) for axis in (0, 1)]
    return points + np.stack(drift, axis=1)


# Painters: one a domain.


def _colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> Colour:
    return _tuple(rng.integers(low, high, 3))


def _tuple(channels: NDArray[np.generic]) -> Colour:
    red, green, blue = np.clip(channels, 0, 255).astype(int).tolist()
    return red, green, blue


def _two_colours(rng: np.random.Generator, apart: int) -> tuple[Colour, Colour]:
    """Two colours whose channels differ by `apart` or more in all."""
    while True:
        first, second = _colour(rng), _colour(rng)
        if sum(abs(a - b) for a, b in zip(first, second, strict=True)) >= apart:
            return first, second


def _noisy(image: Image.Image, amplitude: int, rng: np.random.Generator) -> Image.Image:
    """Grey noise of up to `amplitude` levels on every pixel."""
    width, height = image.size
    noise = rng.integers(-amplitude, amplitude + 1, (height, width, 1), dtype=np.int16)
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def _paint_flat(scene: _Scene, rng: np.random.Generator) -> Image.Image:
    ink = _colour(rng, 0, 150)
    image = Image.new("RGB", scene.size, _colour(rng, 150, 256))
    pen = ImageDraw.Draw(image)
    for shard in scene.shards:
        pen.polygon(shard.ravel().tolist(), fill=_colour(rng))
    image.paste(ink, mask=_shape(scene))
    image.paste(_colour(rng), mask=_bar(scene))
    return _noisy(image, int(rng.integers(1, 12)), rng)


def _paint_outline(scene: _Scene, rng: np.random.Generator) -> Image.Image:
    paper = Image.new("RGB", scene.size, _colour(rng, 205, 250))
    width = rng.uniform(1.0, 2.4) * min(scene.size) / 110
    passes = [_by_hand(line, 0.055 * scene.radius, rng) for line in scene.outlines for _ in range(2)]
    pencil = _strokes(scene.size, passes, width)
    pencil.paste(0, mask=_bar(scene))  # the bar is where the rubber went
    if rng.random() < 0.7:
        pencil = ImageChops.lighter(pencil, _hatching(scene, width, rng))
    scribbles = _strokes(scene.size, [_by_hand(shard, 1.5, rng) for shard in scene.shards], width * 0.8)
    marks = ImageChops.lighter(pencil, scribbles)
    grain = rng.integers(70, 256, (scene.size[1], scene.size[0]), dtype=np.uint8)
    marks = ImageChops.multiply(marks, Image.fromarray(grain))
    paper.paste(_colour(rng, 20, 110), mask=marks)
    return _noisy(paper, int(rng.integers(3, 14)), rng)


def _pattern(size: Size, colour: Colour, rng: np.random.Generator) -> Image.Image:
    """Stripes, checks, dots or blots in two colours near `colour`."""
    width, height = size
    period = rng.uniform(5, 18)
    y, x = np.mgrid[:height, :width].astype(np.float32) * np.float32(2 * np.pi / period)
    angle = np.float32(rng.uniform(0, np.pi))
    u, v = np.sin(x * np.cos(angle) + y * np.sin(angle)), np.sin(y * np.cos(angle) - x * np.sin(angle))
    kind = rng.integers(4)
    if kind == 3:
        blots = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1), dtype=np.uint8)
        field = Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)
    else:
        wave = (u, u * v, u + v - 0.6)[int(kind)]
        field = Image.fromarray((127.5 + 127.5 * (3 * wave).clip(-1, 1)).astype(np.uint8))
    image = Image.new("RGB", size, _tuple(colour + rng.integers(-60, 61, 3)))
    image.paste(_tuple(colour + rng.integers(-60, 61, 3)), mask=field)
    return image


def _paint_texture(scene: _Scene, rng: np.random.Generator) -> Image.Image:
    ground, ink = (_pattern(scene.size, colour, rng) for colour in _two_colours(rng, apart=240))
    few = scene.shards[::3]
    ground.paste(ink, mask=_filled(scene.size, few, [255] * len(few)))
    image = Image.composite(ink, ground, _shape(scene))
    image.paste(_colour(rng), mask=_bar(scene))
    return _noisy(image, int(rng.integers(6, 22)), rng)


def _paint_night(scene: _Scene, rng: np.random.Generator) -> Image.Image:
    sky = Image.new("RGB", scene.size, _colour(rng, 4, 44))
    pen = ImageDraw.Draw(sky)
    for shard in scene.shards:
        pen.polygon(shard.ravel().tolist(), fill=_colour(rng, 20, 120))
    sky = sky.filter(ImageFilter.BoxBlur(float(rng.uniform(0.5, 2))))
    tube = rng.random() < 0.6
    light = _strokes(scene.size, scene.outlines, 0.1 * scene.radius) if tube else _shape(scene)
    light = ImageChops.subtract(light, _bar(scene))
    blur = ImageFilter.BoxBlur(0.2 * scene.radius)
    halo = light.filter(blur).filter(blur)
    glow = ImageChops.lighter(halo.point(lambda level: min(255, 2 * level if tube else level)), light)
    lamp = np.array(_colour(rng))
    lamp[rng.integers(3)] = 255
    lit = Image.new("RGB", scene.size)
    lit.paste(_tuple(lamp * rng.uniform(0.45, 1)), mask=glow)
    return _noisy(ImageChops.screen(sky, lit), int(rng.integers(8, 30)), rng)


_PAINTERS: dict[str, Callable[[_Scene, np.random.Generator], Image.Image]] = {
    "flat": _paint_flat,
    "night": _paint_night,
    "outline": _paint_outline,
    "texture": _paint_texture,
}
