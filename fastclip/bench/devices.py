"""The peak speeds of devices by their data sheets. A device that is not listed gets no ratio."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from fastclip.models.tower import DTYPES

_TERAFLOPS = {
    "H200": (67, 989),
    "H100 80GB HBM3": (67, 989),
    "H100 PCIe": (51, 756),
    "A100": (19.5, 312),
    "L40S": (91.6, 362),
    "L4": (30.3, 121),
    "A10": (31.2, 125),
    "V100": (15.7, 125),
    "T4": (8.1, 65),
}
"""Part of the name that CUDA gives → dense fp32 without TF32, and dense fp16 with fp32 sums, from NVIDIA's data sheets.

bf16 is as fast as fp16 where there is bf16 at all: not on V100 and T4.
"""

_NO_BF16 = ("V100", "T4")


def peak_flops(gpu: str, precision: str) -> float | None:
    """Operations per second that the GPU called `gpu` can do in `precision` at most; None if it is not known."""
    words = gpu.replace("-", " ").split()
    for name, (fp32, fp16) in _TERAFLOPS.items():
        if set(name.split()) <= set(words):
            if precision == "bf16" and name in _NO_BF16:
                return None
            return (fp32 if precision == "fp32" else fp16) * 1e12
    return None


def matrix_product_flops(device: torch.device, precision: str, workers: int, seconds: float = 1.0) -> float:
    """Operations per second that plain matrix products reach on this device, as `workers` threads, measured now."""
    size = 8192 if device.type == "cuda" else 1536
    dtype = DTYPES[precision]
    begin = threading.Barrier(workers)

    @torch.inference_mode()
    def multiply(_: int) -> float:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        left @ right
        _wait(device)
        begin.wait()
        started, products = time.perf_counter(), 0
        while time.perf_counter() < started + seconds:
            left @ right
            _wait(device)
            products += 1
        return products / (time.perf_counter() - started)

    with ThreadPoolExecutor(workers, "product", torch.set_num_threads, (1,)) as pool:
        return sum(pool.map(multiply, range(workers))) * 2 * size**3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
