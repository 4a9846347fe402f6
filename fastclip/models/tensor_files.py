"""Safetensors files of gigabytes: hashed while they are written, and read from the file that was hashed.

The library's own writer shuffles its metadata, lets nobody but the owner read the file, and tells of a full disk in an
error of its own; the file must then be read again to be hashed. Its reader opens the path anew, and maps it: somebody
who cuts the file short ends the process.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fastclip.files import MOST_HEADER_BYTES
from fastclip.proven import ProvenFile


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


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read from the file that was hashed when it is asked for."""

    def __init__(self, file: ProvenFile) -> None:
        """Read the header. Raises `ValueError` for one that is damaged, as the library does."""
        self.file = file
        self._places = _places(file)

    def __getitem__(self, name: str) -> Tensor:
        dtype, shape, begin = self._places[name]
        tensor = torch.empty(shape, dtype=dtype)
        self.file.read_into(_bytes_of(tensor), begin)
        return tensor

    def blank(self, name: str) -> Tensor:
        """A tensor of the same shape and precision without memory, on torch's device `meta`."""
        dtype, shape, _ = self._places[name]
        return torch.empty(shape, dtype=dtype, device="meta")

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _places(file: ProvenFile) -> dict[str, tuple[torch.dtype, list[int], int]]:
    """Precision, shape and first byte of each tensor. Tensors must fill the file, in some order and without overlap."""
    length = int.from_bytes(file.read(0, min(8, file.size)), "little")
    if not 0 < length <= min(MOST_HEADER_BYTES, file.size - 8):
        raise ValueError(f"its header would have {length:,} bytes")
    try:
        header = json.loads(bytes(file.read(8, length)), object_pairs_hook=_unique)
        found, spans = {}, []
        for name, facts in header.items():
            if name == "__metadata__":
                continue
            dtype, shape, (begin, end) = _TYPES[facts["dtype"]], facts["shape"], facts["data_offsets"]
            if set(map(type, [*shape, begin, end])) - {int} or min([*shape, begin]) < 0:
                raise ValueError(f"the place of {name} is impossible")
            if end - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} has {end - begin:,} bytes, which its shape {shape} does not need")
            found[name] = (dtype, shape, 8 + length + begin)
            spans.append((begin, end))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its header is malformed, {error!r}") from error
    ends = [0, *(end for _, end in sorted(spans))]
    if [begin for begin, _ in sorted(spans)] != ends[:-1] or ends[-1] != file.size - 8 - length:
        raise ValueError("its tensors overlap, or do not fill the file")
    return found


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor: its own memory if it is contiguous and on the CPU."""
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
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_KINDS = {kind: name for name, kind in _TYPES.items()}
"""Names of types in safetensors."""
