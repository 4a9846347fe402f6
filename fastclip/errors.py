"""What can go wrong, as types, and the exit code that each one ends the program with.

0 complete · 2 usage · 3 complete, but unreadable images exceed the budget · 4 incomplete, the same command goes on ·
5 integrity or nondeterminism · 128+n signal n.
"""

from __future__ import annotations

from collections.abc import Callable

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
        """Errors cross the border between processes."""
        return _rebuild, (type(self), str(self), self.fix)


def _rebuild(kind: type[FastclipError], message: str, fix: str) -> FastclipError:
    return kind(message, fix=fix)


class UserError(FastclipError):
    """The input, an option or the environment is not what fastclip needs."""


class IncompleteError(FastclipError):
    """Work is left that another run of the same command would do: a full disk, a lost process."""

    exit_code = EXIT_INCOMPLETE


class IntegrityError(FastclipError):
    """Bytes differ from what their manifest, their key or a published digest says."""

    exit_code = EXIT_INTEGRITY


def printable(text: str) -> str:
    """`text` on one line and without control characters: names of files may hold escape sequences."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
