"""Votes of training images: exponentials that are the same bits on every machine, and whose sums are exact."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from fastclip.heads.scores import STEPS

_LEAST = -20.0
"""Where e^x is rounded to 0."""
_DOUBLINGS = 7
_SERIES = (1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)


def vote(exponents: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """e^x, rounded to multiples of 2⁻²⁶, for numbers up to 1. Up to 0 it is off by 1e-8 at most.

    It is made of single products and sums, which IEEE 754 defines to the last bit: NumPy's `exp` differs between
    processors. The series of e^(x/128) is squared seven times. Sums of 2²⁶ votes are exact.
    """
    small = np.maximum(exponents, _LEAST)
    small *= 0.5**_DOUBLINGS
    votes = small * _SERIES[0]
    for factor in _SERIES[1:-1]:
        votes += factor
        votes *= small
    votes += _SERIES[-1]
    for _ in range(_DOUBLINGS):
        votes *= votes
    votes *= STEPS
    np.rint(votes, out=votes)
    votes *= 1 / STEPS
    return votes
