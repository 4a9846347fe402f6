"""Who does what: a pure function of the units and the number of processes. No torch, no files, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastclip.data.shards.manifest import Shard
from fastclip.files import digest
from fastclip.storage.folders import Folder


@dataclass(frozen=True)
class Unit:
    """One shard and its part's key for each backbone: the grain of work, failure and resume."""

    folder: Folder | Path
    """The dataset's folder."""
    shard: Shard
    keys: Mapping[str, str]
    """Backbone's name → key of the part."""

    @cached_property
    def id(self) -> str:
        """A name for it that any process would give it: 32 hexadecimal digits."""
        return digest(" ".join(sorted(self.keys.values())).encode())[:32]


def shares(units: Sequence[Unit], world_size: int) -> list[list[Unit]]:
    """The units of every process, largest first, each unit in one share, shares as equal as that allows.

    Made from all units, not from those that are left: when each process looked for itself which were finished, a
    resumed run lost 43 of 203 images. And not from where the shards lie: a process may have a copy.
    """
    result: list[list[Unit]] = [[] for _ in range(world_size)]
    least_loaded = [(0, rank) for rank in range(world_size)]  # a heap
    for unit in sorted(units, key=lambda unit: (-unit.shard.images, unit.folder.name, unit.shard.name)):
        images, rank = least_loaded[0]
        result[rank].append(unit)
        heapq.heapreplace(least_loaded, (images + unit.shard.images, rank))
    return result


def work_order(units: Sequence[Unit], rank: int, world_size: int) -> Iterator[Unit]:
    """All units in the order in which process `rank` takes them: its own share, then the others' from their far ends.

    What is published by then is skipped by the caller, so a unit is done twice only while nobody has published it.
    """
    parts = shares(units, world_size)
    yield from parts[rank]
    for other in range(1, world_size):
        yield from reversed(parts[(rank + other) % world_size])
