"""How an error ends the program: what happened, what can be done, and the exit code."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any

import typer

from fastclip.errors import EXIT_INCOMPLETE, EXIT_INTEGRITY, EXIT_USAGE, FastclipError

_TRACEBACK = "FASTCLIP_TRACEBACK=1 before the command shows where."

_NO_MEMORY = ("cannot allocate memory", "can't allocate memory", "not enough memory", "out of memory", "bad_alloc",
              "failed to map segment", "bad alloc", "malloc")  # fmt: skip
MOST_WORDS = 300
"""Letters of an error of a library: some are pages of advice."""

_NO_THREAD = ("can't start new thread", "resource temporarily unavailable", "pthread_create")
"""Words in the errors of Python and of libraries, in lower case, for memory and threads that the system refuses."""


@dataclass(frozen=True)
class Ending:
    """Two lines and an exit code."""

    message: str
    fix: str
    code: int


def ending(error: BaseException) -> Ending:
    """The end that an error means. One that nobody thought of is a fault of fastclip, and is called so."""
    if isinstance(error, FastclipError):
        return Ending(str(error), error.fix, error.exit_code)
    if hasattr(error, "format_message"):
        return _of_command_line(error)
    if isinstance(error, typer.Abort):  # Typer turns EOFError into it
        what = "A process or a file ended before it should."  # data that are cut off have an error of their own
        return Ending(what, "Run the same command again; if it ends likewise, check its input.", EXIT_INCOMPLETE)
    if short := _short_of(error):
        return Ending(
            f"The system gave no more {short}: {_words(error)}.",
            f"Free some or raise its limit, then run the same command again. {_TRACEBACK}",
            EXIT_INCOMPLETE,
        )
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, ModuleNotFoundError):
        return Ending(f"A library is missing: {_words(error)}.", "Install fastclip with its dependencies.", EXIT_USAGE)
    if isinstance(error, ImportError):
        return Ending(f"A library cannot be loaded: {_words(error)}.", f"Install it anew. {_TRACEBACK}", EXIT_USAGE)
    if isinstance(error, UnicodeEncodeError):
        return Ending(f"A text cannot be written here: {_words(error)}.", "export PYTHONUTF8=1", EXIT_USAGE)
    if isinstance(error, UnicodeDecodeError):
        return Ending(
            f"Text in an input is damaged: {_words(error)}.", f"Get the file again. {_TRACEBACK}", EXIT_INTEGRITY
        )
    return Ending(
        f"fastclip has a fault: {type(error).__name__}: {_words(error)}.",
        f"Report it, please, with the command. {_TRACEBACK}",
        EXIT_INTEGRITY,
    )


def _of_command_line(error: Any) -> Ending:
    """An error of the command line. Which package defines its type differs between versions of Typer."""
    path = getattr(getattr(error, "ctx", None), "command_path", "fastclip").replace("python -m ", "")
    message = " ".join(error.format_message().split()) or "A command is missing."
    return Ending(message, f"{path} --help", EXIT_USAGE)


def _of_system(error: OSError) -> Ending:
    mistake = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
    words = _words(error)
    if error.strerror:
        names = [str(each) for each in (error.filename, error.filename2) if each is not None]
        words = ": ".join([*names, error.strerror])
    fix = "Check that the file is there and may be read, and that the disk works and has room."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "Free space where it writes, in the temporary folder too, or set TMPDIR to one that has some."
    return Ending(
        f"{words}.",
        fix,
        EXIT_USAGE if mistake else EXIT_INCOMPLETE,
    )


def _short_of(error: BaseException | None) -> str:
    """Memory or threads, if an error or one that led to it means that the system gave no more; else ""."""
    while error:
        words = str(error).lower()
        if (isinstance(error, OSError) and error.errno == errno.EAGAIN) or any(each in words for each in _NO_THREAD):
            return "threads or processes"
        if isinstance(error, OSError):
            if error.errno == errno.ENOMEM:
                return "memory"
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return "open files"
        elif isinstance(error, MemoryError) or any(each in words for each in _NO_MEMORY):
            return "memory"
        error = error.__cause__ or error.__context__
    return ""


def _words(error: BaseException) -> str:
    """The error's own words on one line, without the period; its type's name if there are none."""
    return " ".join(str(error).split())[:MOST_WORDS].rstrip(".") or type(error).__name__
