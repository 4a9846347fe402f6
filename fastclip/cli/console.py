"""The two consoles: results go to one, progress and messages to the other."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def out() -> Console:
    """The console for results, on standard output. A reader that has had enough (`| head`) ends no command."""
    from rich.console import Console

    class _Output(Console):
        def on_broken_pipe(self) -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return _Output(highlight=False, markup=False, emoji=False)


def err() -> Console:
    """The console for progress and messages, on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)
