"""The border between fastclip and a process that is not its own: nothing of the process is changed for good."""

from __future__ import annotations

import os
import random
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from fastclip.errors import FastclipError, printable

Names: TypeAlias = "str | Path | Iterable[str | Path]"
"""One name, or several."""

_ONE_AT_A_TIME = threading.RLock()
"""Two calls that change and restore the same settings of a process would restore each other's."""

OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "FASTCLIP_PROCESSES")


@contextmanager
def border() -> Iterator[None]:
    """Calls of several threads one after the other, warnings of libraries ignored, and errors that say their cure."""
    with _ONE_AT_A_TIME, _without_warnings():
        _load_rich()
        try:
            yield
        except FastclipError as error:
            cure = f"\nFix:   {printable(error.fix)}"
            if not str(error).endswith(cure):
                error.args = (printable(str(error)) + cure,)
            raise


def _load_rich() -> None:
    """Load the library that draws tables. Its import draws a random number, which the user's own seed would miss."""
    if "rich.style" not in sys.modules:
        state = random.getstate()
        try:
            import rich.style  # noqa: F401
        finally:
            random.setstate(state)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """In the block, libraries do not warn of odd EXIF, nor that a notebook lacks widgets.

    Filters that other modules add meanwhile stay, so `catch_warnings` would not do.
    """
    before, ours = list(warnings.filters), []
    try:
        for message, module in (("", "PIL"), ("IProgress not found", "")):
            warnings.filterwarnings("ignore", message, module=module)
            ours.append(warnings.filters[0])
        yield
    finally:
        for each in ours:
            if each not in before:
                with suppress(ValueError):
                    warnings.filters.remove(each)  # type: ignore[attr-defined]


def alone(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process that does all of the work, whatever launcher started it. It keeps its own GPU."""
    return {name: value for name, value in environment.items() if name not in OF_LAUNCHERS}


def names_of(given: Names) -> tuple[str, ...]:
    """One name or several as a tuple of texts."""
    return (str(given),) if isinstance(given, str | Path) else tuple(map(str, given))
