"""The part store: one file per (shard, backbone), named by a digest of everything that can change its numbers.

A part that is there is done: no database, no log, no lock. It is published whole or not at all, and proves itself
when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fastclip.data.shards.manifest import Shard
from fastclip.errors import IntegrityError
from fastclip.files import canonical_json, digest, write_new
from fastclip.pixels.decoder import Unreadable
from fastclip.sealed import seal, unseal


@dataclass(frozen=True)
class Part:
    """The embeddings of one shard by one backbone, rows in the order of the index, zero where unreadable."""

    identity: Mapping[str, Any]
    embeddings: Float[np.ndarray, "images dim"]
    unreadable: tuple[Unreadable, ...]


def part_identity(recipe: Mapping[str, Any], shard: Shard) -> dict[str, Any]:
    """Everything that can change a part's numbers: how images are embedded, and which images."""
    return {**recipe, "shard_sha256": shard.sha256, "index_sha256": shard.index_sha256}


def part_key(identity: Mapping[str, Any]) -> str:
    """The name of a part: SHA-256 of its identity."""
    return digest(canonical_json(identity))


class PartStore:
    """Parts in a folder that any number of processes on any number of machines may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, key: str) -> bool:
        """Whether a part is published under `key`."""
        return self._path(key).is_file()

    def publish(self, part: Part) -> None:
        """Publish a part. Another process may have: equal bytes are fine, others raise `IntegrityError`."""
        facts = {"identity": part.identity, "unreadable": [list(row) for row in part.unreadable]}
        write_new(self._path(part_key(part.identity)), seal({"embeddings": part.embeddings}, facts))

    def read(self, key: str) -> Part | None:
        """The part under `key`, verified; None if there is none or if it was damaged, and is now moved aside."""
        path = self._path(key)
        try:
            tensors, facts = unseal(path.read_bytes(), str(path))
            if part_key(facts["identity"]) != key:
                raise IntegrityError(f"{path} holds another part.", fix="Delete it.")
        except FileNotFoundError:
            return None
        except IntegrityError:
            quarantine = self.folder / "damaged" / path.name
            quarantine.parent.mkdir(exist_ok=True)
            path.replace(quarantine)
            return None
        unreadable = tuple(Unreadable(row, reason) for row, reason in facts["unreadable"])
        return Part(facts["identity"], tensors["embeddings"], unreadable)

    def _path(self, key: str) -> Path:
        return self.folder / "parts" / key[:2] / f"{key}.safetensors"
