"""The objective of a logistic probe: mean cross-entropy plus a penalty, with its gradient, by blocks of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int64

from fastclip.heads.blocks import blocks_of, over_blocks
from fastclip.heads.scores import check_finite

ROWS = 1024
"""Rows a block: their scores stay in a core's cache. Another number moves last bits of sums."""

SAMPLE = 8
"""Images a dimension from which the axes are taken. All 300,000 of 1,024 numbers take as long as an evaluation."""
MOST_COPIED = 2**30
"""Bytes of vectors up to which they are kept in fp32. Converting fp16 takes as long as products with 40 classes."""


Sums: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray, np.ndarray]]
"""As `Softmax._sums`."""


@dataclass(frozen=True)
class Point:
    """The objective at some parameters."""

    parameters: Float64[np.ndarray, "classes columns"]
    value: float
    gradient: Float64[np.ndarray, "classes columns"]
    spread: Float64[np.ndarray, " classes"]
    """The mean of p (1 - p) of each class's probability p: how strongly the loss is curved along its row."""
    steepest: float
    """The greatest size of an entry of the gradient by weights and intercept as they are applied to vectors."""


@dataclass(frozen=True, eq=False)
class Softmax:
    """Mean cross-entropy of the softmax of linear scores, as a function of one parameter matrix.

    Its columns are the weights' coordinates along the principal axes of the vectors, then the intercept at their mean.
    There the curvature is nearly diagonal, and what is penalised stays the same: the axes are orthonormal. Weights are
    counted from `origin`.
    """

    vectors: Float[np.ndarray, "images dim"]
    labels: Int64[np.ndarray, " images"]
    origin: Float64[np.ndarray, "classes dim"]
    cores: int = 1
    device: str | None = None
    """A device of PyTorch's that takes the sums, such as `cuda:0`. By default NumPy does, in `cores` threads."""
    mean: Float64[np.ndarray, " dim"] = field(init=False)
    axes: Float64[np.ndarray, "dim dim"] = field(init=False)
    """A column an axis."""
    variances: Float64[np.ndarray, " columns"] = field(init=False)
    """Along each axis; 1 for the intercept."""
    penalised: Float64[np.ndarray, " columns"] = field(init=False)
    """1, and 0 for the intercept."""
    _single: Float[np.ndarray, "images dim"] = field(init=False, repr=False)
    _on_device: Sums | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if self.device:
            from fastclip.heads.on_device import DeviceSums  # PyTorch takes seconds to load

            object.__setattr__(self, "_on_device", DeviceSums(self.device, self.vectors, self.labels))
        small = self.vectors.size * 4 <= MOST_COPIED
        object.__setattr__(self, "_single", self.vectors.astype(np.float32, copy=False) if small else self.vectors)
        mean, axes, variances = self._principal_axes()
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "variances", np.append(variances, 1.0))
        object.__setattr__(self, "penalised", np.append(np.ones(len(variances)), 0.0))

    def at(self, parameters: Float64[np.ndarray, "classes columns"], strength: float, *, exact: bool) -> Point:
        """The objective with the penalty `strength` / 2 · ‖parameters‖² / images; products in fp64 if `exact`."""
        kind = np.float64 if exact else np.float32
        axes = self.axes.astype(kind)
        weights, intercept = self._applied(parameters, axes)
        factors, offsets = weights.astype(kind), intercept.astype(kind)
        loss, gradient, totals = (self._on_device or self._sums)(factors, offsets)
        check_finite(np.array([[loss]]))
        images = len(self.vectors)
        residual = totals[0] - np.bincount(self.labels, minlength=len(weights))
        along = (gradient - np.outer(residual, self.mean)).astype(kind) @ axes
        turned = np.column_stack([along, residual])
        penalty = strength / images * self.penalised
        plain = gradient + strength * (weights - self.origin)
        return Point(
            parameters,
            loss / images + 0.5 * float((penalty * parameters**2).sum()),
            turned / images + penalty * parameters,
            (totals[0] - totals[1]) / images,
            float(max(np.abs(plain).max(), np.abs(residual).max())) / images,
        )

    def _sums(
        self, factors: Float[np.ndarray, "classes dim"], offsets: Float[np.ndarray, " classes"]
    ) -> tuple[float, Float64[np.ndarray, "classes dim"], Float64[np.ndarray, "2 classes"]]:
        """The sums of the cross-entropies, of their gradients, and of p and p² of each class's probability p."""
        loss, gradient, totals = 0.0, np.zeros(factors.shape), np.zeros((2, len(factors)))
        kind = factors.dtype

        def work(rows: slice) -> tuple[float, np.ndarray, np.ndarray]:
            vectors = (self.vectors if kind == np.float64 else self._single)[rows].astype(kind, copy=False)
            scores = vectors @ factors.T
            scores += offsets
            lost = _to_probabilities(scores, self.labels[rows])
            # A sum in fp32 rounds one way again and again: 2,000 × 64 × 10 at λ = 1e6 took 3,462 evaluations, not 6.
            sums = np.stack([scores.sum(axis=0, dtype=np.float64), np.einsum("ic,ic->c", scores, scores)])
            scores[np.arange(len(scores)), self.labels[rows]] -= 1
            return lost, scores.T @ vectors, sums

        for lost, slope, sums in over_blocks(work, blocks_of(len(self.vectors), ROWS), self.cores):
            loss += lost
            gradient += slope
            totals += sums
        return loss, gradient, totals

    def head(
        self, parameters: Float64[np.ndarray, "classes columns"]
    ) -> tuple[Float64[np.ndarray, "classes dim"], Float64[np.ndarray, " classes"]]:
        """Weights and intercept, as they are applied to vectors."""
        return self._applied(parameters, self.axes)

    def _applied(
        self, parameters: Float64[np.ndarray, "classes columns"], axes: Float[np.ndarray, "dim dim"]
    ) -> tuple[Float64[np.ndarray, "classes dim"], Float64[np.ndarray, " classes"]]:
        moved = parameters[:, :-1].astype(axes.dtype) @ axes.T
        return self.origin + moved, parameters[:, -1] - moved @ self.mean

    def _principal_axes(
        self,
    ) -> tuple[Float64[np.ndarray, " dim"], Float64[np.ndarray, "dim dim"], Float64[np.ndarray, " dim"]]:
        """The mean, the axes and the variances of `SAMPLE` rows a dimension or more. Rough ones cost only time."""
        images, dim = self.vectors.shape
        some = self._single[:: max(1, images // (SAMPLE * dim))]

        def work(rows: slice) -> tuple[np.ndarray, np.ndarray]:
            vectors = some[rows].astype(np.float32)
            return vectors.sum(axis=0, dtype=np.float64), vectors.T @ vectors

        total, products = np.zeros(dim), np.zeros((dim, dim))
        for each_sum, each_product in over_blocks(work, blocks_of(len(some), ROWS), self.cores):
            total += each_sum
            products += each_product
        check_finite(products)
        mean = total / len(some)
        variances, axes = np.linalg.eigh(products / len(some) - np.outer(mean, mean))
        return mean, axes, np.maximum(variances, 0.0)


def _to_probabilities(scores: Float[np.ndarray, "rows classes"], labels: Int64[np.ndarray, " rows"]) -> float:
    """Turn `scores` into probabilities, in place. Returns the sum of the cross-entropies."""
    # NumPy takes 5 instead of 0.8 ns a number for the greatest of 7 in a row.
    greatest = scores.T.copy().max(axis=0) if scores.shape[1] < 64 else scores.max(axis=1)
    scores -= greatest[:, None]
    true = scores[np.arange(len(labels)), labels].sum(dtype=np.float64)
    np.exp(scores, out=scores)
    sums = scores @ np.ones(scores.shape[1], scores.dtype)
    scores *= (1 / sums)[:, None]
    return float(np.log(sums, dtype=np.float64).sum() - true)
