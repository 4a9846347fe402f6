"""What a process that `accelerate launch` or `torchrun` started does for its launcher's sake.

The launcher ends and restarts all of its processes when one fails. That serves a process that was killed. One that
ended with a code of fastclip's own would only say the same again, and so would its neighbours: the first one on a
machine leaves its code as a verdict and speaks for all, and whatever is restarted ends with that code at once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fastclip.machine import end_with_parent, started


def join_launcher(environment: Mapping[str, str] = os.environ) -> int | None:
    """To be called first. The exit code that this process must end with at once; None if there is work to do."""
    if "ACCELERATE_DYNAMO_BACKEND" in environment or "TORCHELASTIC_RUN_ID" in environment:
        end_with_parent()
    if environment.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    return _verdict()


def leave_verdict(code: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Say that this process ends with `code` for a reason of its own. Whether it is the first, and so speaks for all.

    A process that no launcher started always speaks.
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


def speaks_when_stopped(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process says that it was stopped: not if the launcher stops it because of another one's verdict."""
    return environment.get("RANK", "0") == "0" and not ("TORCHELASTIC_RUN_ID" in environment and _verdict() is not None)


def _verdict() -> int | None:
    """The code that a process of this launcher ended with; nobody else's file is believed."""
    path = _verdict_path()
    with suppress(OSError, ValueError):
        if path.stat().st_uid == os.getuid():
            return int(path.read_text())
    return None


def _verdict_path() -> Path:
    """A name that belongs to this launcher: its process id, and when it started."""
    launcher = os.getppid()
    return Path(tempfile.gettempdir()) / f"fastclip-{launcher}-{started(launcher)}.verdict"
