"""Progress on the terminal. Nothing is printed where standard error goes to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastclip.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status


def waiting(console: Console, what: str) -> Status:
    """A spinner beside `what`, as a context manager, for work of unknown length."""
    from rich.text import Text

    return console.status(Text(printable(what)))  # rich reads markup into a plain string, brackets of a path too


@contextmanager
def progress_bar(console: Console, title: str, total: int, unit: str = "images") -> Iterator[Callable[..., None]]:
    """A bar of `total` images with their rate and the time left. An empty `unit` shows no rate.

    Yields a function that moves the bar: advance(images) or advance(images, bytes). If it is given bytes, the bar
    shows their rate too.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(printable(title), total=total, rate="")
        done = [0, 0]

        def advance(images: int, size: int = 0) -> None:
            done[0] += images
            done[1] += size
            progress.advance(task, images)
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            megabytes = f", {speed * done[1] / done[0] / 1e6:.0f} MB/s" if speed and done[1] else ""
            progress.update(task, rate=f"{speed:.0f} {unit}/s{megabytes}" if speed and unit else "")

        yield advance


@contextmanager
def training_bar(console: Console, title: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar of `total` images of all epochs, with the loss, their rate, the time left and the memory of this process.

    Yields a function advance(images, loss, gone_on=False): images of an earlier run are `gone_on` from.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from fastclip.machine import used_memory

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(printable(title), total=total, facts="")

        def advance(images: int, loss: float | None, *, gone_on: bool = False) -> None:
            if gone_on:
                progress.update(task, completed=images)
                return
            progress.advance(task, images)
            speed = progress.tasks[0].speed
            rate = f", {speed:.0f} images/s" if speed else ""
            progress.update(task, facts=f"loss {loss:.3f}{rate}, {used_memory() / 2**30:.1f} GiB")

        yield advance


@contextmanager
def bytes_bar(console: Console, title: str, total: int | None, done: int) -> Iterator[Callable[[str, int], None]]:
    """A bar of `total` bytes (None: unknown), of which `done` are there already, with their rate and the time left.

    Yields a function advance(now, bytes): `now` takes the place of the title, and the bar moves by `bytes`, which may
    be negative.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(printable(title), total=total, completed=done)

        def advance(now: str, count: int) -> None:
            progress.update(task, description=printable(now), advance=count)

        yield advance
