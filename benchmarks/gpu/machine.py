"""The machine: hashing, matrix products in 16 and 8 bits, memory, copies, launches, attention, JPEG engines."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
from measure import Probe
from torch import Tensor
from torch.nn import functional

from fastclip.machine import available_cores

ATTENTION = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}
BLOCKS = {"ViT-B/32": (50, 768), "ViT-L/14": (257, 1024), "ViT-L/14@336px": (577, 1024)}
"""Tokens and width."""


def machine(probe: Probe) -> None:
    """Figures that those of the other steps can be compared with."""
    cpu = "?"
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    facts = {"cores": available_cores(), "cpu": cpu, "torch": torch.__version__, "python": sys.version.split()[0]}
    facts["torch_has_bytecode"] = Path(torch.__file__).with_name("__pycache__").is_dir()
    if probe.on_gpu:
        facts |= {"gpu": torch.cuda.get_device_name(probe.device), "cudnn": torch.backends.cudnn.version()}
    probe.say("machine", facts)
    _hashing(probe)
    if probe.on_gpu:
        _memory(probe)
        _attention(probe)
        shown = subprocess.run(["nvidia-smi", "-q"], capture_output=True, text=True, check=False).stdout.splitlines()
        probe.say("nvidia-smi", {"lines": [each.strip() for each in shown if "JPEG" in each or "Driver Ver" in each]})


def _hashing(probe: Probe) -> None:
    data = bytearray(256 << 20)
    rates = {}
    for threads in (1, 4):
        with ThreadPoolExecutor(threads) as pool:
            started = time.perf_counter()
            list(pool.map(hashlib.sha256, [data] * threads))
            rates[f"gb_per_s_of_{threads}"] = threads * len(data) / (time.perf_counter() - started) / 1e9
    probe.say("sha256", rates)


def _memory(probe: Probe) -> None:
    left, right = (torch.randn(8192, 8192, device=probe.device, dtype=torch.float16) for _ in range(2))
    free, total = torch.cuda.mem_get_info(probe.device)
    rate = 2 * 8192**3 / probe.seconds(lambda: left @ right)
    probe.say("matmul fp16 8192", {"tflops": rate / 1e12, "free_gib": free / 2**30, "total_gib": total / 2**30})
    source, target = (torch.empty(2 << 30, dtype=torch.uint8, device=probe.device) for _ in range(2))
    rate = 2 * source.numel() / probe.seconds(lambda: target.copy_(source))
    probe.say("device copy", {"tb_per_s": rate / 1e12})
    pinned = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
    pageable = torch.ones(1 << 28, dtype=torch.uint8)
    rates = {
        name: host.numel() / probe.seconds(lambda host=host: target[: 1 << 28].copy_(host, non_blocking=True)) / 1e9
        for name, host in (("pinned_gb_per_s", pinned), ("pageable_gb_per_s", pageable))
    }
    probe.say("host to device", rates)
    small = torch.zeros(16, device=probe.device)
    probe.wait()
    started = time.perf_counter()
    for _ in range(5000):
        small.add_(1)
    probe.say("launch", {"us": (time.perf_counter() - started) / 5000 * 1e6})


def _attention(probe: Probe) -> None:
    for tokens, heads in ((50, 12), (197, 12), (257, 16), (577, 16)):
        packed = torch.randn(64, tokens, 3 * heads * 64, device=probe.device, dtype=torch.float16)
        three = tuple(each.unflatten(2, (heads, 64)).transpose(1, 2) for each in packed.chunk(3, -1))
        backend = int(torch._fused_sdp_choice(*three))
        spent = probe.seconds(lambda three=three: functional.scaled_dot_product_attention(*three), 0.2)
        facts = {"tokens": tokens, "backend": ATTENTION.get(backend, backend), "us_per_image": spent / 64 * 1e6}
        probe.say("attention", facts)


def products(probe: Probe) -> None:
    """The most that 8 bits could save: the four products of a block, in fp16 and in fp8."""
    for name, (tokens, width) in BLOCKS.items():
        rows = tokens * probe.batch
        for wide, deep in ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width)):
            if probe.out_of_time:
                return
            drawn = {"device": probe.device, "dtype": torch.float16}
            inputs, weights = torch.randn(rows, deep, **drawn), torch.randn(wide, deep, **drawn)
            bias = torch.randn(wide, **drawn)
            operations = 2 * rows * wide * deep / 1e12
            spent = probe.seconds(lambda i=inputs, w=weights, b=bias: functional.linear(i, w, b), 0.15)
            facts: dict[str, object] = {"fp16_tflops": operations / spent}
            for key, by_row in (("fp8_tflops", False), ("fp8_by_row_tflops", True)):
                try:
                    facts[key] = operations / _fp8_seconds(probe, inputs, weights, by_row=by_row)
                except (RuntimeError, NotImplementedError) as error:
                    facts[key] = str(error)[:80]
            probe.say("product", {"name": name, "rows": rows, "wide": wide, "deep": deep, **facts})


def _fp8_seconds(probe: Probe, inputs: Tensor, weights: Tensor, *, by_row: bool) -> float:
    left, right = inputs.to(torch.float8_e4m3fn), weights.to(torch.float8_e4m3fn).t()
    shapes = [(len(left), 1), (1, right.shape[1])] if by_row else [(), ()]
    scales = [torch.ones(shape, device=probe.device) for shape in shapes]
    out = torch.bfloat16 if by_row else torch.float16
    return probe.seconds(
        lambda: torch._scaled_mm(left, right, *scales, out_dtype=out, use_fast_accum=True), least_s=0.15
    )
