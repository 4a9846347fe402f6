"""What this machine has, as far as this process may use it."""

from __future__ import annotations

import os


def available_cores() -> int:
    """CPU cores that this process may use: fewer than the machine has, in a container or under Slurm."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
