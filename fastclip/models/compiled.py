"""Towers through torch's compiler: for one shape of batch, without any choice by timing, kept on disk."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastclip.errors import UserError
from fastclip.files import digest
from fastclip.models.numerics import describe_numerics, is_out_of_memory

COMPILE = ("auto", "on", "off")
"""What may be asked for. `auto` is `off`: on a CPU compiling takes 12 to 40 seconds a backbone and saves a twentieth of
the time of some towers, of others none (`benchmarks/log.md`); on a GPU nobody has measured yet. The choice moves bits,
so it must not depend on how much is left or on what one of several machines measured: `fastclip eval --dry-run` says
from how many images on it pays here, once `fastclip bench` has measured both, and the user decides.
"""


_CACHE_DIR = "TORCHINDUCTOR_CACHE_DIR"


def find_compiler(device: torch.device) -> str:
    """What turns a tower into kernels on `device`, and what it was told: another one may move bits."""
    told = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("TORCHINDUCTOR_") and k != _CACHE_DIR]
    if device.type == "cuda":
        return " ".join([f"triton {version('triton')}", *told])
    command = os.environ.get("CXX", "g++")
    try:
        shown = subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        shown = ""
    return " ".join([(shown.splitlines() or [command])[0], *told])


def compile_visual(visual: nn.Module, name: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """`visual`, which is on `device`, compiled at its first call. Raises `UserError` where it cannot be built.

    What is built stays in ~/.cache/fastclip/compiled, for later runs and other processes on the same kind of machine:
    it is made for this processor, and torch would take it for any. TORCHINDUCTOR_CACHE_DIR overrules that.
    """
    kind = digest(f"{describe_numerics(device)}, {find_compiler(device)}".encode())[:16]
    os.environ.setdefault(_CACHE_DIR, str(Path("~/.cache/fastclip/compiled").expanduser() / kind))
    from torch._dynamo import config as dynamo_config
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._inductor import config
    from torch._inductor.exc import InductorError

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that a CPU is no GPU
    config.deterministic = True  # what is chosen by timing may be chosen otherwise in another process
    config.compile_threads = 1  # no pool of processes that outlives this one
    dynamo_config.recompile_limit = 64  # for all towers of a class together; past it they would quietly not be compiled
    compiled: Any = torch.compile(visual, dynamic=False, fullgraph=True)

    def call(pixels: Tensor) -> Tensor:
        try:
            result: Tensor = compiled(pixels)
        except (FailOnRecompileLimitHit, TorchDynamoException, InductorError) as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{name} cannot be compiled here: {reason}", fix="--compile off") from error
        return result

    return call
