"""Linear heads: embeddings times one vector a class, plus a number a class. Zero-shot classification is one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Float64

from fastclip.errors import IntegrityError
from fastclip.heads.scores import check_finite, exact

LOGIT_SCALE = 100.0
"""By which OpenAI's CLIPs multiply cosines to get logits. Logistic heads have a scale of that size in their weights."""

_MOST = 1.5
"""The greatest sum of a class's length and bias after scaling. Times a stored unit vector it stays well below 2."""


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Scores `embeddings @ weights.T + bias`.

    For the scores weights are scaled by a power of two and rounded to multiples of 2⁻²⁶, the bias to multiples of 2⁻⁵²,
    so that every sum is exact. A class that `known` leaves out was not trained: its
    score is -inf.
    """

    weights: Float[np.ndarray, "classes dim"]
    bias: Float64[np.ndarray, " classes"] | None = None
    known: Bool[np.ndarray, " classes"] | None = None
    _factors: Float64[np.ndarray, "dim classes"] = field(init=False, repr=False)
    _offsets: Float64[np.ndarray, " classes"] | None = field(init=False, repr=False)
    _scale: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weights = self.weights.astype(np.float64)
        bias = np.zeros(len(weights)) if self.bias is None else self.bias
        largest = float((np.linalg.norm(weights, axis=1) + np.abs(bias)).max(initial=0.0))
        if not math.isfinite(largest):
            raise IntegrityError(
                "A head has weights that are not finite.", fix="Check the weights file, or fit the head again."
            )
        scale = 2.0 ** math.floor(math.log2(_MOST / largest)) if largest else 1.0
        object.__setattr__(self, "_scale", scale)
        object.__setattr__(self, "_factors", np.ascontiguousarray(exact(weights * scale).T))
        object.__setattr__(self, "_offsets", None if self.bias is None else np.rint(bias * scale * 2.0**52) / 2.0**52)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.weights)

    def __call__(self, embeddings: Float64[np.ndarray, "images dim"]) -> Float64[np.ndarray, "images classes"]:
        """The scores of embeddings that `exact` has rounded, exactly. Raises `IntegrityError` for one not finite."""
        scores = embeddings @ self._factors
        if self._offsets is not None:
            scores += self._offsets
        check_finite(scores)
        if self._scale != 1.0:
            scores /= self._scale
        if self.known is not None:
            scores[:, ~self.known] = -np.inf
        return scores
