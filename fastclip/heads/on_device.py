"""The sums of a logistic probe by PyTorch, on a GPU: the same formulas as in `fastclip.heads.softmax`."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64

ROWS = 65_536
"""Rows a block: with 1,000 classes their scores take 0.5 GB in fp64."""


class DeviceSums:
    """Vectors and labels on a device, and what an evaluation sums over them."""

    def __init__(
        self, device: str, vectors: Float[np.ndarray, "images dim"], labels: Int64[np.ndarray, " images"]
    ) -> None:
        self._vectors = torch.from_numpy(vectors).to(device)
        self._labels = torch.from_numpy(labels).to(device)

    @torch.inference_mode()
    def __call__(
        self, factors: Float[np.ndarray, "classes dim"], offsets: Float[np.ndarray, " classes"]
    ) -> tuple[float, Float64[np.ndarray, "classes dim"], Float64[np.ndarray, "2 classes"]]:
        """The sums of the cross-entropies, of their gradients, and of p and p² of each class's probability p.

        Products are in the precision of `factors`, fp32 or fp64; sums over blocks in fp64.
        """
        device = self._vectors.device
        weights, shifts = torch.from_numpy(factors).to(device), torch.from_numpy(offsets).to(device)
        loss = torch.zeros((), dtype=torch.float64, device=device)
        gradient = torch.zeros(weights.shape, dtype=torch.float64, device=device)
        totals = torch.zeros((2, len(weights)), dtype=torch.float64, device=device)
        for stored, labels in zip(self._vectors.split(ROWS), self._labels[:, None].split(ROWS), strict=True):
            vectors = stored.to(weights.dtype)
            scores = torch.addmm(shifts, vectors, weights.T)
            scores -= scores.max(dim=1, keepdim=True).values
            true = scores.gather(1, labels).sum(dtype=torch.float64)
            sums = scores.exp_().sum(dim=1, keepdim=True)
            loss += sums.double().log().sum() - true
            scores /= sums
            totals[0] += scores.sum(dim=0, dtype=torch.float64)
            totals[1] += scores.square().sum(dim=0, dtype=torch.float64)
            scores.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=scores.dtype))
            gradient += (scores.T @ vectors).double()
        return float(loss), gradient.cpu().numpy(), totals.cpu().numpy()


def describe_device(device: str) -> str:
    """PyTorch and the device, as far as last bits of a fit depend on them."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return f"torch {torch.__version__} on {name}"
