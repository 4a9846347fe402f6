"""The environment of a process of the command line, completed where the system leaves something out."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from fastclip.machine import cache_folder, is_writable
from fastclip.temporary import make_temporary_folder


def complete_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what libraries ask for while they are imported."""
    # Scoring multiplies in a thread a core; BLAS threads of numpy's own would only wait for each other.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        Path.home()
    except RuntimeError:
        environment["HOME"] = "/"  # a user whom the system does not know, as in a container; Docker sets it so
    if "TORCHINDUCTOR_CACHE_DIR" not in environment:
        # torch makes the folder of its compiler when it is imported, even if nothing is compiled.
        folder = cache_folder() / "compiled"
        if not is_writable(folder):
            folder = make_temporary_folder("compiled")
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
