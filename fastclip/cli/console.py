"""The two consoles: results go to one, progress and messages to the other."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

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
