"""Towers through torch's compiler: for one shape of batch, without any choice by timing, kept on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastclip.errors import UserError
from fastclip.models.numerics import is_out_of_memory

COMPILE = ("auto", "on", "off")
"""What may be asked for. `auto` is `off`: on a CPU compiling takes 12 to 40 seconds a backbone and saves a twentieth of
the time of some towers, of others none (`benchmarks/log.md`); on a GPU nobody has measured yet. The choice moves bits,
so it must not depend on how much is left or on what one of several machines measured: `fastclip eval --dry-run` says
from how many images on it pays here, once `fastclip bench` has measured both, and the user decides.
"""


def compile_visual(visual: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
    """`visual` compiled at its first call. What is built stays in ~/.cache/fastclip/compiled, for later runs and other
    processes, or in TORCHINDUCTOR_CACHE_DIR. Raises `UserError` where it cannot be built.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path("~/.cache/fastclip/compiled").expanduser()))
    import torch
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor import config
    from torch._inductor.exc import InductorError

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that a CPU is no GPU
    config.deterministic = True  # what is chosen by timing may be chosen otherwise in another process
    config.compile_threads = 1  # no pool of processes that outlives this one
    compiled: Any = torch.compile(visual, dynamic=False)

    def call(pixels: Tensor) -> Tensor:
        try:
            result: Tensor = compiled(pixels)
        except (TorchDynamoException, InductorError) as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{name} cannot be compiled here: {reason}", fix="--compile off") from error
        return result

    return call
