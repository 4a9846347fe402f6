"""The `fastclip` program: its commands, and the end of every error in two lines and an exit code."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from fastclip import __version__
from fastclip.cli import (
    adapt,
    bench,
    card,
    compare,
    completion,
    datasets,
    demo,
    doctor,
    download,
    evaluate,
    export,
    features,
    finetune,
    grim,
    probe,
    prompts,
    report,
    reproduce,
    search,
    shard,
    shards,
    status,
    store,
    track,
    verify,
    wise,
)
from fastclip.cli.console import keep_streams, lost_output, say
from fastclip.cli.endings import ending
from fastclip.cli.help import Command, Tour
from fastclip.cli.launcher import end_launch, join_launcher, leave_verdict, speaks_when_stopped
from fastclip.cli.names import read_names_as_utf8
from fastclip.cli.progress import silence
from fastclip.cli.signals import Stopped, ignore_signals, stop_asked, stop_on_signals
from fastclip.cli.surroundings import complete_environment
from fastclip.errors import GO_ON, IncompleteError, LostProcessError, printable
from fastclip.machine import keep_freed_memory
from fastclip.temporary import remove_temporary_folders

app = typer.Typer(
    cls=Tour,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", cls=Command)(demo.command)
app.command("download", cls=Command)(download.command)
app.add_typer(datasets.app, name="datasets")
app.command("shard", cls=Command)(shard.command)
app.add_typer(shards.app, name="shards")
app.command("eval", cls=Command)(evaluate.command)
app.add_typer(prompts.app, name="prompts")
app.command("probe", cls=Command)(probe.command)
app.command("adapt", cls=Command)(adapt.command)
app.command("finetune", cls=Command)(finetune.command)
app.command("wise", cls=Command)(wise.command)
app.command("report", cls=Command)(report.command)
app.command("compare", cls=Command)(compare.command)
app.command("card", cls=Command)(card.command)
app.command("track", cls=Command)(track.command)
app.command("features", cls=Command)(features.command)
app.command("export", cls=Command)(export.command)
app.command("search", cls=Command)(search.command)
app.add_typer(store.app, name="store")
app.command("bench", cls=Command)(bench.command)
app.command("reproduce", cls=Command)(reproduce.command)
app.command("grim", cls=Command)(grim.command)
app.command("verify", cls=Command)(verify.command)
app.command("status", cls=Command)(status.command)
app.command("doctor", cls=Command)(doctor.command)
app.command("completion", cls=Command)(completion.command)


def _print_version(asked: bool) -> bool:
    if asked:
        say(f"fastclip {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def fastclip(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Measure how well CLIP models classify your images."""


def run() -> NoReturn:
    """Run the command that the command line names, and exit with one of the codes that `fastclip.errors` lists."""
    ours = sys.stderr is sys.__stderr__  # not that of a test
    if ours:
        read_names_as_utf8()
    keep_streams()
    if ours and os.environ.get("RANK", "0") == "0":
        silence.break_it(" ".join(["fastclip", *sys.argv[1:2]]))
    ended: list[int] = []
    atexit.register(_leave, ended)  # the first to be registered is called last, after all that cleans up
    try:
        stop_on_signals()
        code = _code()
        stopped = False
        ignore_signals()
    except Stopped as stop:
        code, stopped = stop.exit_code, True
        ignore_signals()
        if speaks_when_stopped():
            _print_error(str(stop), GO_ON)
    end_launch()
    if stopped and "multiprocessing.synchronize" not in sys.modules:  # that module cleans up at a normal end only
        # A normal end would wait for the batches of large backbones, for minutes.
        gc.collect()
        _leave([code])
    ended.append(code)
    sys.exit(code)


def _leave(ended: Sequence[int]) -> None:
    """End the process at once if its exit code is known. Python would free all that torch has loaded for a second."""
    if ended:
        remove_temporary_folders()
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(ended[0])


def _code() -> int:
    """The exit code of the command line. Every error is printed here, also one that nobody thought of."""
    try:
        complete_environment()
        keep_freed_memory()
        code = join_launcher()
        if code is None:
            code = _command()
        if (lost := lost_output()) and not code:
            raise IncompleteError(
                f"Standard output cannot be written: {lost.strerror}.",
                fix="Free space there, then run the same command again to see what it prints.",
            )
    except (Stopped, SystemExit):
        raise
    except LostProcessError as error:
        if stop := stop_asked():
            raise stop from error
        if speaks_when_stopped():
            _print_error(str(error), error.fix)
        code = error.exit_code  # and no verdict: the launcher starts all processes again
    except BaseException as error:  # a library in Rust panics with an error of its own, which is no Exception
        if stop := stop_asked():
            raise stop from error
        if "FASTCLIP_TRACEBACK" in os.environ:
            traceback.print_exception(error)
        found = ending(error)
        code = fail(found.message, found.fix, found.code)
    return code


def _command() -> int:
    """Run the command and return its exit code."""
    code = app(standalone_mode=False)
    if not isinstance(code, int):
        code = 0
    if code:
        leave_verdict(code)  # the command has printed the reason
    return code


def fail(message: str, fix: str, code: int) -> int:
    """Print an error and its cure on a line each, and return the exit code.

    Processes of one launcher find the same mistake, so only the first one prints it.
    """
    if leave_verdict(code):
        _print_error(message, fix)
    return code


def _print_error(message: str, fix: str) -> None:
    say(f"Error: {printable(message)}\nFix:   {printable(fix)}", error=True)
