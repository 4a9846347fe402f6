"""The two consoles, results on one, progress and messages on the other, and the streams below them."""

from __future__ import annotations

import io
import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from fastclip.cli.progress import silence

if TYPE_CHECKING:
    from rich.console import Console


def out() -> Console:
    """The console for results, on standard output.

    Plain text is broken between words, never inside one, which may be a path. With `soft_wrap=True` it is not broken
    at all: for commands to be copied. Tables that are too wide are not cut.
    """
    from rich.console import Console

    class Output(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            if len(objects) == 1 and isinstance(objects[0], str) and not options.get("soft_wrap"):
                objects, options["soft_wrap"] = (indented(objects[0], 0, self.width),), True
            super().print(*objects, **{"crop": False, **options})

    return Output(highlight=False, markup=False, emoji=False)


def err() -> Console:
    """The console for progress and messages, on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def indented(text: str, blanks: int, width: int) -> str:
    """`text` broken between words into lines of at most `width` columns, each after so many blanks."""
    margin = " " * blanks
    wrapper = textwrap.TextWrapper(
        width, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(wrapper.fill(line) for line in text.split("\n"))


def counted(number: int, noun: str) -> str:
    """The number with its noun: 1 file, 1,200 files."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def keep_streams() -> None:
    """From now on nothing that happens to a stream costs a result.

    A closed stream becomes the null device: the next file to be opened would take its number, and be written into.
    Output that nobody reads any more (`| head`) is dropped, and so is all that standard error does not take. A full
    disk below standard output stays an error. A character that a stream cannot encode is written as its number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    if sys.stdout is sys.__stdout__:  # not those of a notebook, or of a test
        sys.stdout = _lasting(sys.stdout, 1, BrokenPipeError)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lasting(sys.stderr, 2, OSError)


def _lasting(stream: Any, number: int, harmless: type[OSError]) -> io.TextIOWrapper:
    encoding = stream.encoding if stream is not None else "utf-8"  # None: it was closed
    raw = io.BufferedWriter(_LastingFile(number, harmless))
    return io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=True)


class _LastingFile(io.FileIO):
    """A file that drops what it cannot write, if that is `harmless`."""

    def __init__(self, number: int, harmless: type[OSError]) -> None:
        super().__init__(number, "wb", closefd=False)
        self._harmless = harmless

    def write(self, data: Any) -> int:
        silence.broken()
        try:
            return super().write(data)
        except self._harmless:
            return memoryview(data).nbytes
