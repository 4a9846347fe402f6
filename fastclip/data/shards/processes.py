"""Writes shards in several processes. Each has a pipe to this one, and ends when the pipe does."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker, util
from pathlib import Path

from fastclip.data.shards.packing import OnProgress, PlannedShard, WrittenShard, write_shard
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.seek_indexes import SeekIndex, adopt_seek_indexes, seek_indexes
from fastclip.errors import IncompleteError
from fastclip.storage.folders import Folder


def write_in_processes(
    folder: Folder, plans: Sequence[PlannedShard], processes: int, on_progress: OnProgress, *, verify: bool
) -> Iterator[WrittenShard]:
    """Write the planned shards in so many processes, and yield each when it is done.

    Raises a process's own error, or `IncompleteError` if one was killed; the others then stop at their next image.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "fastclip.data.shards.silence"])
    with _alive():
        sockets = util.get_temp_dir()
    workers: dict[connection.Connection, multiprocessing.process.BaseProcess] = {}
    try:
        for _ in range(processes):
            with _alive():
                ours, theirs = context.Pipe()
                work = theirs, folder, seek_indexes(), verify, sockets
                workers[ours] = context.Process(target=_work, args=work, daemon=True)
                with _without_interrupts():
                    workers[ours].start()
                theirs.close()
        yield from _answers(set(workers), iter(plans), on_progress)
    finally:
        for pipe in workers:
            pipe.close()
        for process in workers.values():
            if process.pid:  # a stop signal may have come before it was started
                process.join()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started in the block hear of no Ctrl-C, which this one hears of at the latest afterwards."""
    resource_tracker.ensure_running()  # its start would let signals in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answers(
    busy: set[connection.Connection], todo: Iterator[PlannedShard], on_progress: OnProgress
) -> Iterator[WrittenShard]:
    """Give a shard to every process that asks for one, and yield the shards that come back."""
    while busy:
        for pipe in busy & set(connection.wait(busy)):
            with _alive():
                message = pipe.recv()
            if isinstance(message, WrittenShard):
                yield message
            elif message is None and (plan := next(todo, None)):
                with _alive():
                    pipe.send(plan)
            elif message is None:
                busy.remove(pipe)
            elif isinstance(message[0], Exception):
                raise message[0] from RuntimeError(message[1])
            else:
                on_progress(*message)


@contextmanager
def _alive() -> Iterator[None]:
    """Raise `IncompleteError` if a process is gone, also the one that starts the others, or if none can be started."""
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise IncompleteError(
            "A process that wrote shards was killed.", fix="Run the same command again; finished shards are kept."
        ) from error
    except OSError as error:
        raise IncompleteError(
            f"Processes that write shards cannot be started, {_where()}: {error.strerror or error}.",
            fix="Add --processes 1, or cure that; then run the same command again: finished shards are kept.",
        ) from error


def _where() -> str:
    """The folder in which processes meet."""
    try:
        return f"with files in {tempfile.gettempdir()}"
    except FileNotFoundError:
        return "there is no temporary folder"


def _work(
    pipe: connection.Connection, folder: Folder, indexes: Mapping[Path, SeekIndex], verify: bool, sockets: str
) -> None:
    """Write the shards that come through the pipe, until it ends.

    Ctrl-C reaches the first process only, which closes the pipes. Messages back are None (which asks for a shard),
    numbers of images and bytes that were read, a `WrittenShard`, or an error and its traceback.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_seek_indexes(indexes)
    reader = BlobReader()
    with suppress(EOFError, ConnectionError):  # the first process is done, or gone
        while True:
            pipe.send(None)
            plan = pipe.recv()
            try:
                pipe.send(write_shard(folder, plan, reader, lambda *read: pipe.send(read), verify=verify))
            except Exception as error:
                pipe.send((error, traceback.format_exc()))
    parent = multiprocessing.parent_process()
    if parent and not parent.is_alive():  # it was killed
        shutil.rmtree(sockets, ignore_errors=True)
