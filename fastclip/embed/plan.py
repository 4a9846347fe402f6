"""The division of work: a pure function of the units and the number of processes. No torch, no files, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastclip.data.shards.manifest import Shard
from fastclip.files import digest
from fastclip.storage.folders import Folder
from fastclip.store.recipes import Recipe


@dataclass(frozen=True)
class Unit:
    """One shard and the recipes under which it is to be embedded: the grain of work, failure and resume."""

    folder: Folder | Path
    """The dataset's folder."""
    shard: Shard
    part: str
    """The name of the shard's part, the same under every recipe."""
    recipes: Mapping[str, Recipe]
    """Backbone's name → recipe."""

    @cached_property
    def id(self) -> str:
        """The unit's name, the same in every process: 32 hexadecimal digits."""
        return digest(" ".join([self.part, *sorted(recipe.id for recipe in self.recipes.values())]).encode())[:32]


def shares(units: Sequence[Unit], world_size: int) -> list[list[Unit]]:
    """The share of each process, largest units first. Every unit is in one share; shares are about equally large.

    Shares are made from all units, not from those that are left: when each process looked for itself which ones were
    finished, a resumed run lost 43 of 203 images. The place of the shards plays no part: a process may have a copy.
    """
    result: list[list[Unit]] = [[] for _ in range(world_size)]
    least_loaded = [(0, rank) for rank in range(world_size)]  # a heap
    for unit in sorted(units, key=lambda unit: (-unit.shard.images, unit.folder.name, unit.shard.name)):
        images, rank = least_loaded[0]
        result[rank].append(unit)
        heapq.heapreplace(least_loaded, (images + unit.shard.images, rank))
    return result


def work_order(units: Sequence[Unit], rank: int, world_size: int) -> Iterator[Unit]:
    """All units in the order in which process `rank` takes them: its own share, then each other share from its far end.

    The caller skips units that are published by then. So two processes do the same unit only at the same time.
    """
    parts = shares(units, world_size)
    yield from parts[rank]
    for other in range(1, world_size):
        yield from reversed(parts[(rank + other) % world_size])
