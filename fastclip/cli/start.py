"""The first lines of the program: from here on a stop signal, or a library that cannot be loaded, has an end in words.

Nothing else is imported yet, so that this holds from the first hundredth of a second.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import NoReturn

_GO_ON = "Run the same command again; it goes on where it was."


def start() -> NoReturn:
    """Run the program."""
    if "_FASTCLIP_COMPLETE" in os.environ:
        _complete()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _end)
    try:
        from fastclip.cli.main import run
    except Exception as error:
        if "FASTCLIP_TRACEBACK" in os.environ:
            raise
        words = " ".join(str(error).split()) or type(error).__name__
        _tell(
            f"Error: The program could not be loaded: {ascii(words)[1:-1]}.\n"
            "Fix:   Free memory or raise its limit (ulimit -v); if that is no reason, install fastclip anew.\n"
        )
        os._exit(2 if isinstance(error, ModuleNotFoundError) else 4)
    run()


def _complete() -> NoReturn:
    """Answer a shell that asks how its line may go on; where that fails, with nothing."""
    with suppress(Exception):
        from fastclip.cli.completing import answer

        os.write(1, answer().encode("utf-8", "surrogateescape"))
    os._exit(0)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End at once: nothing has been begun. A launcher stops its processes for a reason that is told elsewhere."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        _tell(f"Error: Stopped by {signal.Signals(number).name}.\nFix:   {_GO_ON}\n")
    else:
        with suppress(Exception):  # it may be loaded by half
            from fastclip.cli.launcher import end_launch

            end_launch()
    os._exit(128 + number)


def _tell(text: str) -> None:
    with suppress(OSError):  # nobody reads it
        os.write(2, text.encode())
