"""The contents of a store: which recipes it holds, and of which datasets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastclip.data.shards.targets import Target
from fastclip.store.parts import part_name
from fastclip.store.recipes import Recipe
from fastclip.store.store import Store


@dataclass(frozen=True, kw_only=True)
class DatasetHolding:
    """How much of a dataset is embedded under one recipe."""

    name: str
    shards: int
    embedded_shards: int
    embedded_images: int

    @property
    def complete(self) -> bool:
        """Whether every shard has its part."""
        return self.embedded_shards == self.shards


@dataclass(frozen=True, kw_only=True)
class Holding:
    """One recipe of a store with its parts. `size` in bytes."""

    recipe: Recipe
    parts: int
    size: int
    datasets: tuple[DatasetHolding, ...]
    """The known datasets of which at least one shard is embedded."""
    unknown_parts: int
    """Parts of shards that no known dataset has: of other shards folders, or of shards that were written anew."""


def list_holdings(store: Store, targets: Iterable[Target]) -> list[Holding]:
    """Every recipe of `store`, most preferred first, held against the datasets in `targets`."""
    shards = {target.name: [(part_name(shard), shard.images) for shard in target.shards] for target in targets}
    found = []
    for recipe in store.recipes():
        parts = store.parts(recipe.id)
        datasets: list[DatasetHolding] = []
        known: set[str] = set()
        for name, of_dataset in shards.items():
            there = [(part, images) for part, images in of_dataset if part in parts]
            known.update(part for part, _ in there)
            if there:
                datasets.append(
                    DatasetHolding(
                        name=name,
                        shards=len(of_dataset),
                        embedded_shards=len(there),
                        embedded_images=sum(images for _, images in there),
                    )
                )
        found.append(
            Holding(
                recipe=recipe,
                parts=len(parts),
                size=store.size(recipe.id),
                datasets=tuple(datasets),
                unknown_parts=len(parts - known),
            )
        )
    return found
