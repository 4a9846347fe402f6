"""Stores with drawn embeddings: a pure function of each image's digest, so that shards can be written as one likes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from helpers import Sharded, image_bytes, recipe, shard, write

from fastclip.data.shards.manifest import Unreadable
from fastclip.data.shards.reader import read_index
from fastclip.data.shards.targets import find_targets
from fastclip.store.parts import Part, part_name
from fastclip.store.recipes import Recipe
from fastclip.store.store import Store
from fastclip.text.prompts import find_prompt_set
from fastclip.text.prototypes import Question, TextRecipe, keep_prototypes

DIM = 24
RECIPE = replace(recipe(), backbone="tiny", weights="ab" * 32)


def centre(label: int) -> np.ndarray:
    """The middle of a class."""
    return np.random.default_rng(1000 + label).normal(size=DIM)


def vector(sha256: str, label: int, domain: str) -> np.ndarray:
    """The embedding of an image: its class's middle, its domain's, and noise of its own, before it gets length 1."""
    seed = int(hashlib.sha256(f"{sha256}{domain}".encode()).hexdigest()[:12], 16)
    shift = np.random.default_rng(len(domain) + 7).normal(size=DIM)
    return centre(label) + 0.8 * shift + 1.5 * np.random.default_rng(seed).normal(size=DIM)


def fill(
    sharded: Sharded,
    folder: Path,
    *,
    of: Recipe = RECIPE,
    unreadable: Collection[str] = (),
    shards: slice = slice(None),
) -> Store:
    """A store with the embeddings of a dataset under a recipe, and prototypes. Keys in `unreadable` have none."""
    store = Store(folder)
    (target,) = find_targets(str(sharded.shards), [sharded.name])
    for each in list(target.shards)[shards]:
        records = read_index(target.folder, each)
        raw = np.stack([vector(record.sha256, record.label, each.domain) for record in records])
        norms = np.linalg.norm(raw, axis=1)
        rows = [row for row, record in enumerate(records) if record.key in unreadable]
        raw[rows], norms[rows] = 0, 1
        embeddings = (raw / norms[:, None]).astype(np.float16)
        norms[rows] = 0
        missing = tuple(Unreadable(row, "it was cut") for row in rows)
        store.publish(of, part_name(each), Part(embeddings, norms.astype(np.float32), missing))
    store.publish_recipe(of)
    prompts = find_prompt_set("transferlearning")
    classes = prompts.classes(target.manifest.classes, target.manifest.names)
    question = Question(
        weights=of.weights, architecture=of.architecture, templates=prompts.templates, classes=tuple(classes)
    )
    texts = np.stack([centre(label) + np.random.default_rng(label).normal(size=DIM) for label in range(len(classes))])
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    made_by = TextRecipe(libraries="drawn", machine="drawn", switches=(), numerics=1)
    keep_prototypes(folder / "prototypes", question, made_by, texts.astype(np.float32))
    return store


def draw_dataset(
    folder: Path, name: str = "letters", *, domains: str = "photo sketch night", per_class: int = 12, classes: int = 3
) -> Path:
    """A source of tiny images, every one with bytes of its own."""
    files = {}
    for place, domain in enumerate(domains.split()):
        for label in range(classes):
            for number in range(per_class):
                color = 1 + number + per_class * (label + classes * place)
                files[f"{domain}/{['apple', 'bread', 'cup', 'door'][label]}/{number:03d}.png"] = image_bytes(
                    size=(5, 7 + color // 250), color=color % 250
                )
    return write(folder / name, files)


def drawn(folder: Path, name: str = "letters", *, shard_images: int = 10, **layout: object) -> Sharded:
    """A sharded dataset of tiny images in three domains and three classes."""
    source = draw_dataset(folder / "source", name, **layout)  # type: ignore[arg-type]
    return shard(source, folder / "shards", name, shard_images=shard_images, layout="domain/class")
