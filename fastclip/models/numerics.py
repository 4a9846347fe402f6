"""What decides the last bit: device, precision, threads and library versions, set in one place and named in keys."""

from __future__ import annotations

import gc
import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from fastclip.errors import UserError
from fastclip.machine import available_memory, give_back_freed_memory

PRECISIONS = ("fp32", "bf16", "fp16")

NUMERICS_VERSION = 6
"""Raised by hand when a change of this code moves a bit of an embedding or a prototype: it is in their keys."""


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


def find_precision(asked: str | None, device: torch.device, environment: Mapping[str, str]) -> str:
    """`asked`, else what Accelerate was told (its `no` leaves the choice here), else the fastest that is accurate.

    fp16 on a GPU; bf16 on a CPU that multiplies it faster than fp32; else fp32.
    """
    accelerate = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    choice = asked or (accelerate if accelerate != "no" else None)
    if choice is None:
        return "fp16" if device.type == "cuda" else "bf16" if _bf16_is_faster() else "fp32"
    if choice not in PRECISIONS:
        raise UserError(f"There is no precision {choice!r}.", fix=f"Choose from {', '.join(PRECISIONS)}.")
    return choice


def fix_numerics(device: torch.device) -> None:
    """Settings under which the same batch gives the same bits in every process of this kind of machine.

    One intra-op thread: in bf16 on a CPU, 79 % of ViT-B/32's embedding entries moved when threads went from 1 to 2.
    Batches run in parallel instead. No TF32, no sums in 16 bits, no kernel whose sums change their order, and no choice
    of kernels by timing, which two processes may make differently.
    """
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device.type == "cuda":
        torch.cuda.set_device(device)  # no context, and no memory, on another process's GPU


def describe_numerics(device: torch.device) -> str:
    """Everything of the machine and the libraries that may change a bit; embeddings of different ones never mix."""
    if device.type == "cuda":
        hardware = f"cuda {torch.version.cuda} cudnn {torch.backends.cudnn.version()} "
        hardware += torch.cuda.get_device_name(device)
    else:
        features = [name for name, has in (("bf16", _avx512_bf16()), ("amx", _amx())) if has]
        hardware = " ".join(["cpu", torch.backends.cpu.get_cpu_capability(), *features, _cpu_model()])
    libraries = f"torch {torch.__version__.split('+')[0]}, open_clip {version('open_clip_torch')}"
    # Libraries choose other kernels when these are set.
    names = r"ONEDNN_|DNNL_|MKL_CBWR|MKL_ENABLE|NVIDIA_TF32|CUDNN_|CUBLAS|TORCH_CUDNN|TORCH_BLAS|TORCH_ALLOW_TF32"
    switches = sorted(f"{k}={v}" for k, v in os.environ.items() if re.match(names, k))
    return ", ".join([f"numerics {NUMERICS_VERSION}", libraries, hardware, *switches])


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
