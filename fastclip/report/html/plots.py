"""Plots as numbers: where the marks of a drawing lie. The template draws them as SVG."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from fastclip.errors import printable

LEFT, RIGHT = 130, 326
"""Where the axis of a panel begins and ends, in units of the drawing, which is 340 wide."""
TOP, ROW, FOOT = 8, 19, 30
LONGEST_LABEL = 16
"""Letters of a name beside its dot; its description has all of them."""

MOST_DRAWN_CLASSES = 40
"""Above, a matrix is one picture: 345 classes are 119,025 rectangles of 7 MB, or a PNG of 21 kB."""
MOST_WRITTEN_CLASSES = 15
LEVELS = 10
HEAT = (58, 110, 190)
"""Of the picture. Its opacity shows the share, so that it can be read on white and on black."""
CELL = 18


@dataclass(frozen=True)
class Value:
    """A number to plot, with its interval; all on the plot's scale."""

    label: str
    value: float
    low: float
    high: float
    text: str
    """The drawing's description of it."""
    marked: bool = False


@dataclass(frozen=True)
class Dot:
    """A dot with whiskers, in units of the drawing."""

    label: str
    y: float
    x: float
    low: float
    high: float
    text: str
    marked: bool


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Dots in rows over one axis."""

    title: str
    dots: tuple[Dot, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float | None
    """Where zero is, if the axis goes through it."""
    height: int

    @property
    def bottom(self) -> int:
        """Where the axis lies."""
        return self.height - FOOT


@dataclass(frozen=True)
class Axis:
    """A range that ends at round numbers."""

    low: float
    high: float
    step: float

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the beginning of the axis, 1 at its end."""
        return (value - self.low) / (self.high - self.low)

    def x(self, value: float) -> float:
        """Where a value lies in a panel."""
        return round(LEFT + (RIGHT - LEFT) * self.share(value), 1)

    @property
    def ticks(self) -> list[float]:
        """The values with a mark."""
        return [self.low + self.step * number for number in range(round((self.high - self.low) / self.step) + 1)]


def make_axis(low: float, high: float, *, least: float = -math.inf, most: float = math.inf) -> Axis:
    """An axis that holds `low` to `high`, with at most six marks at round numbers, inside `least` to `most`."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span))
    for factor in (0.2, 0.5, 1, 2, 5, 10):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= 5:
            break
    last = max(last, first + 1)
    return Axis(max(first * step, least), min(last * step, most), step)


def make_panel(title: str, values: Sequence[Value], axis: Axis) -> Panel:
    """A row for each value, from the top down."""
    dots = tuple(
        Dot(short(each.label), TOP + ROW * (number + 0.5), axis.x(each.value), axis.x(each.low), axis.x(each.high),
            f"{each.label}: {each.text}", each.marked)
        for number, each in enumerate(values)
    )  # fmt: skip
    ticks = tuple((axis.x(each), f"{each:.4g}".replace("-", "−")) for each in axis.ticks)
    zero = axis.x(0.0) if axis.low < 0 < axis.high else None
    return Panel(title=title, dots=dots, ticks=ticks, zero=zero, height=TOP + ROW * len(values) + FOOT)


def short(name: str, letters: int = LONGEST_LABEL) -> str:
    """A name as it stands in a drawing: its beginning and its end, if it is long."""
    name, end = printable(name), letters // 2
    return name if len(name) <= letters else f"{name[: letters - end - 1]}…{name[-end:]}"


@dataclass(frozen=True)
class Square:
    """A cell of a matrix that is not empty."""

    x: int
    y: int
    level: int
    """From 1 to LEVELS: its share of its row."""
    count: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A matrix as rectangles."""

    size: int
    """Of its edge, in units of the drawing."""
    squares: tuple[Square, ...]
    rows: tuple[tuple[int, str], ...]
    """Where the name of each row stands, and the name with its number of images."""
    columns: tuple[tuple[int, str], ...]
    written: bool
    """Whether counts stand in the cells."""

    @property
    def scale(self) -> float:
        """Pixels a unit: counts are written large enough to be read."""
        return 1.4 if self.written else 1.0


def make_heat(counts: Int64[np.ndarray, "classes classes"], names: Sequence[str]) -> Heat:
    """Shares of rows: the rows are true classes, the columns predicted ones."""
    levels, images = _levels(counts), counts.sum(axis=1)
    squares = tuple(
        Square(int(other) * CELL, int(true) * CELL, int(levels[true, other]), int(counts[true, other]),
               f"{names[true]} → {names[other]}: {counts[true, other]:,} of {images[true]:,}")
        for true, other in zip(*np.nonzero(counts), strict=True)
    )  # fmt: skip
    middles = [CELL * number + CELL // 2 for number in range(len(names))]
    return Heat(
        size=CELL * len(names),
        squares=squares,
        rows=tuple((y, f"{short(name, 14)} ({n:,})") for y, name, n in zip(middles, names, images, strict=True)),
        columns=tuple((x, short(name, 14)) for x, name in zip(middles, names, strict=True)),
        written=len(names) <= MOST_WRITTEN_CLASSES,
    )


def heat_picture(counts: Int64[np.ndarray, "classes classes"]) -> str:
    """The same as a PNG of one pixel a cell, in base64."""
    from PIL import Image

    image = Image.fromarray(_levels(counts), "P")
    image.putpalette(bytes(HEAT) * (LEVELS + 1))
    opacity = bytes([0, *(round(255 * (0.12 + 0.88 * level / LEVELS)) for level in range(1, LEVELS + 1))])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=opacity, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _levels(counts: Int64[np.ndarray, "classes classes"]) -> UInt8[np.ndarray, "classes classes"]:
    """0 for an empty cell, else its share of its row from 1 to LEVELS. Roots, so that a few per cent can be seen."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.ceil(np.sqrt(shares) * LEVELS).astype(np.uint8)
