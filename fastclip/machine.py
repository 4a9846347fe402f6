"""The cores and the memory that this process may use, and its end when its parent is gone."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals by which a person or a scheduler stops a program."""


def cache_folder() -> Path:
    """The folder of what fastclip keeps for all runs of a user: cached shards, measurements, compiled towers."""
    return Path("~/.cache/fastclip").expanduser()


def is_writable(folder: Path) -> bool:
    """Whether this process may make files in a folder, or make the folder."""
    for each in (folder, *folder.absolute().parents):
        try:
            is_folder = stat.S_ISDIR(each.stat().st_mode)
        except FileNotFoundError:
            continue
        except OSError:  # a home of somebody else's may not even be looked into
            return False
        return is_folder and os.access(each, os.W_OK)
    return False


def available_cores() -> int:
    """CPU cores that this process may use. In a container or under Slurm the machine may have more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Available bytes of memory: of the machine, or of this container if that is less."""
    meminfo = _numbers(Path("/proc/meminfo"))
    free = [meminfo["MemAvailable"] * 1024] if "MemAvailable" in meminfo else []
    for limit, used, facts, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # no container, or "max"
            here = Path("/sys/fs/cgroup")
            most, taken = int((here / limit).read_text()), int((here / used).read_text())
            free.append(most - taken + _numbers(here / facts).get(cache, 0))
    return max(0, min(free)) if free else 8 << 30


def used_memory() -> int:
    """Bytes of memory that this process has in use; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def keep_freed_memory() -> None:
    """Make malloc keep freed memory for the next batch, in one heap for all threads. Call it before any thread starts.

    Otherwise glibc returns every large block to the kernel, which clears it page by page when it is asked for again: a
    tenth of RN50's time, 4 % of ViT-B/32's (Xeon, two threads). Without glibc nothing happens.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Return to the kernel the memory that malloc keeps and nothing uses."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


# Constants of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def _numbers(path: Path) -> dict[str, int]:
    """The first number of each line, by the line's first word."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def started(process: int) -> str | None:
    """When a process of this machine started, in clock ticks since boot; None if it is dead, or there is no /proc."""
    with suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return fields[19] if fields[0] not in "ZX" else None  # a zombie has ended too
    return None


def this_machine() -> str:
    """A name for the processes that can see each other: those of one boot and one container."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return _short_digest((boot + str(Path("/proc/self/ns/pid").readlink())).encode())
    return _short_digest(os.urandom(16))  # no /proc: everybody is elsewhere


def _short_digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def end_with_parent() -> None:
    """Watch the parent from a thread. Once it is gone, stop this process as SIGTERM does."""
    parent = os.getppid()
    if parent == 1 and not _starts_processes(parent):
        os._exit(128 + signal.SIGTERM)  # the parent was gone before this line

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _starts_processes(process: int) -> bool:
    """Whether a process is a launcher. In a container a launcher may be process 1."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return True  # it cannot be known
    return any(word in command for word in (b"accelerate", b"torchrun", b"torch.distributed", b"fastclip"))
