"""The two consoles, results on one, progress and messages on the other, and the streams below them."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from fastclip.cli.progress import silence
from fastclip.errors import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment
    from rich.text import Text


def out() -> Console:
    """The console for results, on standard output.

    Plain text is broken between words, never inside one, which may be a path. With `soft_wrap=True` it is not broken
    at all: for commands to be copied. Tables that are too wide are not cut.
    """

    class Output(_console()):  # type: ignore[misc]
        def print(self, *objects: Any, **options: Any) -> None:
            if len(objects) == 1 and isinstance(objects[0], str) and not options.get("soft_wrap"):
                objects, options["soft_wrap"] = (indented(objects[0], 0, self.width),), True
            super().print(*objects, **{"crop": False, **options})

    return Output(highlight=False, markup=False, emoji=False)


def err() -> Console:
    """The console for progress and messages, on standard error."""
    return _console()(stderr=True, highlight=False, markup=False, emoji=False)


@cache
def _console() -> type[Console]:
    """Rich's console, which prints no control character of a text. A library behind the door: it loads late."""
    from rich.console import Console
    from rich.segment import Segment

    class Escaping(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(escaped(text), **options)  # before columns are measured

        def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                # A control segment is Rich's own, such as one that hides the cursor.
                yield segment if segment.control else Segment(escaped(segment.text), segment.style)

    return Escaping


def escaped(text: str) -> str:
    """`text` without control characters other than the ends of its lines."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def say(text: str, *, error: bool = False) -> None:
    """Print a text as it is, but escaped. Loads nothing, unlike a console."""
    print(escaped(text), file=sys.stderr if error else sys.stdout)


def write_bytes(data: bytes) -> None:
    """Write bytes of a known format to standard output, whatever the encoding of the terminal."""
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:  # that of a notebook, or of a test
        sys.stdout.write(data.decode())


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
    Output that nobody reads any more (`| head`) is dropped, and so is all that a stream does not take. `lost_output`
    says whether that was asked for. A character that a stream cannot encode is written as its number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    if sys.stdout is sys.__stdout__:  # not those of a notebook, or of a test
        sys.stdout = _lasting(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lasting(sys.stderr, 2)


def lost_output() -> OSError | None:
    """The error for which output that somebody waits for could not be printed: of a full disk, for instance."""
    if raw := getattr(getattr(sys.stdout, "buffer", None), "raw", None):
        sys.stdout.flush()
    return raw.lost if isinstance(raw, _LastingFile) else None


def _lasting(stream: Any, number: int) -> io.TextIOWrapper:
    encoding = stream.encoding if stream is not None else "utf-8"  # None: it was closed
    raw = io.BufferedWriter(_LastingFile(number))
    return io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=True)


class _LastingFile(io.FileIO):
    """A file that drops what it cannot write, and notes why in `lost`, unless nobody reads it any more."""

    lost: OSError | None = None

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)
        self._is_terminal = self.isatty()

    def write(self, data: Any) -> int:
        silence.broken()
        size = memoryview(data).nbytes
        try:
            while (written := super().write(data)) is None:  # a pipe that does not block, and is full
                select.select([], [self], [])
        except OSError as error:
            gone = error.errno == errno.EPIPE or (error.errno == errno.EIO and self._is_terminal)
            self.lost = self.lost or (None if gone else error)
            return size
        return written
