"""Work on rows by blocks of a fixed size, in several threads. Results come in order: no bit depends on the threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from fastclip.threads import threads

ROWS = 4096
"""Rows a block. Another number moves last bits of sums."""

Result = TypeVar("Result")


def blocks_of(rows: int, size: int = ROWS) -> list[slice]:
    """The rows from 0 to `rows` as slices of `size`, the last one shorter."""
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


def over_blocks(work: Callable[[slice], Result], blocks: list[slice], cores: int) -> Iterator[Result]:
    """The results of `work` for each block, in order. Up to `cores` threads work at once."""
    if cores == 1 or len(blocks) == 1:
        yield from map(work, blocks)
        return
    with threads(cores, "blocks") as pool:
        yield from pool.map(work, blocks)


def sum_over_blocks(work: Callable[[slice], np.ndarray], blocks: list[slice], cores: int) -> np.ndarray:
    """The sum of the arrays that `work` returns for at least one block, added in order. The first one is changed."""
    arrays = over_blocks(work, blocks, cores)
    total = next(arrays)
    for each in arrays:
        total += each
    return total
