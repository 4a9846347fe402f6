"""L-BFGS for a smooth convex function whose curvature is nearly diagonal and known."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from fastclip.heads.softmax import Point

PAIRS = 20
"""Steps that are remembered."""
TRIES = 20
"""Lengths that are tried along a line."""

Matrix = Float64[np.ndarray, "classes columns"]
Steps = deque[tuple[Matrix, Matrix, float]]
"""Steps, the changes of the gradient and their inner products."""


def minimise(
    at: Callable[[Matrix], Point],
    start: Matrix,
    curvature: Callable[[Point], Matrix],
    *,
    reached: Callable[[Point], bool],
    iterations: int,
    patience: int,
) -> tuple[Point, int]:
    """The first point found at which the minimum counts as `reached`, and the iterations that led there.

    `curvature` estimates the second derivatives at a point. Ends earlier after so many `iterations`, where rounding
    leaves no way down, and after `patience` iterations in which neither the value nor the gradient got smaller.
    """
    point = at(start)
    steps: Steps = deque(maxlen=PAIRS)
    value, steepest, progress = point.value, point.steepest, 0
    for done in range(iterations):
        if point.value < value - 1e-7 * abs(value) or point.steepest < 0.9 * steepest:
            value, steepest, progress = min(value, point.value), min(steepest, point.steepest), done
        if reached(point) or done - progress > patience:
            return point, done
        found = _along(at, point, _direction(point, curvature(point), steps))
        if found is None:
            return point, done
        step, change = found.parameters - point.parameters, found.gradient - point.gradient
        inner = float(np.vdot(step, change))
        if inner > 0:
            steps.append((step, change, inner))
        point = found
    return point, iterations


def _direction(point: Point, curvature: Matrix, steps: Steps) -> Matrix:
    """The way down: minus the gradient, times the inverse curvature as the steps have shown it."""
    way = -point.gradient
    shares = []
    for step, change, inner in reversed(steps):
        share = float(np.vdot(step, way)) / inner
        shares.append(share)
        way -= share * change
    if steps:
        _, change, inner = steps[-1]
        way *= inner / float(np.vdot(change, change / curvature))
    way /= curvature
    for (step, change, inner), share in zip(steps, reversed(shares), strict=True):
        way += (share - float(np.vdot(change, way)) / inner) * step
    return way


def _along(at: Callable[[Matrix], Point], start: Point, way: Matrix) -> Point | None:
    """A point that is lower and less steep along `way` (Wolfe's conditions); None if there is none.

    Where values are equal but for rounding, the slopes alone decide (Hager and Zhang).
    """
    slope = float(np.vdot(start.gradient, way))
    if slope >= 0:
        return None
    low, high, length = 0.0, np.inf, 1.0
    low_slope = slope
    for _ in range(TRIES):
        point = at(start.parameters + length * way)
        there = float(np.vdot(point.gradient, way))
        falls = point.value <= start.value + 1e-4 * length * slope
        level = point.value <= start.value + 1e-6 * abs(start.value) and there <= -0.8 * slope
        if not (falls or level) or there > -0.9 * slope:
            high = length
        elif there < 0.9 * slope:
            low, low_slope = length, there
        else:
            return point
        # Where a line through the slopes meets zero.
        zero = low + (length - low) * low_slope / (low_slope - there) if there > low_slope else np.inf
        if high == np.inf:
            length = min(max(zero, 2 * length), 10 * length)
        else:
            length = min(max(zero, low + 0.1 * (high - low)), low + 0.9 * (high - low))
    return None
