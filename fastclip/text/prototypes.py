"""Prototypes: one unit text vector a class, computed once and kept under a digest of all that they depend on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from fastclip.errors import IncompleteError, IntegrityError
from fastclip.files import canonical_json, digest, patiently, write_new, write_whole
from fastclip.models.backbones import Backbone
from fastclip.models.tower import TextTower
from fastclip.models.weights import Weights
from fastclip.sealed import seal, unseal
from fastclip.text.prompts import PromptSet


def prototype_identity(
    backbone: Backbone, weights: Weights, numerics: str, prompts: PromptSet, classes: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """What the prototypes depend on. `classes` are (folder, readable name) pairs in label order.

    The architecture stands for the tokenizer, which open_clip, whose version `numerics` names, chooses by it.
    """
    return {
        "weights": weights.digest,
        "architecture": backbone.architecture,
        "numerics": numerics,
        "templates": list(prompts.templates),
        "classes": [list(names) for names in classes],
    }


def cached_prototypes(
    folder: Path, identity: dict[str, Any], compute: Callable[[], Float32[np.ndarray, "classes dim"]]
) -> Float32[np.ndarray, "classes dim"]:
    """The prototypes kept in `folder` under `identity`, or `compute()`, which is then kept.

    Where nothing can be kept, a full disk or somebody else's store, they are used all the same: a cache saves time and
    answers nothing by itself, and the embeddings there may be asked anything.
    """
    path = folder / f"{digest(canonical_json(identity))}.safetensors"
    keep: Callable[[Path, bytes], object] = write_new
    try:
        tensors, facts = unseal(patiently(path.read_bytes), str(path))
        if facts == identity:
            return tensors["prototypes"]
        keep = write_whole
    except (OSError, IntegrityError):
        if os.path.lexists(path):
            keep = write_whole  # what is damaged is made again
    prototypes = compute()
    with suppress(IncompleteError):
        keep(path, seal({"prototypes": prototypes}, identity))
    return prototypes


def compute_prototypes(
    tower: TextTower, prompts: PromptSet, classes: Sequence[tuple[str, str]], workers: int
) -> Float32[np.ndarray, "classes dim"]:
    """Mean of each class's unit prompt vectors, normalised again. `workers` threads; they change no bit."""
    texts = [prompt for folder, readable in classes for prompt in prompts.prompts(folder, readable)]
    vectors = tower(texts, workers)
    means: Tensor = vectors.view(len(classes), len(prompts.templates), -1).mean(dim=1)
    prototypes = (means / means.norm(dim=-1, keepdim=True)).numpy()
    if not np.isfinite(prototypes).all():
        bad = [classes[row][0] for row in np.flatnonzero(~np.isfinite(prototypes).all(axis=1)).tolist()]
        raise IntegrityError(
            f"The text tower gives no finite prototype for {', '.join(bad[:5])}.", fix="Check the weights file."
        )
    return prototypes
