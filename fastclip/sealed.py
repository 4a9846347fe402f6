"""Safetensors files that carry their own digest: reading notices every flipped, missing or added byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fastclip.errors import IntegrityError
from fastclip.files import MOST_HEADER_BYTES, canonical_json, check_is_file, digest

_NO_DIGEST = "0" * 64


def seal(tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> bytes:
    """A safetensors file of `tensors` whose metadata holds `facts` (JSON) and the SHA-256 of the file.

    The digest is computed with zeros in its own place. All metadata is one entry: safetensors writes several of them in
    random order.
    """
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    text = canonical_json({"digest": _NO_DIGEST, "facts": facts}).decode()
    data = save(tensors, metadata={"fastclip": text})
    return data.replace(_NO_DIGEST.encode(), digest(data).encode(), 1)


def unseal(data: bytes, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors and facts of a sealed file. Raises `IntegrityError`, which names it `name`, if it is damaged."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        sealed = json.loads(header["__metadata__"]["fastclip"])
        if digest(data.replace(sealed["digest"].encode(), _NO_DIGEST.encode(), 1)) != sealed["digest"]:
            raise ValueError("its digest does not match its bytes")
        return load(data), sealed["facts"]
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError, RecursionError) as error:
        raise IntegrityError(f"{name} is damaged: {error}.", fix="Delete it; the next run makes it again.") from error


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a sealed file, read from its header alone and not verified."""
    with check_is_file(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, MOST_HEADER_BYTES)))
            facts: dict[str, Any] = json.loads(header["__metadata__"]["fastclip"])["facts"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise IntegrityError(
                f"{path} is damaged: {error}.", fix="Delete it; the next run makes it again."
            ) from error
    return facts
