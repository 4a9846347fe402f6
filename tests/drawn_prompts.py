"""Drawn prompts: a store whose text vectors are drawn by hand, so that it is known which template is best."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from drawn_store import DIM, RECIPE, centre, drawn, fill
from helpers import Sharded

from fastclip.data.shards.targets import find_targets
from fastclip.prompts.candidates import Candidate, Candidates, texts_of
from fastclip.prompts.scoring import Source
from fastclip.store.store import Store
from fastclip.text.prompt_sets import PromptSet
from fastclip.text.prototypes import TextRecipe
from fastclip.text.vectors import TextVectors, TowerName, keep_vectors

TOWER = TowerName(weights=RECIPE.weights, architecture=RECIPE.architecture)
TEXT_RECIPE = TextRecipe(libraries="drawn", machine="drawn", switches=(), numerics=1)
NOISE = 3.0
"""Of a template's texts, unless it is planted."""


def template(number: int) -> str:
    return f"style {number} of {{}}"


def candidates(*templates: str) -> Candidates:
    return Candidates(tuple(Candidate(PromptSet(each, (each,))) for each in templates))


def text_vector(text: str, label: int, noise: float) -> np.ndarray:
    """The class's middle, with noise of the text's own, as a unit vector."""
    seed = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
    raw = centre(label) + noise * np.random.default_rng(seed).normal(size=DIM)
    return (raw / np.linalg.norm(raw)).astype(np.float32)


def drawn_vectors(of: Candidates, source: Source, noises: Mapping[str, float]) -> TextVectors:
    """Vectors of all candidates' texts. `noises` are by a candidate's name."""
    found: dict[str, np.ndarray] = {}
    for each in of.each:
        for label, texts in enumerate(texts_of(each, source.target)):
            for text in texts:
                found.setdefault(text, text_vector(text, label, noises.get(each.name, NOISE)))
    return TextVectors({text: row for row, text in enumerate(found)}, np.stack([*found.values()]))


def source_of(sharded: Sharded, store: Path, domains: Sequence[str] = ()) -> Source:
    names = [f"{sharded.name}/{each}" for each in domains] or [sharded.name]
    (target,) = find_targets(str(sharded.shards), names)
    return Source(target, RECIPE, Store(store))


def letters(folder: Path, **layout: object) -> Source:
    """A dataset with drawn embeddings."""
    sharded = drawn(folder, **layout)
    fill(sharded, folder / "store")
    return source_of(sharded, folder / "store")


def keep(vectors: TextVectors, store: Path) -> None:
    """Publish vectors as a tower would have."""
    texts = [*vectors.rows]
    keep_vectors(store / "texts", TOWER, TEXT_RECIPE, texts, vectors.of(texts))
