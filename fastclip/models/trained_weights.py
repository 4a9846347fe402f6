"""Weights files that say how they were fine-tuned: plain safetensors, which other programs read as any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fastclip.errors import IntegrityError
from fastclip.files import MOST_HEADER_BYTES, canonical_json, publish, write_temporary
from fastclip.proven import ProvenFile
from fastclip.store.training import Training, parse_training

if TYPE_CHECKING:
    from torch import Tensor

ENTRY = "fastclip"
"""The name of the facts in the metadata."""


def write_weights(path: Path, tensors: Mapping[str, Tensor], training: Training) -> str:
    """Publish a weights file, in place of any that was there. Returns its SHA-256.

    Equal tensors and facts give equal bytes.
    """
    from fastclip.models.tensor_files import write_tensors

    metadata = {ENTRY: canonical_json({"training": training.to_document()}).decode()}
    written: list[str] = []
    temporary = write_temporary(path, lambda file: written.append(write_tensors(file, tensors, metadata)))
    publish(temporary, path)
    return written[0]


def read_training(file: ProvenFile) -> Training | None:
    """How the weights in a file were fine-tuned, from its header alone; None for any other file, damaged ones too.

    Raises `IntegrityError` for a record that is malformed.
    """
    length = int.from_bytes(file.read(0, min(8, file.size)), "little")
    if length > min(MOST_HEADER_BYTES, file.size - 8):
        return None
    try:
        text = json.loads(bytes(file.read(8, length)))["__metadata__"][ENTRY]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    try:
        facts = json.loads(text)
        if not isinstance(facts, dict):
            raise TypeError("it is no object")
        return parse_training(facts["training"]) if "training" in facts else None
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"{file.path} carries a damaged record of its training: {error}.",
            fix="Copy the file again, or train again.",
        ) from None
