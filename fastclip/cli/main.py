"""The `fastclip` program: its commands, and how every error ends as two lines and an exit code."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from fastclip import __version__
from fastclip.cli import bench, datasets, demo, download, evaluate, shard, shards, status, verify
from fastclip.cli.launcher import join_launcher, leave_verdict, speaks_when_stopped
from fastclip.cli.signals import Stopped, ignore_signals, stop_on_signals
from fastclip.errors import EXIT_INCOMPLETE, EXIT_INTEGRITY, EXIT_USAGE, GO_ON, FastclipError, printable
from fastclip.machine import keep_freed_memory

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.command)
app.command("download")(download.command)
app.add_typer(datasets.app, name="datasets")
app.command("shard")(shard.command)
app.add_typer(shards.app, name="shards")
app.command("eval")(evaluate.command)
app.command("bench")(bench.command)
app.command("verify")(verify.command)
app.command("status")(status.command)


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"fastclip {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def fastclip(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Score CLIP models on labelled image sets: embed once, ask anything.

    Shard a folder of images, embed it with any number of backbones and processes, score it under any prompts.
    """


def run() -> NoReturn:
    """Run the program with the command line's arguments, and exit with the code that `fastclip.errors` lists."""
    stop_on_signals()
    keep_freed_memory()
    ended: list[int] = []
    atexit.register(_leave, ended)  # the first to be registered is called last, after all that cleans up
    try:
        code = join_launcher()
        if code is None:
            code = _command()
        stopped = False
    except Stopped as stop:
        code, stopped = stop.exit_code, True
        if speaks_when_stopped():
            _print_error(str(stop), GO_ON)
    ignore_signals()
    if stopped and "multiprocessing.synchronize" not in sys.modules:  # which cleans up at a normal end only
        # Batches of large backbones would be waited for, for minutes.
        gc.collect()
        _leave([code])
    ended.append(code)
    sys.exit(code)


def _leave(ended: Sequence[int]) -> None:
    """End as things are, once the exit code is known: Python frees all that torch has loaded for another second."""
    if ended:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(ended[0])


def _command() -> int:
    """The exit code of the command that is asked for. Whatever is wrong is printed."""
    try:
        code = app(standalone_mode=False)
        if not isinstance(code, int):
            code = 0
        if code:
            leave_verdict(code)  # what there is to say is printed
    except FastclipError as error:
        code = fail(str(error), error.fix, error.exit_code)
    except typer.Abort:  # what Typer makes of EOFError
        code = fail("A file ended before it should.", "Check what was given as input.", EXIT_INTEGRITY)
    except OSError as error:
        mistake = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
        code = EXIT_USAGE if mistake else EXIT_INCOMPLETE
        fail(f"{error}.", "Check that the file is there and may be read, and the disk.", code)
    except Exception as error:
        # Typer's own errors about the command line; which package defines them differs between its versions.
        if not hasattr(error, "format_message"):
            raise
        path = getattr(getattr(error, "ctx", None), "command_path", "fastclip").replace("python -m ", "")
        message = " ".join(error.format_message().split()) or "A command is missing."
        code = fail(message, f"{path} --help", EXIT_USAGE)
    return code


def fail(message: str, fix: str, code: int) -> int:
    """Print an error and how to mend it, a line each, and return the exit code.

    Of several processes one speaks for all: they find the same mistake.
    """
    if leave_verdict(code):
        _print_error(message, fix)
    return code


def _print_error(message: str, fix: str) -> None:
    typer.echo(f"Error: {printable(message)}\nFix:   {printable(fix)}", err=True)
