"""Checks of what the machine gives this process: cores, memory, open files, temporary folders, the locale."""

from __future__ import annotations

import codecs
import locale
import os
import resource
import tempfile
from contextlib import suppress
from pathlib import Path

from fastclip.doctor.finding import Asked, Finding, ok, warn
from fastclip.errors import in_bytes
from fastclip.machine import available_cores, available_memory

GROUPS = Path("/sys/fs/cgroup")
LEAST_MEMORY = 4 << 30
LEAST_SHARED = 1 << 28
LEAST_ROOM = 1 << 30
LEAST_FILES = 1024


def cores(asked: Asked) -> list[Finding]:
    """The cores that this process may use, and the share of them that its container gives it time on."""
    allowed, here = available_cores(), os.cpu_count() or 1
    quota = core_quota(GROUPS)
    line = f"{allowed} of {here} cores"
    if quota is not None and quota < allowed - 0.5:
        least = max(1, int(quota))
        return [warn("cores", f"{line}, but the container gives time for {quota:.1f}.", f"--workers {least}")]
    return [ok("cores", f"{line}.")]


def core_quota(groups: Path) -> float | None:
    """The cores' worth of time that the container of this process gets; None without a limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        most, period = (groups / "cpu.max").read_text().split()
        return None if most == "max" else int(most) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        most, period = ((groups / "cpu" / f"cpu.cfs_{each}_us").read_text() for each in ("quota", "period"))
        return int(most) / int(period) if int(most) > 0 else None
    return None


def memory(asked: Asked) -> list[Finding]:
    """The memory that is available, and shared memory."""
    free = available_memory()
    line = f"{in_bytes(free)} are available."
    if free < LEAST_MEMORY:
        found = [warn("memory", line, "Close other programs, or use a smaller --batch-size and --workers 1.")]
    else:
        found = [ok("memory", line)]
    with suppress(OSError):
        shared = os.statvfs("/dev/shm")
        size = shared.f_frsize * shared.f_blocks
        if size < LEAST_SHARED:
            what = f"/dev/shm has {in_bytes(size)}; processes that share tensors need more."
            found.append(warn("/dev/shm", what, "Start the container with --shm-size 8g."))
    return found


def files(asked: Asked) -> list[Finding]:
    """How many files a process may have open."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most != resource.RLIM_INFINITY and most < LEAST_FILES:
        return [warn("open files", f"A process may have {most:,} open; many shards need more.", "ulimit -n 4096")]
    count = "any number" if most == resource.RLIM_INFINITY else f"{most:,}"
    return [ok("open files", f"A process may have {count} open.")]


def temporary(asked: Asked) -> list[Finding]:
    """The folder of temporary files: whether it takes them, and its room."""
    folder = Path(tempfile.gettempdir())
    with tempfile.TemporaryFile(prefix="fastclip-doctor-") as file:
        file.write(b"x")
        file.flush()
    room = os.statvfs(folder)
    free = room.f_frsize * room.f_bavail
    if free < LEAST_ROOM:
        return [warn("temporary", f"{folder} has {in_bytes(free)} free.", "Free space there, or export TMPDIR=DIR.")]
    return [ok("temporary", f"{folder} takes files, {in_bytes(free)} are free.")]


def letters(asked: Asked) -> list[Finding]:
    """The encoding of the locale. Names of files are read as UTF-8 whatever it is."""
    with suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "")
    name = locale.nl_langinfo(locale.CODESET)
    if codecs.lookup(name).name == "utf-8":
        return [ok("locale", "UTF-8.")]
    what = f"Its encoding is {name}. Names are read as UTF-8 all the same; what is printed may look odd."
    return [warn("locale", what, "export LANG=C.UTF-8")]
