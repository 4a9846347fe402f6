"""Device, precision, threads and library versions: they decide the last bit, and recipes name them."""

from __future__ import annotations

import gc
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fastclip.errors import UserError
from fastclip.machine import available_memory, give_back_freed_memory
from fastclip.store.recipes import PRECISIONS

NUMERICS_VERSION = 6
"""Raised by hand when a change of this code moves a bit of an embedding or a prototype: it is in their recipes."""


def find_device(asked: str | None, local_rank: int) -> torch.device:
    """The device of this process: `asked` (cpu or cuda), else its own GPU where there is one, else the CPU."""
    found = torch.cuda.is_available()
    if asked not in (None, "cpu", "cuda"):
        raise UserError(f"There is no device {asked!r}.", fix="--device cpu or --device cuda")
    if asked == "cuda" and not found:
        raise UserError("PyTorch sees no GPU here.", fix="--device cpu, or look at nvidia-smi and the driver.")
    if asked == "cpu" or not found:
        return torch.device("cpu")
    if torch.cuda.device_count() == 1:
        return torch.device("cuda", 0)  # the launcher may show each process its own GPU only
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"Process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}.",
            fix="Start one process a GPU: accelerate launch --num_processes N",
        )
    return torch.device("cuda", local_rank)


def find_precision(asked: str | None, device: torch.device) -> str:
    """`asked`, else the fastest that is accurate: fp16 on a GPU, bf16 on a CPU that multiplies it faster, else fp32."""
    if asked is None:
        return "fp16" if device.type == "cuda" else "bf16" if _bf16_is_faster() else "fp32"
    if asked not in PRECISIONS:
        raise UserError(f"There is no precision {asked!r}.", fix=f"Choose from {', '.join(PRECISIONS)}.")
    return asked


@contextmanager
def fixed_numerics(device: torch.device) -> Iterator[None]:
    """`fix_numerics` for the block; afterwards every setting is as it was."""
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    before = [getattr(owner, name) for owner, name, _ in _SETTINGS]
    gpu = torch.cuda.current_device() if device.type == "cuda" else None
    fix_numerics(device)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(products)
        for (owner, name, _), value in zip(_SETTINGS, before, strict=True):
            setattr(owner, name, value)
        if gpu is not None:
            torch.cuda.set_device(gpu)


def fix_numerics(device: torch.device) -> None:
    """Make settings under which the same batch gives the same bits in every process of this kind of machine.

    One intra-op thread: in bf16 on a CPU, 79 % of ViT-B/32's embedding entries moved when threads went from 1 to 2.
    Batches run in parallel instead. No TF32, no sums in 16 bits, no kernel whose sums change their order, and no choice
    of kernels by timing, which two processes may make differently.
    """
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")  # "medium", which trainers set, multiplies fp32 in bf16 on a CPU
    for owner, name, value in _SETTINGS:
        setattr(owner, name, value)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # no context, and no memory, on another process's GPU


_MKLDNN: Any = torch.backends.mkldnn  # its parts are made when they are asked for

_SETTINGS: tuple[tuple[Any, str, bool | str], ...] = (
    (torch.backends.cudnn, "allow_tf32", False),
    (_MKLDNN.conv, "fp32_precision", "ieee"),
    (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
    (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
    (torch.backends.cudnn, "benchmark", False),
    (torch.backends.cudnn, "deterministic", True),
)


def describe_machine(device: torch.device) -> str:
    """The processor, as far as libraries choose their kernels by it."""
    if device.type == "cuda":
        libraries = f"cuda {torch.version.cuda} cudnn {torch.backends.cudnn.version()}"
        return f"{libraries} {torch.cuda.get_device_name(device)}"
    features = [name for name, has in (("bf16", _avx512_bf16()), ("amx", _amx())) if has]
    return " ".join(["cpu", torch.backends.cpu.get_cpu_capability(), *features, _cpu_model()])


def describe_libraries() -> str:
    """The libraries that compute, with their versions."""
    return f"torch {torch.__version__.split('+')[0]}, open_clip {version('open_clip_torch')}"


def find_switches(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The environment variables by which libraries choose other kernels, as NAME=VALUE; those of logs are none."""
    names = r"ONEDNN_|DNNL_|MKL_CBWR|MKL_ENABLE|NVIDIA_TF32|CUDNN_|CUBLAS|TORCH_CUDNN|TORCH_BLAS|TORCH_ALLOW_TF32"
    logs = r"VERBOSE|_LOG|JIT_DUMP|JIT_PROFILE"
    return tuple(sorted(f"{k}={v}" for k, v in environment.items() if re.match(names, k) and not re.search(logs, k)))


def describe_numerics(device: torch.device) -> str:
    """Version, libraries, machine and switches in one line, for records of speed and for caches of kernels."""
    parts = [f"numerics {NUMERICS_VERSION}", describe_libraries(), describe_machine(device), *find_switches()]
    return ", ".join(parts)


def default_batch_size(device: torch.device) -> int:
    """Images a forward pass where nobody says: 32 on a CPU, on a GPU 256, or what its whole memory allows for.

    The largest of OpenAI's nine takes 26 MB an image in 16 bits. Free memory plays no part: two processes on equal
    GPUs must choose the same.
    """
    if device.type == "cpu":
        return 32
    fits = torch.cuda.get_device_properties(device).total_memory // (40 * 2**20)
    return max(1, min(256, 1 << (int(fits).bit_length() - 1)))


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device's memory was full, whoever says it: PyTorch, CUDA itself, its libraries or DALI."""
    text = str(error).lower()
    signs = ["out of memory", "cuda_error_out_of_memory", "alloc_failed", "memory allocation"]
    signs += ["cuda allocation failed", "can't allocate"]  # DALI
    if torch.cuda.is_initialized() and torch.cuda.mem_get_info()[0] < 2**31:
        signs += ["unable to find an engine"]  # cuDNN, when none of its kernels gets the room that it works in
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in signs)
    )


def free_memory() -> None:
    """Give back what nothing uses any more."""
    gc.collect()
    torch.cuda.empty_cache()
    if torch.cuda.is_initialized() and (dali := sys.modules.get("nvidia.dali.backend")):
        dali.ReleaseUnusedMemory()
    give_back_freed_memory()


def free_memory_bytes(device: torch.device, processes: int) -> int:
    """Memory that a process may still take on `device`: its GPU's, or its part of what `processes` here share."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory() // processes


def _cpu_model() -> str:
    """Vendor, family and model: MKL and oneDNN look at them beside the instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return " ".join(facts.get(name, "?") for name in ("vendor_id", "cpu family", "model"))


def _bf16_is_faster() -> bool:
    """Intel's cores multiply AVX512-BF16 no faster than fp32, AMD's twice as fast.

    512 photos by ViT-B/32, whole process, two cores: AMD 21 s in bf16 and 38 in fp32; Intel without AMX 43 and 27.
    """
    return _amx() or (_avx512_bf16() and _cpu_model().startswith("AuthenticAMD"))


def _avx512_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported()


def _amx() -> bool:
    return torch.cpu._is_amx_tile_supported()
