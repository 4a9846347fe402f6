"""Recipes: everything that can move a bit of an embedding, as the name of a set of embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from fastclip.files import canonical_json, digest
from fastclip.store.training import Training, parse_training

FORMAT = "fastclip.recipe/1"

PRECISIONS = ("fp32", "fp16", "bf16")
"""Nearest to the reference first: the order in which a reader prefers complete recipes."""

DECODERS = ("torchvision", "dali")
"""Nearest to Pillow first (0.004 and 0.17 grey levels on average)."""

WITHDRAWN_NUMERICS: frozenset[int] = frozenset()
"""Numerics versions that turned out to be wrong. Their embeddings stay in a store and are never chosen."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The way from pixels to a tower's input. `side` in pixels, `mean` and `std` of RGB in 0–1."""

    resize: str
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How embeddings were made. Two recipes are the same if and only if their digests are."""

    backbone: str
    architecture: str
    weights: str
    """SHA-256 of the weights file; for random weights the way in which they were drawn."""
    preprocessing: Preprocessing
    decoder: str
    """Name and versions, such as `torchvision 0.29.2, pillow 12.3.0`."""
    precision: str
    batch_size: int
    engine: str
    """`eager`, or the compiler's name."""
    libraries: str
    machine: str
    """The processor as far as libraries look at it: `cpu AVX512 …` or `cuda 13.0 …`."""
    switches: tuple[str, ...]
    """Environment variables by which libraries choose other kernels, as NAME=VALUE."""
    numerics: int
    """The version of fastclip's own arithmetic: `fastclip.models.numerics.NUMERICS_VERSION`."""
    training: Training | None = None
    """How the weights were fine-tuned, if they were: their file says so."""

    @cached_property
    def id(self) -> str:
        """SHA-256 of the recipe as 64 hexadecimal digits: the name of its folder in a store."""
        return digest(canonical_json(self.to_document()))

    @property
    def random_weights(self) -> bool:
        """Whether no accuracy from these embeddings means anything."""
        return re.fullmatch("[0-9a-f]{64}", self.weights) is None

    @property
    def withdrawn(self) -> bool:
        """Whether its numerics turned out to be wrong, so that it is never read."""
        return self.numerics in WITHDRAWN_NUMERICS

    @property
    def activation(self) -> str:
        """The activation that the weights are run with, which no tensor of theirs tells: QuickGELU or GELU."""
        if self.architecture.endswith("-quickgelu") or self.architecture == "fastclip-tiny":
            return "QuickGELU"
        return "GELU" if self.architecture.startswith(("RN", "ViT-")) else f"that of {self.architecture}"

    @property
    def compiled(self) -> bool:
        """Whether the image tower went through a compiler."""
        return self.engine != "eager"

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self.machine.split()[0]

    @property
    def how(self) -> str:
        """Precision, decoder and batch size in a few words."""
        compiled = ", compiled" if self.compiled else ""
        return f"{self.precision}{compiled}, decoded by {self.decoder.split(',')[0]}, batches of {self.batch_size}"

    @property
    def preference(self) -> tuple[int, int, int, str]:
        """The place of this recipe in the order of readers, smallest first. No clock and no machine play a part."""
        return (
            _place(self.precision, PRECISIONS),
            _place(self.decoder.split(" ")[0], DECODERS),
            -self.numerics,
            self.id,
        )

    def to_document(self) -> dict[str, Any]:
        """The recipe as JSON has it."""
        document = {"format": FORMAT, **asdict(self)}
        del document["training"]
        # Without the entry, recipes of weights that were not fine-tuned keep the names that they have had.
        return document | ({"training": self.training.to_document()} if self.training else {})


def parse_recipe(document: Any) -> Recipe:
    """The recipe in a JSON document. Raises `ValueError` for anything that is none."""
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise ValueError("it is no recipe that this version of fastclip knows")
    values = {name: value for name, value in document.items() if name != "format"}
    try:
        way = dict(values.pop("preprocessing"))
        preprocessing = Preprocessing(**{**way, "mean": tuple(way["mean"]), "std": tuple(way["std"])})
        training = parse_training(values.pop("training")) if "training" in values else None
        values["switches"] = tuple(values["switches"])
        recipe = Recipe(**values, preprocessing=preprocessing, training=training)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its fields are others: {error}") from None
    for field in fields(Recipe):
        wanted = {"str": str, "int": int}.get(str(field.type))
        if wanted and type(getattr(recipe, field.name)) is not wanted:
            raise ValueError(f"its {field.name} is no {field.type}")
    return recipe


def differences(there: Recipe, here: Recipe) -> list[str]:
    """How two recipes differ, a phrase a field."""
    lines = []
    for field in fields(Recipe):
        old, new = getattr(there, field.name), getattr(here, field.name)
        if old == new:
            continue
        if field.name == "switches":
            lines += [_switch(name, dict(s.split("=", 1) for s in old), dict(s.split("=", 1) for s in new))
                      for name in sorted({s.split("=")[0] for s in set(old) ^ set(new)})]  # fmt: skip
        elif field.name == "training":
            lines.append(f"fine-tuning differs: {fine_tuning(there)} there, {fine_tuning(here)} here")
        elif field.name == "weights":
            lines.append(f"weights differ: {old[:12]} there, {new[:12]} here")
        else:
            lines.append(f"{field.name.replace('_', ' ')} differs: {old} there, {new} here")
    return lines


def fine_tuning(recipe: Recipe) -> str:
    """`ce on new/outline, epoch 3`, or `none`."""
    return recipe.training.summary if recipe.training else "none"


def _switch(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    def say(settings: Mapping[str, str]) -> str:
        return f"was {settings[name]}" if name in settings else "was unset"

    return f"{name} {say(old)} there, {say(new).replace('was', 'is')} here"


def _place(name: str, order: tuple[str, ...]) -> int:
    return order.index(name) if name in order else len(order)
