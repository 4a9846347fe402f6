"""Progress on the terminal: a bar where somebody watches, nothing where output goes to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def progress_bar(console: Console, title: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar of `total` images with their rate and the time left.

    What is yielded moves it by some images, and if it is told how many bytes these have, their rate is shown too.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total, rate="")
        done = [0, 0]

        def advance(images: int, size: int = 0) -> None:
            done[0] += images
            done[1] += size
            progress.advance(task, images)
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            megabytes = f", {speed * done[1] / done[0] / 1e6:.0f} MB/s" if speed and done[1] else ""
            progress.update(task, rate=f"{speed:.0f} images/s{megabytes}" if speed else "")

        yield advance
