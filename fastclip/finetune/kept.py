"""Decoded crops that are kept in memory, for images that look the same in every epoch."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor


class KeptCrops:
    """The first `capacity` crops that come, by the numbers of their images, of which there are `images`."""

    def __init__(self, capacity: int, images: int) -> None:
        self._slots = np.full(images, -1, np.int64)
        self._capacity = min(capacity, images)
        self._used = 0
        self._crops: Tensor | None = None

    def missing(self, rows: Int64[np.ndarray, " batch"]) -> Int64[np.ndarray, " missing"]:
        """The positions in a batch of the images that are not kept."""
        return np.flatnonzero(self._slots[rows] < 0)

    def keep(self, rows: Int64[np.ndarray, " batch"], crops: UInt8[Tensor, "batch side side 3"]) -> None:
        """Keep the crops of these images, as far as there is room."""
        first = np.sort(np.unique(rows, return_index=True)[1])
        new = first[self._slots[rows[first]] < 0][: self._capacity - self._used]
        if not len(new):
            return
        if self._crops is None:  # the kernel gives a page when it is first written
            self._crops = crops.new_empty(self._capacity, *crops.shape[1:])
        last = self._used + len(new)
        self._crops[self._used : last] = crops[on_device(new, crops.device)]
        self._slots[rows[new]] = np.arange(self._used, last)
        self._used = last

    def filled_up(
        self,
        rows: Int64[np.ndarray, " batch"],
        missing: Int64[np.ndarray, " missing"],
        crops: UInt8[Tensor, "missing side side 3"],
    ) -> UInt8[Tensor, "batch side side 3"]:
        """The crops of a whole batch: `crops` are of those that were missing, the others are kept."""
        if len(missing) == len(rows):
            return crops
        assert self._crops is not None, "an image that is not missing is kept"
        batch = crops.new_empty(len(rows), *crops.shape[1:])
        there = np.setdiff1d(np.arange(len(rows)), missing)
        batch[on_device(there, crops.device)] = self._crops[on_device(self._slots[rows[there]], crops.device)]
        batch[on_device(missing, crops.device)] = crops
        return batch


def on_device(numbers: Shaped[np.ndarray, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """Numbers as a tensor on a device. Nobody waits for a GPU: from memory that is not pinned a copy would."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
