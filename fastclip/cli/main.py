"""The `fastclip` program: its commands, and how every error ends as two lines and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from fastclip import __version__
from fastclip.cli import datasets, demo, download, evaluate, shard, shards, status, verify
from fastclip.errors import EXIT_USAGE, FastclipError, printable
from fastclip.interrupts import GO_ON, Stopped, stop_on_signals
from fastclip.launcher import join_launcher, leave_verdict, speaks_when_stopped

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
    if (verdict := join_launcher()) is not None:
        sys.exit(verdict)
    try:
        code = app(standalone_mode=False)
        if not isinstance(code, int):
            code = 0
        if code:
            leave_verdict(code)  # what there is to say is printed
    except FastclipError as error:
        code = fail(str(error), error.fix, error.exit_code)
    except OSError as error:
        code = fail(f"{error}.", "Check that the file is there and may be read, and the disk.", EXIT_USAGE)
    except Stopped as stop:
        if speaks_when_stopped():
            _print_error(str(stop), GO_ON)
        code = stop.exit_code
    except Exception as error:
        # Typer's own errors about the command line; which package defines them differs between its versions.
        if not hasattr(error, "format_message"):
            raise
        path = getattr(getattr(error, "ctx", None), "command_path", "fastclip").replace("python -m ", "")
        message = " ".join(error.format_message().split()) or "A command is missing."
        code = fail(message, f"{path} --help", EXIT_USAGE)
    sys.exit(code)


def fail(message: str, fix: str, code: int) -> int:
    """Print an error and how to mend it, a line each, and return the exit code.

    Of several processes one speaks for all: they find the same mistake.
    """
    if leave_verdict(code):
        _print_error(message, fix)
    return code


def _print_error(message: str, fix: str) -> None:
    typer.echo(f"Error: {printable(message)}\nFix:   {printable(fix)}", err=True)
