"""Weights that say how they were fine-tuned: safetensors files with a record in their metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fastclip.errors import IntegrityError
from fastclip.files import canonical_json, digest_file, replace_file
from fastclip.store.training import Training, parse_training

if TYPE_CHECKING:
    from torch import Tensor

MOST_HEADER_BYTES = 100_000_000
"""The limit of safetensors."""


def write_weights(path: Path, tensors: Mapping[str, Tensor], training: Training) -> str:
    """Publish a weights file; its SHA-256. Equal tensors and facts give equal bytes."""
    from safetensors.torch import save

    text = canonical_json({"training": training.to_document()}).decode()
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"fastclip": text})
    replace_file(path, lambda file: file.write(data))
    return digest_file(path)


def read_training(path: Path) -> Training | None:
    """How the weights in a file were fine-tuned; None where it does not say so."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            text = json.loads(file.read(min(length, MOST_HEADER_BYTES)))["__metadata__"]["fastclip"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
    try:
        return parse_training(json.loads(text)["training"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path} is damaged: {error}.", fix="Copy the file again.") from error
