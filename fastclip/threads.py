"""Pools of threads that do not delay the end of a stopped program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def threads(
    number: int, name: str, initializer: Callable[..., object] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ThreadPoolExecutor]:
    """A pool of `number` threads. After an error it waits for running tasks; after a stop signal it does not."""
    pool = ThreadPoolExecutor(number, name, initializer, arguments)
    stopped = False
    try:
        yield pool
    except BaseException as error:
        stopped = is_stop(error)
        raise
    finally:
        pool.shutdown(wait=not stopped, cancel_futures=True)


def is_stop(error: BaseException) -> bool:
    """Whether an error ends the process, so that nobody has to wait for threads.

    Ctrl-C in a notebook is none: the process lives on, and nothing of ours may still compute in it.
    """
    return not isinstance(error, Exception | KeyboardInterrupt)
