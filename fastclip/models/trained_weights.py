"""Weights files that say how they were fine-tuned: plain safetensors, which other programs read as any."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

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

    Equal tensors and facts give equal bytes. The library's own writer shuffles its metadata, lets nobody but the owner
    read the file, and leaves one under a name that nobody knows if it is killed. So tensors are written one by one.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    state = hashlib.sha256()

    def write(file: BinaryIO) -> None:
        blocks: Iterator[bytes | memoryview] = map(_bytes_of, ordered.values())
        for block in chain([_header(ordered, training)], blocks):
            state.update(block)
            file.write(block)

    publish(write_temporary(path, write), path)
    return state.hexdigest()


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


def _header(tensors: Mapping[str, Tensor], training: Training) -> bytes:
    """The header of a safetensors file: its length in eight bytes, then JSON, padded so that tensors are aligned."""
    facts = canonical_json({"training": training.to_document()}).decode()
    header: dict[str, Any] = {"__metadata__": {ENTRY: facts, "format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        kind = _KINDS[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: Tensor) -> memoryview:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


_KINDS = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Names of types in safetensors."""
