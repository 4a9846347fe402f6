"""Towers built by torch's compiler: for one shape of batch, without any choice by timing, kept on disk."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastclip.errors import UserError
from fastclip.files import digest
from fastclip.machine import cache_folder
from fastclip.models.numerics import describe_numerics, is_out_of_memory

_CACHE_DIR = "TORCHINDUCTOR_CACHE_DIR"

_HEADERS = {"_HEADER_DIR": "precompiled_headers", "_HEADER_LOCK_DIR": "precompiled_headers/locks"}
"""Folders of torch's compiler for headers, and where they lie below its folder."""

_BUILDING = threading.Lock()


def find_compiler(device: torch.device) -> str:
    """Name of the compiler for `device`, and torch's switches for it: another one may move bits."""
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

    torch's settings are changed for the time of a call only. They are a thread's own, so every call sets them: any call
    may be the one that compiles.
    """
    from torch._dynamo import config as dynamo_config
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._inductor import config
    from torch._inductor.exc import InductorError

    # A choice by timing may fall otherwise in another process. A pool of compiling processes would outlive this one.
    inductor: dict[str, Any] = {"deterministic": True, "compile_threads": 1}
    # For all towers of a class together: past this number torch refuses to compile another.
    dynamo: dict[str, Any] = {"recompile_limit": 64}
    folder = cache_folder() / "compiled" / _kind(device)
    compiled: Any = torch.compile(visual, dynamic=False, fullgraph=True)
    built: set[torch.Size] = set()

    def call(pixels: Tensor) -> Tensor:
        builds = nullcontext() if pixels.shape in built else _kept_in(folder)
        try:
            with builds, config.patch(inductor), dynamo_config.patch(dynamo):
                result: Tensor = compiled(pixels)
        except (FailOnRecompileLimitHit, TorchDynamoException, InductorError) as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{name} cannot be compiled here: {reason}", fix="--compile off") from error
        built.add(pixels.shape)
        return result

    return call


def _kind(device: torch.device) -> str:
    """Names machines and compilers that build the same. torch itself would take what is built for one for any."""
    return digest(f"{describe_numerics(device)}, {find_compiler(device)}".encode())[:16]


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """torch's compiler keeps what it builds in `folder`, for other processes; TORCHINDUCTOR_CACHE_DIR overrules that.

    One thread at a time: environment and loggers are there once.
    """
    from torch._inductor import codecache
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    logger = logging.getLogger("torch.utils.cpp_extension")
    with _BUILDING:
        before, level = os.environ.get(_CACHE_DIR), logger.level
        # torch sets the variable to its own default when it is imported, the command line to a folder above this one.
        unset = before in (None, default_cache_dir(), str(folder.parent))
        os.environ[_CACHE_DIR] = str(folder) if unset else str(before)
        # Compiled headers go into the system's temporary folder, whatever the variable says.
        headers = {name: getattr(codecache, name) for name in _HEADERS if hasattr(codecache, name)}
        for name in headers:
            setattr(codecache, name, str(Path(os.environ[_CACHE_DIR], _HEADERS[name])))
        logger.setLevel(logging.ERROR)  # it warns that a CPU is no GPU
        try:
            yield
        finally:
            for name, place in headers.items():
                setattr(codecache, name, place)
            logger.setLevel(level)
            del os.environ[_CACHE_DIR]
            if before is not None:
                os.environ[_CACHE_DIR] = before
