"""The part of a process that belongs to its launcher, `accelerate launch` or `torchrun`.

When one process fails, the launcher ends and restarts all of them. That helps if a process was killed. It does not if
a process ended with an exit code of fastclip's own: each restart, and each neighbour, would find the same mistake. So
the first process on a machine that ends this way prints the error and leaves its code in a file, the verdict. Processes
that are restarted find the verdict and end with its code at once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fastclip.machine import end_with_parent, started


def join_launcher(environment: Mapping[str, str] = os.environ) -> int | None:
    """The exit code with which this process must end at once, or None if there is work to do. Call it first."""
    if "ACCELERATE_DYNAMO_BACKEND" in environment or "TORCHELASTIC_RUN_ID" in environment:
        end_with_parent()
    if environment.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        if "TORCHELASTIC_RUN_ID" in environment:
            _remove_old_verdicts()
        return None
    return _verdict()


def leave_verdict(code: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Note that this process ends with `code` for a reason of its own. Returns whether it must print that reason.

    Of the processes of one launcher the first one prints. A process without a launcher always prints.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return True
    try:
        with tempfile.NamedTemporaryFile("w", prefix="fastclip-") as whole:
            whole.write(str(code))
            whole.flush()
            os.link(whole.name, _verdict_path())
    except FileExistsError:
        return _verdict() is None
    except OSError:
        return environment.get("RANK", "0") == "0"
    return True


def end_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Remove the verdict if nobody will ask for it: the launcher restarts nothing, and all its processes have ended.

    Call it last. Each process that ends adds its id to the verdict.
    """
    attempt, last = (environment.get(f"TORCHELASTIC_{each}", "") for each in ("RESTART_COUNT", "MAX_RESTARTS"))
    if "TORCHELASTIC_RUN_ID" not in environment or not attempt or attempt != last:
        return
    if not Path(f"/proc/{os.getppid()}/task").is_dir():
        return  # it cannot be known who is left
    path = _verdict_path()
    with suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        os.write(handle, f" {os.getpid()}".encode())
        os.close(handle)
        if not _children(os.getppid()) - set(path.read_text().split()[1:]):
            path.unlink()


def _children(process: int) -> set[str]:
    """The ids of the living processes that a process has started."""
    found = (path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/children"))
    return {child for children in found for child in children if started(int(child))}


def _remove_old_verdicts() -> None:
    """Remove verdicts whose launcher is dead: its processes were killed."""
    for path in Path(tempfile.gettempdir()).glob("fastclip-*-*.verdict"):
        _, process, start = path.stem.split("-", 2)
        with suppress(OSError):
            if process.isdecimal() and start.isdecimal() and started(int(process)) != start and _is_own(path):
                path.unlink()


def _is_own(path: Path) -> bool:
    return path.lstat().st_uid == os.getuid()


def speaks_when_stopped(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process prints that it was stopped.

    It does not if another process has left a verdict: then the launcher stops it because of that.
    """
    return environment.get("RANK", "0") == "0" and not ("TORCHELASTIC_RUN_ID" in environment and _verdict() is not None)


def _verdict() -> int | None:
    """The exit code that a process of this launcher left, or None. A file of another user is not believed."""
    path = _verdict_path()
    with suppress(OSError, ValueError, IndexError):
        if _is_own(path):
            return int(path.read_text().split()[0])
    return None


def _verdict_path() -> Path:
    """The verdict's file. Its name holds the launcher's process id and start time, so no other launcher has it."""
    launcher = os.getppid()
    return Path(tempfile.gettempdir()) / f"fastclip-{launcher}-{started(launcher)}.verdict"
