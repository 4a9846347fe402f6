"""How a program ends that somebody stops: soon, whatever it is doing, with the code 128 + the signal's number."""

from __future__ import annotations

import os
import select
import signal
import threading
from types import FrameType

from fastclip.errors import GO_ON
from fastclip.machine import SIGNALS

GRACE_S = 8.0
"""Seconds between a signal and the end of the process, whatever it still does. Slurm and Kubernetes give 30."""

_stopping = False


def stopped_by(number: int) -> str:
    """What a program says that a signal stops."""
    return f"Stopped by {signal.Signals(number).name}."


class Stopped(BaseException):
    """What SIGTERM, SIGINT and SIGHUP raise in the main thread. No `except Exception` takes it."""

    def __init__(self, number: int) -> None:
        super().__init__(stopped_by(number))
        self.exit_code = 128 + number


def stop_on_signals() -> None:
    """From now on a signal raises `Stopped`; `GRACE_S` later, or at a second signal, the process ends at once.

    A thread sees to the second part, told by the interpreter's wake-up pipe: Python's own handlers wait until the
    main thread is back from whatever C code it is in.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _raise_stopped)
    threading.Thread(target=_end_in_time, args=(told,), name="grace", daemon=True).start()


def ignore_signals() -> None:
    """From now on no signal changes how the program ends: it is about to, with a code that is decided."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    global _stopping
    if _stopping:  # once is enough: a second one would hit whoever cleans up
        return
    _stopping = True
    while frame:
        if "importlib" in frame.f_code.co_filename:
            # torch's C++ calls Python while it is imported, and aborts when that raises. Nothing is lost by leaving.
            if os.environ.get("RANK", "0") == "0":
                os.write(2, f"Error: {stopped_by(number)}\nFix:   {GO_ON}\n".encode())
            os._exit(128 + number)
        frame = frame.f_back
    raise Stopped(number)


def _end_in_time(told: int) -> None:
    number = os.read(told, 1)[0]
    select.select([told], [], [], GRACE_S)
    if os.isatty(2):
        os.write(2, b"\x1b[?25h")  # a progress bar hides the cursor
    os._exit(128 + number)
