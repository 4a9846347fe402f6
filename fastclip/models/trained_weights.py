"""Weights files that say how they were fine-tuned: plain safetensors, which other programs read as any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastclip.errors import IntegrityError
from fastclip.files import canonical_json, digest_open_file, publish, write_temporary
from fastclip.store.training import Training, parse_training

if TYPE_CHECKING:
    from torch import Tensor

ENTRY = "fastclip"
"""The name of the facts in the metadata."""

_MOST_HEADER_BYTES = 100_000_000
"""The limit of safetensors."""


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


def read_training(path: Path) -> Training | None:
    """How the weights in a file were fine-tuned, from its header alone; None for any other file, damaged ones too.

    Raises `IntegrityError` for a record that is malformed.
    """
    with path.open("rb", buffering=0) as file:
        return _training(file, path)


def identify(path: Path) -> tuple[str, Training | None]:
    """The SHA-256 of a weights file and how it was fine-tuned: of the same bytes, even if another takes its name."""
    with path.open("rb", buffering=0) as file:
        training = _training(file, path)
        file.seek(0)
        return digest_open_file(file), training


def _training(file: BinaryIO, path: Path) -> Training | None:
    length = int.from_bytes(file.read(8), "little")
    if length > _MOST_HEADER_BYTES:
        return None
    try:
        text = json.loads(file.read(length))["__metadata__"][ENTRY]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    try:
        facts = json.loads(text)
        if not isinstance(facts, dict):
            raise TypeError("it is no object")
        return parse_training(facts["training"]) if "training" in facts else None
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"{path} carries a damaged record of its training: {error}.", fix="Copy the file again, or train again."
        ) from None
