"""Worker processes that evaluate the sample, each in its place among several, and that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from fastclip.errors import FastclipError, IncompleteError, IntegrityError
from fastclip.evaluate.options import EvalOptions
from fastclip.machine import keep_freed_memory

CATCHES = 5
"""How often a worker is started again that ended before it could be killed halfway."""

Task: TypeAlias = Callable[[EvalOptions], object]
"""The work of a worker: a function of a module, so that another process finds it."""

RECORD = "record.json"
"""The file in its store that a worker leaves the record of its evaluation in."""


@dataclass(frozen=True)
class Job:
    """The place of one worker: `number` of `of`, with the embeddings in `store`."""

    number: int
    of: int
    store: Path

    def __str__(self) -> str:
        return f"worker {self.number} of {self.of}"

    @property
    def log(self) -> Path:
        """The file that takes everything the worker prints."""
        return self.store / f"{self.number}-of-{self.of}.log"

    def options(self, options: EvalOptions) -> EvalOptions:
        """The options of this worker: `options`, but for its store and its share."""
        return replace(options, store=self.store, share=f"{self.number}/{self.of}")


def evaluate(options: EvalOptions) -> None:
    """Embed what is missing, and as the first worker score and leave the record, as `fastclip eval` does.

    Raises the first error of a shard that could not be embedded.
    """
    from fastclip.evaluate.embedding import embed  # loads torch
    from fastclip.evaluate.score import score
    from fastclip.evaluate.setup import resolve
    from fastclip.files import write_whole
    from fastclip.results.files.result import to_json

    setup = resolve(options)
    for failure in embed(setup).failures:
        raise failure
    if setup.process.reports:
        evaluation, _ = score(setup)
        write_whole(options.store / RECORD, to_json(evaluation))


@dataclass(frozen=True)
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    """Brings the worker its task and options, and brings its error back."""


class Workers:
    """Runs `task` in processes of their own, none of which outlives the `with` block.

    Each gets the record of its options whole, through a pipe: no option is spelled out, so none can be forgotten.
    """

    def __init__(self, options: EvalOptions, together: int, task: Task = evaluate) -> None:
        self._options = options
        self._together = together
        self._task = task
        self._running: list[_Worker] = []
        # A stop signal interrupts the main thread: a process that it had just started would be lost.
        self._starter = ThreadPoolExecutor(1, "start")

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._starter.shutdown()
        for worker in self._running:
            worker.process.terminate()
        until = time.monotonic() + 3
        for worker in self._running:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, until - time.monotonic()))
            worker.process.kill()
            worker.process.wait()

    def run(self, jobs: Sequence[Job], on_step: Callable[[str], None]) -> dict[Job, str]:
        """Run every job, and return the complaints of those that found a part with other bytes.

        Raises `IncompleteError` for one that ended for any other reason.
        """
        waiting = list(jobs)
        started: dict[Job, _Worker] = {}
        complaints: dict[Job, str] = {}
        while waiting or started:
            while waiting and len(started) < self._together:
                job = waiting.pop(0)
                started[job] = self._start(job)
            on_step(f"evaluating in processes: {len(jobs) - len(waiting) - len(started)} of {len(jobs)} done")
            wait([worker.pipe for worker in started.values()], timeout=1)  # until one ends
            for job in [job for job, worker in started.items() if worker.process.poll() is not None]:
                if complaint := _complaint(job, started.pop(job)):
                    complaints[job] = complaint
        return complaints

    def kill_halfway(self, folder: Path, parts: Collection[str]) -> tuple[int, Path]:
        """Kill a worker when its first part is published: how many of `parts` were then, and its store.

        `parts` are paths in a store. Zero if the worker was too fast every time. Its store is in `folder`, a new one
        each time.
        """
        for number in range(CATCHES):
            job = Job(1, 2, folder / f"killed-{number}")
            process = self._start(job).process
            while process.poll() is None and not any((job.store / part).exists() for part in parts):
                time.sleep(0.001)
            process.kill()
            process.wait()
            published = sum((job.store / part).exists() for part in parts)
            if process.returncode < 0 and 0 < published < len(parts):
                return published, job.store
        return 0, folder

    def _start(self, job: Job) -> _Worker:
        return self._starter.submit(self._start_here, job).result()

    def _start_here(self, job: Job) -> _Worker:
        self._running = [worker for worker in self._running if worker.process.poll() is None]
        job.store.mkdir(exist_ok=True)
        pipe, theirs = Pipe()
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        with job.log.open("wb") as log, theirs:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[theirs.fileno()]
            )
        self._running.append(worker := _Worker(process, pipe))
        with suppress(OSError):  # it is dead already: its exit code says more
            pipe.send((self._task, job.options(self._options)))
        return worker


def _complaint(job: Job, worker: _Worker) -> str | None:
    """The error of a worker that found other bytes; None if it ended well. Raises `IncompleteError` otherwise."""
    code = worker.process.returncode
    error: FastclipError | None = None
    with worker.pipe, suppress(EOFError, OSError):
        if worker.pipe.poll():
            error = worker.pipe.recv()
    if code == 0:
        return None
    if isinstance(error, IntegrityError):
        return str(error)
    printed = job.log.read_text(errors="replace").splitlines() or ["it said nothing"]
    raise IncompleteError(
        f"{job} ended with {code}: {error or printed[-1]}",
        fix=error.fix if error else "Free memory and space in the temporary folder, then run the same command again.",
    )


def _work(pipe: Connection) -> None:
    """The whole life of a worker: its task and options come through `pipe`, an error of fastclip's own goes back."""
    keep_freed_memory()
    task, options = pipe.recv()
    threading.Thread(target=_end_with, args=(pipe,), name="starter", daemon=True).start()
    code = 0
    try:
        task(options)
    except FastclipError as error:
        pipe.send(error)
        code = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python would free all that torch has loaded for another second


def _end_with(pipe: Connection) -> None:
    """End this process when the one that started it is gone: nobody else would."""
    with suppress(OSError):
        pipe.poll(None)  # nothing is sent any more, so that this is its end
    os._exit(1)


if __name__ == "__main__":
    _work(Connection(int(sys.argv[1])))
