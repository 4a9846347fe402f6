"""Votes of training images: exponentials that are the same bits on every machine, and whose sums are exact."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from fastclip.heads.scores import STEPS

_LEAST = -20.0
"""Where e^x is rounded to 0."""
_DOUBLINGS = 10


def vote(exponents: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """e^x, rounded to multiples of 2⁻²⁶, for numbers of at most 20. Up to 0 it is off by 1e-8 at most.

    It is made of single products and sums, which IEEE 754 defines to the last bit: NumPy's `exp` differs between
    processors. The series of e^(x/1024) is squared ten times. Sums of 2²⁶ votes are exact.
    """
    small = np.maximum(exponents, _LEAST)
    small /= 2.0**_DOUBLINGS
    votes = np.ones_like(small)
    for degree in (5.0, 4.0, 3.0, 2.0, 1.0):
        votes *= small
        votes /= degree
        votes += 1.0
    for _ in range(_DOUBLINGS):
        votes *= votes
    votes *= STEPS
    np.rint(votes, out=votes)
    votes /= STEPS
    return votes
