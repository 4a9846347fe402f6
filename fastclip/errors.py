"""Errors as types, and the exit code with which each one ends the program.

0 complete · 2 usage · 3 unreadable images await a decision · 4 incomplete, the same command goes on · 5 integrity,
nondeterminism or a fault of fastclip · 128+n signal n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_USAGE = 2
EXIT_UNREADABLE = 3
EXIT_INCOMPLETE = 4
EXIT_INTEGRITY = 5

GO_ON = "Run the same command again; it goes on where it was."


class FastclipError(Exception):
    """An error that is shown as two lines, what happened and how to mend it, and never as a traceback."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message)
        self.fix = fix

    def __reduce__(self) -> tuple[Callable[..., FastclipError], tuple[type[FastclipError], str, str]]:
        """The error as it is sent to another process."""
        return _rebuild, (type(self), str(self), self.fix)


def _rebuild(kind: type[FastclipError], message: str, fix: str) -> FastclipError:
    return kind(message, fix=fix)


class UserError(FastclipError):
    """The input, an option or the environment is not what fastclip needs."""


class IncompleteError(FastclipError):
    """Work is left that another run of the same command would do: a full disk, a lost process."""

    exit_code = EXIT_INCOMPLETE


class IntegrityError(FastclipError):
    """Bytes differ from their digest in a manifest, in a name or in a published list."""

    exit_code = EXIT_INTEGRITY


class LostProcessError(IncompleteError):
    """Another process of the same training is gone. That is no reason of this one's own: a launcher restarts both."""


def in_bytes(count: int) -> str:
    """`1.2 GB`, `30.5 MB` or `8 kB`: no number of bytes that matters is shown as zero."""
    if count >= 1e9:
        return f"{count / 1e9:,.1f} GB"
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


def printable(text: str) -> str:
    """`text` on one line and without control characters: names of files may hold escape sequences."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


@contextmanager
def needs_torch() -> Iterator[None]:
    """Raise `UserError` where the block imports a library that computes and that is not installed."""
    try:
        yield
    except ImportError as error:
        if "failed to map segment" in str(error):
            raise  # memory is missing, not torch
        raise UserError(
            f"Embedding images and new prompts needs torch, which cannot be loaded here: {error}.",
            fix="Install it, or run this once on a machine that has it.",
        ) from error
