"""The `fastclip` program: its commands, and how every error ends as two lines and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from fastclip import __version__
from fastclip.cli import datasets, demo, download, evaluate, shard, shards
from fastclip.errors import EXIT_USAGE, FastclipError, printable
from fastclip.interrupts import Stopped, stop_on_signals
from fastclip.launcher import join_launcher, keep_verdict

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
    except FastclipError as error:
        code = fail(str(error), error.fix, error.exit_code)
    except BrokenPipeError:  # `| head` has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _end_now(128 + signal.SIGPIPE)
    except OSError as error:
        code = fail(f"{error}.", "Check that the file is there and may be read, and the disk.", EXIT_USAGE)
    except Stopped as stop:
        _end_now(fail(f"Stopped by {stop}.", "Run the same command again; it goes on where it was.", stop.exit_code))
    except Exception as error:
        # Typer's own errors about the command line; which package defines them differs between its versions.
        if not hasattr(error, "format_message"):
            raise
        path = getattr(getattr(error, "ctx", None), "command_path", "fastclip").replace("python -m ", "")
        message = " ".join(error.format_message().split()) or "A command is missing."
        code = fail(message, f"{path} --help", EXIT_USAGE)
    keep_verdict(code := code if isinstance(code, int) else 0)
    sys.exit(code)


def _end_now(code: int) -> NoReturn:
    """End without waiting for threads: a batch of a large backbone takes minutes on a CPU."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def fail(message: str, fix: str, code: int) -> int:
    """Print an error and how to mend it, a line each, and return the exit code.

    Of several processes the first one speaks for all: they all find the same mistake, and are stopped together.
    """
    if os.environ.get("RANK", "0") == "0" or code not in (EXIT_USAGE, 128 + signal.SIGTERM, 128 + signal.SIGINT):
        typer.echo(f"Error: {printable(message)}\nFix:   {printable(fix)}", err=True)
    return code
