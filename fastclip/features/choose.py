"""Chooses, among the recipes of a store, the one whose embeddings are read. Weights and devices play no part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fastclip.errors import FastclipError, IncompleteError, UserError
from fastclip.store.recipes import Recipe
from fastclip.store.store import Store


class NotStoredError(IncompleteError):
    """A dataset is not embedded whole, where nothing is to be embedded."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The recipes that are admitted for one backbone. `None` admits any."""

    backbone: str
    weights: str | None = None
    """SHA-256 of the weights file."""
    random_weights: bool = False
    precision: str | None = None
    decoder: str | None = None
    batch_size: int | None = None
    compiled: bool | None = None
    device: str | None = None
    recipes: tuple[str, ...] = ()
    """Beginnings of recipes' digests; none admits all."""

    def admits(self, recipe: Recipe) -> bool:
        """Whether `recipe` is one of the wanted ones."""
        pairs: list[tuple[Any, Any]] = [
            (self.backbone, recipe.backbone),
            (self.random_weights, recipe.random_weights),
            (self.weights, recipe.weights),
            (self.precision, recipe.precision),
            (self.decoder, recipe.decoder.split(" ")[0]),
            (self.batch_size, recipe.batch_size),
            (self.compiled, recipe.compiled),
            (self.device, recipe.device),
        ]
        # Fine-tuned weights, as random ones, are read only on request: without it, all goes on as before they were.
        asked = self.weights is not None or bool(self.recipes)
        return (
            all(wanted is None or wanted == found for wanted, found in pairs)
            and not recipe.withdrawn
            and (asked or recipe.training is None)
            and (not self.recipes or recipe.id.startswith(self.recipes))
        )


def admissible(recipes: Iterable[Recipe], wanted: Wanted) -> list[Recipe]:
    """The recipes that `wanted` admits, most preferred first.

    Raises `UserError` if they are of several weights files: which one is meant is never guessed.
    """
    found = sorted(filter(wanted.admits, recipes), key=lambda recipe: recipe.preference)
    digests = sorted({recipe.weights for recipe in found})
    if len(digests) > 1:
        raise several_weights(wanted.backbone, {each.weights: each for each in reversed(found)}.values())
    return found


def several_weights(backbone: str, recipes: Iterable[Recipe]) -> UserError:
    """The error for embeddings of other weights under one backbone's name."""
    ordered = sorted(recipes, key=lambda each: each.weights)
    shown = ", ".join(f"{each.weights[:12]} (recipe {each.id[:12]})" for each in ordered)
    return UserError(
        f"The store holds embeddings of {backbone} by different weights: {shown}.",
        fix=f"--recipe {ordered[0].id[:12]} to choose one, or --weights {backbone}=FILE",
    )


class Shelf:
    """The recipes of a store that are admitted for each backbone, held against the parts that datasets have."""

    def __init__(
        self,
        store: Store,
        recipes: Sequence[Recipe],
        wanted: Mapping[str, Wanted],
        parts: Mapping[str, Sequence[str]],
    ) -> None:
        """`wanted` is by backbone; `parts` are the names of all parts by dataset. Raises as `admissible` does."""
        self.admitted = {backbone: admissible(recipes, each) for backbone, each in wanted.items()}
        self.parts = parts
        self._needed = {dataset: set(names) for dataset, names in parts.items()}
        self._listed = cache(store.parts)

    def complete(self, datasets: Iterable[str], backbone: str) -> Recipe | None:
        """The most preferred recipe that has every part of the datasets; None if there is none."""
        needed = set().union(*(self._needed[each] for each in datasets))
        return next((each for each in self.admitted[backbone] if needed <= self._listed(each.id)), None)

    def begun(self, dataset: str, backbone: str) -> Recipe | None:
        """The recipe that has most parts of a dataset; None if none has any."""
        counts = {each: len(self._needed[dataset] & self._listed(each.id)) for each in self.admitted[backbone]}
        return max(counts, key=counts.__getitem__) if any(counts.values()) else None

    def not_stored(self, pairs: Iterable[tuple[str, str]]) -> IncompleteError:
        """The error for (dataset, backbone) `pairs` that no recipe has whole, with how much there is of each."""
        pairs = list(pairs)
        for backbone in dict.fromkeys(backbone for _, backbone in pairs):
            datasets = [dataset for dataset, each in pairs if each == backbone]
            apart = {each: self.complete([each], backbone) for each in datasets}
            if len(datasets) > 1 and all(apart.values()):
                shown = ", ".join(f"{each} by recipe {recipe.id[:12]}" for each, recipe in apart.items() if recipe)
                return IncompleteError(
                    f"Train and test must share a recipe; {backbone} has {shown}.",
                    fix=f"Embed one of them as the other is, on the same machine: fastclip eval {' '.join(datasets)} "
                    f"-b {backbone} --here",
                )
        found = []
        for dataset, backbone in pairs:
            recipe = self.begun(dataset, backbone)
            there = len(self._needed[dataset] & self._listed(recipe.id)) if recipe else 0
            of = f" (recipe {recipe.id[:12]})" if recipe else ""
            found.append(f"{dataset} by {backbone} has {there:,} of {len(self.parts[dataset]):,} shards{of}")
        names = " ".join(dict.fromkeys(dataset for dataset, _ in pairs))
        backbones = " ".join(f"-b {each}" for each in dict.fromkeys(backbone for _, backbone in pairs))
        return NotStoredError(
            f"Not everything is embedded: {'; '.join(found)}.",
            fix=f"fastclip eval {names} {backbones} (with the options of this command), or wait for those at work",
        )

    def cannot_embed(self, pairs: Iterable[tuple[str, str]], error: FastclipError) -> FastclipError:
        """`error`, why this machine cannot embed, with how much the store has of the first of `pairs` that was begun.

        `pairs` are (dataset, backbone).
        """
        for dataset, backbone in pairs:
            if recipe := self.begun(dataset, backbone):
                there = len(self._needed[dataset] & self._listed(recipe.id))
                return type(error)(
                    f"{dataset} is embedded by {backbone} in {there:,} of {len(self.parts[dataset]):,} shards (recipe "
                    f"{recipe.id[:12]}, on {recipe.machine}), and the rest cannot be embedded here: {error}",
                    fix=f"Run the same command again where it was begun. Or: {error.fix}",
                )
        return error
