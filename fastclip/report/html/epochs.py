"""Loss and accuracy by epoch as numbers: where the marks of a drawing lie. The template draws them as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastclip.report.finetuning import counted_on, epoch_name, epoch_table, is_chosen, share, tuned_heads
from fastclip.report.html.plots import Axis, make_axis
from fastclip.report.numbers import percent
from fastclip.report.verdict_grids import Grid
from fastclip.results.cells import Evaluation, UsedHead

LEFT, RIGHT, TOP, BOTTOM = 44, 322, 12, 132
"""Of the axes, in units of the drawing, which is 340 wide."""

MOST_DRAWN = 24
"""Fine-tuned backbones on a page. More of them have rows in its tables, and epochs in the result."""


@dataclass(frozen=True)
class Point:
    """One epoch, in units of the drawing."""

    x: float
    y: float
    text: str
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A number by epoch."""

    title: str
    points: tuple[Point, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    zero_shot: float | None
    """The height of epoch 0, if it has one."""

    @property
    def path(self) -> str:
        """The line through the points."""
        return "M" + "L".join(f"{each.x} {each.y}" for each in self.points)


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """One fine-tuned backbone."""

    title: str
    curves: tuple[Curve, ...]
    table: Grid
    chosen: tuple[int, ...]
    """The rows of the table whose epoch was chosen."""


def fine_tunings(evaluation: Evaluation) -> list[FineTuning]:
    """The fine-tuned backbones of a result, with curves and a table each."""
    return [
        FineTuning(
            title=f"{head.facts.recipe.backbone}, {head.name}",
            curves=tuple(_curves(head)),
            table=table,
            chosen=tuple(number for number, each in enumerate(head.epochs) if is_chosen(head, each)),
        )
        for head, table in list(zip(tuned_heads(evaluation), epoch_table(evaluation), strict=True))[:MOST_DRAWN]
    ]


def _curves(head: UsedHead) -> Iterator[Curve]:
    losses = [(each.number, each.loss) for each in head.epochs if each.loss is not None]
    shares = [(each.number, float(of * 100)) for each in head.epochs if (of := share(each)) is not None]
    names = {each.number: epoch_name(head, each) for each in head.epochs}
    chosen = {each.number for each in head.epochs if is_chosen(head, each)}
    texts = {each.number: f"{percent(share(each))}%, {each.right:,} of {each.images:,}" for each in head.epochs}
    on = "the test domain" if counted_on(head) == "test domain" else "held-out images"
    if losses:
        said = {number: f"{names[number]}: loss {loss:.4f}" for number, loss in losses}
        low, high = min(0.0, *(loss for _, loss in losses)), max(0.001, *(loss for _, loss in losses))
        yield _curve("loss", losses, said, chosen, make_axis(low, high))
    if shares:
        said = {number: f"{names[number]}: {texts[number]}" for number, _ in shares}
        numbers = [number for _, number in shares]
        low, high = (min(numbers), max(numbers)) if len(set(numbers)) > 1 else (numbers[0] - 1, numbers[0] + 1)
        axis = make_axis(low, high, least=0.0, most=100.0)
        yield _curve(f"accuracy on {on}, %", shares, said, chosen, axis)


def _curve(
    title: str,
    values: Sequence[tuple[int, float]],
    texts: dict[int, str],
    chosen: set[int],
    y_axis: Axis,
) -> Curve:
    """The curve of (epoch, number) pairs over an axis that holds all numbers."""
    x_axis = make_axis(0.0, float(max(1, *(epoch for epoch, _ in values))))

    def x(value: int | float) -> float:
        return round(LEFT + (RIGHT - LEFT) * x_axis.share(float(value)), 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * y_axis.share(value), 1)

    return Curve(
        title=title,
        points=tuple(Point(x(epoch), y(value), f"epoch {texts[epoch]}", epoch in chosen) for epoch, value in values),
        x_ticks=tuple((x(each), f"{each:g}") for each in x_axis.ticks if each == int(each)),
        y_ticks=tuple((y(each), f"{each:.4g}".replace("-", "−")) for each in y_axis.ticks),
        zero_shot=next((y(value) for epoch, value in values if epoch == 0), None),
    )
