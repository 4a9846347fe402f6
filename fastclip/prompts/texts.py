"""The text vectors that candidates need: kept ones, and a tower that computes the others and forecasts its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64

from fastclip.data.shards.targets import Target
from fastclip.errors import UserError, needs_torch
from fastclip.evaluate.setup import Setup
from fastclip.prompts.candidates import Candidate, Candidates, texts_of
from fastclip.text.directions import class_sums, unit_rows
from fastclip.text.prototypes import TextRecipe, text_recipe
from fastclip.text.vectors import TextVectors, TowerName, compute_vectors, find_vectors, keep_vectors

if TYPE_CHECKING:
    from fastclip.models.tower import TextTower

ROUNDS = 2
"""Batches a worker, of which the time of all texts is forecast."""


@dataclass(frozen=True)
class Texts:
    """The vectors that are there, and the texts that have none yet, each once."""

    known: TextVectors
    missing: tuple[str, ...]


def find_texts(setup: Setup, backbone: str, candidates: Candidates) -> Texts:
    """The texts of all candidates and datasets. Raises `UserError` for a candidate that does not fit a dataset."""
    wanted = dict.fromkeys(
        text
        for target in setup.targets
        for candidate in candidates.each
        for of_class in texts_of(candidate, target)
        for text in of_class
    )
    known = find_vectors(setup.store.folder / "texts", _tower_name(setup, backbone), list(wanted))
    return Texts(known, tuple(text for text in wanted if text not in known.rows))


@dataclass(frozen=True)
class OpenTower:
    """A text tower at work."""

    tower: TextTower
    recipe: TextRecipe
    name: TowerName
    setup: Setup
    batch: int

    def seconds(self, texts: Sequence[str]) -> float:
        """Seconds that `texts` will take, by a few of them. Raises `UserError` for one that does not fit."""
        workers = self.setup.process.cores
        lengths = self.tower.lengths(texts)
        middle = sorted(range(len(texts)), key=lengths.__getitem__)[len(texts) // 2 :][: self.batch * ROUNDS * workers]
        sample = [texts[each] for each in middle]
        self.tower(sample[: self.batch], workers)  # the first one pays for kernels
        started = time.perf_counter()
        self.tower(sample, workers)
        elapsed = time.perf_counter() - started
        # A batch is as long as its longest text, and padded to its full size.
        padded = -(-len(sample) // self.batch) * self.batch * max(lengths[each] for each in middle)
        return elapsed / padded * sum(lengths)

    def embed(self, texts: Sequence[str], on_texts: Callable[[int], object]) -> Iterator[TextVectors]:
        """Vectors of `texts`, a chunk at a time, each kept before the next is begun."""
        folder = self.setup.store.folder / "texts"
        for chunk, vectors in compute_vectors(self.tower, texts, self.setup.process.cores, on_texts):
            keep_vectors(folder, self.name, self.recipe, chunk, vectors)
            yield TextVectors({text: row for row, text in enumerate(chunk)}, vectors)


@contextmanager
def open_tower(setup: Setup, backbone: str) -> Iterator[OpenTower]:
    """The text tower of a backbone with the weights of its embeddings. Raises `UserError` where it cannot be had."""
    try:
        with needs_torch():
            from fastclip.evaluate.engine import find_text_weights
            from fastclip.models.numerics import find_device, fixed_numerics
            from fastclip.models.tower import PROMPTS_PER_BATCH, load_text_tower

            recipe = setup.recipes[setup.targets[0].name, backbone]
            found = find_text_weights(recipe, None, setup.weights.get(backbone))
    except UserError as error:
        raise UserError(
            f"{setup.store.folder} has no vectors of some of these texts, and the text tower of {backbone} cannot be "
            f"had here. {error}",
            fix=f"--weights {backbone}=FILE, or run this once where the weights are",
        ) from error
    device = find_device(None, setup.process.local_rank)
    with fixed_numerics(device):
        yield OpenTower(
            load_text_tower(*found, device),
            text_recipe(device),
            _tower_name(setup, backbone),
            setup,
            PROMPTS_PER_BATCH[device.type],
        )


def prototypes_of(
    candidates: Sequence[Candidate], target: Target, vectors: TextVectors
) -> Float32[np.ndarray, "candidates classes dim"]:
    """The prototypes of every candidate, as `compute_prototypes` makes them."""
    return np.stack([unit_rows(sums_of(each, target, vectors)) for each in candidates])


def sums_of(candidate: Candidate, target: Target, vectors: TextVectors) -> Float64[np.ndarray, "classes dim"]:
    """The sums of the unit vectors of each class's prompts."""
    texts = texts_of(candidate, target)
    return class_sums(vectors.of([text for of_class in texts for text in of_class]), list(map(len, texts)))


def _tower_name(setup: Setup, backbone: str) -> TowerName:
    recipe = setup.recipes[setup.targets[0].name, backbone]
    return TowerName(weights=recipe.weights, architecture=recipe.architecture)
