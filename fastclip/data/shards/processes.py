"""Writes shards in several processes. Each has a pipe to this one, and ends when the pipe does."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
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

    Raises a process's own error, or `IncompleteError` if one was killed. The others then stop at their next image.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    workers: dict[connection.Connection, multiprocessing.process.BaseProcess] = {}
    try:
        for _ in range(processes):
            ours, theirs = context.Pipe()
            workers[ours] = context.Process(target=_work, args=(theirs, folder, seek_indexes(), verify), daemon=True)
            workers[ours].start()
            theirs.close()
        yield from _written(list(workers), iter(plans), on_progress)
    finally:
        for pipe in workers:
            pipe.close()
        for process in workers.values():
            process.join()


def _written(
    pipes: list[connection.Connection], todo: Iterator[PlannedShard], on_progress: OnProgress
) -> Iterator[WrittenShard]:
    """Give every process a shard, and the next one when it has written one."""
    for pipe in pipes:
        _give_next(pipe, todo)
    busy = set(pipes)
    while busy:
        for pipe in busy & set(connection.wait(busy)):
            with _alive():
                message = pipe.recv()
            if isinstance(message, WrittenShard):
                if not _give_next(pipe, todo):
                    busy.remove(pipe)
                yield message
            elif isinstance(message[0], Exception):
                raise message[0] from RuntimeError(message[1])
            else:
                on_progress(*message)


def _give_next(pipe: connection.Connection, todo: Iterator[PlannedShard]) -> bool:
    """Send the next planned shard; whether there was one."""
    plan = next(todo, None)
    if plan is not None:
        with _alive():
            pipe.send(plan)
    return plan is not None


@contextmanager
def _alive() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise IncompleteError(
            "A process that wrote shards was killed.", fix="Run the same command again; finished shards are kept."
        ) from error


def _work(pipe: connection.Connection, folder: Folder, indexes: Mapping[Path, SeekIndex], verify: bool) -> None:
    """Write the shards that come through the pipe, until it ends.

    Messages back are images and bytes that were read, a `WrittenShard`, or an error and its traceback.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process, which closes the pipes
    adopt_seek_indexes(indexes)
    reader = BlobReader()
    with suppress(EOFError, ConnectionError):  # the first process is done, or gone
        while True:
            plan = pipe.recv()
            try:
                written = write_shard(folder, plan, reader, lambda *read: pipe.send(read), verify=verify)
            except Exception as error:
                pipe.send((error, traceback.format_exc()))
            else:
                pipe.send(written)
