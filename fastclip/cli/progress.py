"""Progress: bars on a terminal, and everywhere a line when nothing was said for ten seconds."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from fastclip.errors import printable

if TYPE_CHECKING:
    from rich.console import Console


SILENCE_S = 10.0
"""Seconds without a word after which a run says what it is at."""


class Silence:
    """The silence of this process: when something was printed last, and what it has been at since."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._work: list[Callable[[], str]] = []
        self._ended = threading.Event()

    def broken(self) -> None:
        """Note that something is printed."""
        self._last = time.monotonic()

    def break_it(self, command: str) -> None:
        """From now on, say on standard error what this process is at whenever ten seconds were silent."""
        self._last = time.monotonic()
        threading.Thread(target=self._watch, args=(command, time.monotonic()), name="silence", daemon=True).start()

    def end(self) -> None:
        """Say nothing any more."""
        self._ended.set()

    @contextmanager
    def at(self, work: str | Callable[[], str]) -> Iterator[None]:
        """Inside the block this process is at `work`: a few words, or a function that says them when they are asked."""
        entry = work if callable(work) else lambda: work
        self._work.append(entry)
        try:
            yield
        finally:
            self._work.remove(entry)

    def line(self, command: str, elapsed_s: float) -> str:
        """The line that is said, such as `After 20 s: embedding (bf16, cpu), 96 of 5,000 images`."""
        words = [text for work in [*self._work] if (text := work())]
        return printable(f"After {elapsed_s:,.0f} s: {'; '.join(words) or f'{command} is at work'}")

    def _watch(self, command: str, started: float) -> None:
        while not self._ended.wait(max(0.0, self._last + SILENCE_S - time.monotonic())):
            now = time.monotonic()
            if now - self._last >= SILENCE_S:
                self._last = now
                with suppress(OSError):  # nobody listens
                    # Not through `sys.stderr`, which the main thread may be writing to.
                    os.write(2, f"{self.line(command, now - started)}\n".encode(sys.stderr.encoding, "replace"))


silence = Silence()
"""Of this process, which has one standard error."""


@contextmanager
def waiting(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """A spinner beside `what` for work of unknown length. Yields a function that says what comes next."""
    from rich.text import Text

    now = [what]
    # rich reads markup into a plain string, brackets of a path too
    with silence.at(lambda: now[0]), console.status(Text(printable(what))) as status:

        def say(what: str) -> None:
            now[0] = what
            status.update(Text(printable(what)))

        yield say


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Yields a function that says what is done now, an empty text for nothing of note."""
    now = [""]

    def say(what: str) -> None:
        now[0] = what

    with silence.at(lambda: now[0]):
        yield say


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
    done = [0, 0]
    with (
        silence.at(lambda: f"{title}, {done[0]:,} of {total:,}" + (f" {unit}" if unit else "")),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task(printable(title), total=total, rate="")

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
    done = [0]
    with (
        silence.at(lambda: f"{title}, {done[0]:,} of {total:,} images"),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task(printable(title), total=total, facts="")

        def advance(images: int, loss: float | None, *, gone_on: bool = False) -> None:
            done[0] = images if gone_on else done[0] + images
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
    at, there, of = [title], [done], f" of {total / 1e6:,.1f}" if total else ""
    with (
        silence.at(lambda: f"{at[0]}, {there[0] / 1e6:,.1f}{of} MB"),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task(printable(title), total=total, completed=done)

        def advance(now: str, count: int) -> None:
            at[0] = now
            there[0] += count
            progress.update(task, description=printable(now), advance=count)

        yield advance
