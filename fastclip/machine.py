"""What this machine has, as far as this process may use it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def available_cores() -> int:
    """CPU cores that this process may use: fewer than the machine has, in a container or under Slurm."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that programs may still take without pushing others out: of the machine, or of this container if less."""
    meminfo = _numbers(Path("/proc/meminfo"))
    free = [meminfo["MemAvailable"] * 1024] if "MemAvailable" in meminfo else []
    for limit, used, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # no container, or "max"
            here = Path("/sys/fs/cgroup")
            most, taken = int((here / limit).read_text()), int((here / used).read_text())
            free.append(most - taken + _numbers(here / stat).get(cache, 0))
    return max(0, min(free)) if free else 8 << 30


def _numbers(path: Path) -> dict[str, int]:
    """The first number of each line by the line's first word."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}
