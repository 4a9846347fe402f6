"""Safetensors files of gigabytes: hashed while they are written, and mapped, not copied, when they are read.

The library's own writer shuffles its metadata, lets nobody but the owner read the file, and tells of a full disk in an
error of its own; the file must then be read again to be hashed.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write a safetensors file; its SHA-256. Equal tensors and metadata give equal bytes."""
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    state = hashlib.sha256()
    # A copy of one tensor at a time, where it is on a GPU.
    blocks: Iterator[bytes | memoryview] = map(_bytes_of, ordered.values())
    for block in chain([_header(ordered, metadata or {})], blocks):
        state.update(block)
        file.write(block)
    return state.hexdigest()


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file with this SHA-256, in the very memory that was hashed.

    It is mapped, and a tensor that is changed changes no file. Raises `ValueError` for another file.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{path.name} is not what was written")
    begin = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, facts in json.loads(data[8:begin]).items():
        if name != "__metadata__":
            first, last = facts["data_offsets"]
            flat = torch.zeros(0, dtype=_TYPES[facts["dtype"]])
            if last > first:
                count = (last - first) // flat.element_size()
                flat = torch.frombuffer(data, dtype=flat.dtype, count=count, offset=begin + first)
            tensors[name] = flat.reshape(facts["shape"])
    return tensors


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file: its length in eight bytes, then JSON, padded so that tensors are aligned."""
    header: dict[str, Any] = {"__metadata__": {**metadata, "format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_KINDS = {kind: name for name, kind in _TYPES.items()}
"""Names of types in safetensors."""
