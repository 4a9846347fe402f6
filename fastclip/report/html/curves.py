"""Accuracy by α as numbers: where the marks of a drawing lie. The template draws them as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from fastclip.report.html.plots import Axis, make_axis
from fastclip.report.numbers import percent
from fastclip.results.cells import ZERO_SHOT, Column, Evaluation, mean

LEFT, RIGHT, TOP, BOTTOM = 44, 322, 12, 132
"""Of the axes, in units of the drawing, which is 340 wide."""
FIXED_ALPHA = 0.5
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""With a mark on the axis."""


class Point(NamedTuple):
    """The accuracy at one α, and that of zero-shot."""

    alpha: float
    value: Fraction
    zero_shot: Fraction

    @property
    def points(self) -> float:
        """The difference in points."""
        return float(100 * (self.value - self.zero_shot))

    @property
    def text(self) -> str:
        """Both, for a reader of the drawing."""
        return f"α {self.alpha:g}: {percent(self.value)}%, zero-shot {percent(self.zero_shot)}%"


@dataclass(frozen=True)
class Dot:
    """One α, in units of the drawing."""

    x: float
    y: float
    text: str
    fixed: bool
    """Whether it is the α that nobody has to choose."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The line of one domain."""

    title: str
    dots: tuple[Dot, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    zero: float
    """The height of zero-shot."""

    @property
    def path(self) -> str:
        """The line through the dots."""
        return "M" + "L".join(f"{each.x} {each.y}" for each in self.dots)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The weights between two, on one dataset."""

    title: str
    panels: tuple[Panel, ...]


def curves(evaluation: Evaluation) -> Iterator[Curve]:
    """A curve for each dataset, backbone and fine-tuning of which several α were tested."""
    found: dict[tuple[str, str, str], dict[float, str]] = {}
    for head in evaluation.heads:
        if head.is_backbone and "alpha" in head.facts.settings:
            line = (head.dataset, head.facts.recipe.backbone, head.facts.method)
            found.setdefault(line, {})[head.facts.settings["alpha"]] = head.name
    for (dataset, backbone, method), names in found.items():
        if len(names) > 1 and (panels := _panels(evaluation, dataset, backbone, dict(sorted(names.items())))):
            yield Curve(title=f"{dataset}, {backbone}, {method}", panels=tuple(panels))


def _panels(evaluation: Evaluation, dataset: str, backbone: str, names: Mapping[float, str]) -> list[Panel]:
    """A panel for each domain and their average, all with one axis: points above zero-shot."""
    zero_shot = Column(backbone, ZERO_SHOT, next(iter(evaluation.prompts), ""))
    columns = [zero_shot, *(Column(backbone, name) for name in names.values())]
    domains = dict.fromkeys(cell.domain for cell in evaluation.cells if cell.dataset == dataset)
    rows = [(domain, [_accuracy(evaluation, dataset, domain, each) for each in columns]) for domain in domains]
    if len(rows) > 1:
        rows.append(("average", [mean(column) for column in zip(*(row for _, row in rows), strict=True)]))
    lines = [
        (title, [Point(alpha, value, first) for alpha, value in zip(names, values, strict=True) if value is not None])
        for title, (first, *values) in rows
        if first is not None
    ]
    points = [each.points for _, line in lines for each in line]
    axis = make_axis(min(0.0, *points), max(0.0, *points), least=-100.0, most=100.0) if points else None
    return [_panel(title, line, axis) for title, line in lines if line and axis]


def _accuracy(evaluation: Evaluation, dataset: str, domain: str, column: Column) -> Fraction | None:
    cell = evaluation.cell(dataset, domain, column)
    return cell.accuracy(evaluation.unreadable_policy) if cell else None


def _panel(title: str, line: Sequence[Point], axis: Axis) -> Panel:
    return Panel(
        title=title,
        dots=tuple(Dot(_x(each.alpha), _y(each.points, axis), each.text, each.alpha == FIXED_ALPHA) for each in line),
        x_ticks=tuple((_x(each), f"{each:g}") for each in ALPHAS),
        y_ticks=tuple((_y(each, axis), _signed(each)) for each in axis.ticks),
        zero=_y(0.0, axis),
    )


def _x(alpha: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * alpha, 1)


def _y(value: float, axis: Axis) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * (value - axis.low) / (axis.high - axis.low), 1)


def _signed(points: float) -> str:
    return f"{points:+.4g}".replace("-", "−") if points else "0"
