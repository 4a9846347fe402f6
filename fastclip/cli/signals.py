"""A stop signal ends the program soon, whatever it is doing, with the exit code 128 + the signal's number."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from fastclip.cli.launcher import end_launch, speaks_when_stopped
from fastclip.errors import GO_ON
from fastclip.machine import SIGNALS
from fastclip.temporary import remove_temporary_folders

GRACE_S = 8.0
"""Seconds from a signal to the end of the process, whatever it is doing then. Slurm and Kubernetes give it 30."""

_stopping = 0
"""The signal that stops the program; 0 as long as none came."""

_asked: list[int] = []
"""The signals that arrived while they were deferred."""

_deferred_s: float | None = None
"""Seconds that a deferred signal leaves; None where signals are not deferred."""


def stopped_by(number: int) -> str:
    """The sentence that says which signal stopped the program."""
    return f"Stopped by {signal.Signals(number).name}."


class Stopped(BaseException):
    """SIGTERM, SIGINT or SIGHUP arrived. Raised in the main thread; no `except Exception` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(stopped_by(number))
        self.exit_code = 128 + number


def stop_on_signals() -> None:
    """From now on a signal raises `Stopped`. `GRACE_S` later, or at a second signal, the process ends at once.

    A thread ends it. The interpreter tells that thread of signals through its wake-up pipe; a handler in Python would
    have to wait until the main thread returns from C code.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(told,), name="grace", daemon=True).start()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _raise_stopped)
    if sys.unraisablehook is sys.__unraisablehook__:  # not that of a test
        sys.unraisablehook = threading.excepthook = _drop


def stop_asked() -> Stopped | None:
    """The stop that a signal asked for, whatever else went wrong because of it."""
    number = _stopping or next(iter(_asked), 0)
    return Stopped(number) if number else None


@contextmanager
def deferred_signals(grace_s: float) -> Iterator[Callable[[], bool]]:
    """In the block a signal raises nothing: the function that this yields says whether one came.

    The block has `grace_s` from then on to finish what must not be lost. At its end `Stopped` is raised.
    """
    global _deferred_s
    _deferred_s = grace_s
    try:
        yield lambda: bool(_asked)
    finally:
        _deferred_s = None
    if _asked:
        raise Stopped(_asked[0])


def ignore_signals() -> None:
    """From now on signals do nothing. The program is about to end, and its exit code is decided."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    global _stopping
    if _deferred_s is not None and not _asked:
        _asked.append(number)
        return
    if _stopping:  # a second exception would interrupt the cleaning up after the first
        return
    _stopping = number
    while frame:
        if "importlib" in frame.f_code.co_filename:
            # While torch is imported its C++ code calls Python, and aborts if that raises. Leaving here loses nothing.
            _end_now(number)
        frame = frame.f_back
    raise Stopped(number)


def _drop(lost: Any) -> None:
    """Print no traceback of an error that nothing can catch. A signal that came where it is lost ends the program."""
    if isinstance(lost.exc_value, Stopped):
        _end_now(lost.exc_value.exit_code - 128)
    if "FASTCLIP_TRACEBACK" in os.environ:
        import traceback

        traceback.print_exception(lost.exc_type, lost.exc_value, lost.exc_traceback)


def _end_now(number: int) -> NoReturn:
    if speaks_when_stopped():
        _tell(f"Error: {stopped_by(number)}\nFix:   {GO_ON}\n")
    _exit(number)


def _end_in_time(told: int) -> None:
    first = os.read(told, 1)
    if not first:  # the other end was closed: the process lives on without us
        os.close(told)
        return
    number = first[0]
    deadline = time.monotonic() + (_deferred_s or GRACE_S)
    # Ctrl-C reaches a launcher and its processes; the launcher then stops them once more, which is no second wish.
    impatient = _deferred_s is None or "TORCHELASTIC_RUN_ID" not in os.environ
    while (left := deadline - time.monotonic()) > 0:
        if select.select([told], [], [], left)[0] and os.read(told, 1) and impatient:
            break
    if os.isatty(2):
        _tell("\x1b[?25h")  # show the cursor, which a progress bar hides
    _exit(number)


def _exit(number: int) -> NoReturn:
    remove_temporary_folders()
    end_launch()
    os._exit(128 + number)


def _tell(text: str) -> None:
    with suppress(OSError):  # nobody reads it any more
        os.write(2, text.encode())
