"""Strengths of penalties: which there are, and the search for the best one on held-out images of the source."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from fastclip.errors import UserError

STRENGTHS = tuple(10.0 ** (-6 + step / 8) for step in range(97))
"""From 1e-6 to 1e6, eight a decade: the grid of OpenAI's linear probes, as λ = 1/C of scikit-learn."""

WEAKEST, STRONGEST = 1e-9, 1e9
"""A thousand times beyond the grid. Further away rounding keeps fits from their optimum, and numbers overflow."""

BOUND = 1e-7
"""The greatest entry of the gradient of the mean objective at what counts as the optimum."""

STARTS = tuple(range(96, -1, -16))
SPANS = (8, 4, 2, 1)


def check_strength(strength: float) -> None:
    """Raise `UserError` for a strength that no fit can reach the optimum of."""
    if not WEAKEST <= strength <= STRONGEST:
        raise UserError(
            f"The strength of a penalty is positive, from {WEAKEST:g} to {STRONGEST:g}, not {strength:g}.",
            fix="--strength 1",
        )


def search_strength(right: Callable[[float], int]) -> tuple[float, int]:
    """The strength with the greatest `right`, and that number. Of equal ones the stronger is taken.

    `right` counts the held-out images that a fit with this strength classifies. It is asked for the seven starts from
    the strongest to the weakest, so that each fit can start from the one before, then for both neighbours of the best
    at half the distance, and so on: 15 fits at most.
    """
    counted = cache(lambda step: right(STRENGTHS[step]))
    tried = list(STARTS)
    best = max(tried, key=lambda step: (counted(step), step))
    for span in SPANS:
        tried += [step for step in (best + span, best - span) if 0 <= step < len(STRENGTHS)]
        best = max(tried, key=lambda step: (counted(step), step))
    return STRENGTHS[best], counted(best)
