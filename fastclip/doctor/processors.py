"""Checks of what computes: torch, the processor, the driver and the GPUs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fastclip.doctor.finding import Asked, Finding, fail, ok, warn
from fastclip.doctor.program import loaded_otherwise

DRIVER_CURE = "Install NVIDIA's driver again and restart; in a container, start it with --gpus all."
BUSY_CURE = "End the programs that nvidia-smi lists, or choose another GPU: CUDA_VISIBLE_DEVICES."
_QUERY = "name,driver_version,memory.total,memory.used"


def processor(asked: Asked) -> list[Finding]:
    """torch as it is loaded, the instructions of the processor and the precision that fastclip takes for them."""
    import torch

    from fastclip.models.numerics import describe_machine, find_precision, find_switches

    cpu = torch.device("cpu")
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    found = [loaded_otherwise("torch", torch) or ok("torch", f"torch {torch.__version__}, {build}.")]
    what = f"{describe_machine(cpu).removeprefix('cpu ')}: fastclip computes in {find_precision(None, cpu)}."
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        found.append(warn("processor", what, "Use a machine with AVX2: this one computes several times slower."))
    else:
        found.append(ok("processor", what))
    if switches := [each.partition("=")[0] for each in find_switches()]:
        names = ", ".join(switches)
        what = f"Variables that make libraries choose other kernels, so embeddings get a recipe of their own: {names}."
        found.append(warn("kernels", what, f"unset {' '.join(switches)}"))
    return found


def driver(asked: Asked) -> list[Finding]:
    """The driver of NVIDIA's GPUs, asked by its own program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [_driver_without_program()]
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    outcome = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if outcome.returncode:
        said = " ".join((outcome.stdout or outcome.stderr).split())
        return [fail("driver", f"nvidia-smi ends with code {outcome.returncode}: {said}", DRIVER_CURE)]
    return [_gpu_by_driver(line) for line in outcome.stdout.splitlines() if line.strip()] or [
        fail("driver", "nvidia-smi finds no GPU.", DRIVER_CURE)
    ]


def _driver_without_program() -> Finding:
    if has_gpu():
        return ok("driver", "A GPU of NVIDIA is here; nvidia-smi is not, so its driver was not asked.")
    for path in Path("/sys/bus/pci/devices").glob("*/vendor"):
        with suppress(OSError):
            if path.read_text().strip() == "0x10de" and (path.parent / "class").read_text().startswith("0x03"):
                return warn("driver", "A GPU of NVIDIA is in the machine, but no driver.", DRIVER_CURE)
    return ok("driver", "No GPU of NVIDIA is here; fastclip computes on the CPU.")


def _gpu_by_driver(line: str) -> Finding:
    name, version, total, used = [*(word.strip() for word in line.split(",")), "", "", ""][:4]
    text = f"{name}, driver {version}, {used} of {total} MiB in use."
    if total.isdecimal() and used.isdecimal() and int(used) > int(total) / 2:
        return warn("driver", text, BUSY_CURE)
    return ok("driver", text)


def has_gpu() -> bool:
    """Whether the system shows a GPU of NVIDIA to this process."""
    names = ("nvidia[0-9]*", "dxg", "nvhost-gpu", "nvgpu")  # of drivers; of WSL; of Jetson
    return any(path for name in names for path in Path("/dev").glob(name))


def gpu(asked: Asked) -> list[Finding]:
    """The GPUs as torch sees them: each multiplies two matrices. Without one, torch is not loaded for it."""
    if not has_gpu():
        return []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
            return [warn("GPU", "CUDA_VISIBLE_DEVICES hides it from torch.", "unset CUDA_VISIBLE_DEVICES")]
        if torch.version.cuda is None:
            return [warn("GPU", "torch is built without CUDA and computes on the CPU.", "Install torch's CUDA build.")]
        words = " ".join(str(each.message) for each in said) or "it gives no reason"
        return [fail("GPU", f"torch sees none although one is here: {words}", DRIVER_CURE)]
    return [_gpu(number) for number in range(torch.cuda.device_count())]


def _gpu(number: int) -> Finding:
    import torch

    major, minor = torch.cuda.get_device_capability(number)
    name, built = torch.cuda.get_device_name(number), torch.cuda.get_arch_list()
    called = f"GPU {number}"
    if not runs_on((major, minor), built):
        what = f"{name} is sm_{major}{minor}; this torch is built for {', '.join(built)}."
        return fail(called, what, "Install a torch that is built for it, or --device cpu.")
    ones = torch.ones(64, 64, device=f"cuda:{number}", dtype=torch.float16)
    if (ones @ ones).sum().item() != 64**3:
        return fail(called, f"{name} multiplies wrongly.", "Look at dmesg for Xid errors; do not use this GPU.")
    free, total = torch.cuda.mem_get_info(number)
    text = f"{name}, sm_{major}{minor}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, fp16."
    if free < total / 2:
        return warn(called, text, BUSY_CURE)
    return ok(called, text)


def runs_on(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Whether code that is built for these architectures runs on a GPU of a capability.

    Binaries (sm_90) run on the same major number from their minor one on, PTX (compute_90) on all later GPUs. Those
    with a letter (sm_90a) run on their own only.
    """
    for name in built:
        if match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name):
            own = int(match[2]), int(match[3])
            later = own[0] == capability[0] and own <= capability if match[1] == "sm" else own <= capability
            if own == capability or (later and not match[4]):
                return True
    return False
