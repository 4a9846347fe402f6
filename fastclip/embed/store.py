"""The part store: one file per (shard, backbone), named by a digest of everything that can change its numbers.

A part that is there is done: no database, no log, no lock. It is published whole or not at all, and proves itself
when it is read.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fastclip.data.shards.manifest import Shard
from fastclip.errors import IncompleteError, IntegrityError
from fastclip.files import canonical_json, digest, write_new, write_whole
from fastclip.pixels.decoder import Unreadable
from fastclip.sealed import read_facts, seal, unseal

DAY_S = 86_400.0


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


class PartKeys:
    """The keys of all parts of one recipe: `part_key(part_identity(recipe, shard))`, without spelling it out each time.

    A million shards take seconds instead of half a minute.
    """

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        fields = {"shard_sha256": "<shard>", "index_sha256": "<index>"}
        self._text = canonical_json({**recipe, **fields}).decode()

    def __call__(self, shard: Shard) -> str:
        return digest(self._text.replace("<shard>", shard.sha256).replace("<index>", shard.index_sha256).encode())


class PartStore:
    """Parts in a folder that any number of processes on any number of machines may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: set[str] | None = None

    def has(self, key: str) -> bool:
        """Whether a part is published under `key`. The first call lists the folder: asking for each takes longer."""
        if self._known is None:
            self._known = set(self.keys())
        if key not in self._known and self._path(key).is_file():
            self._known.add(key)
        return key in self._known

    def keys(self) -> Iterator[str]:
        """The key of every part."""
        for folder in _entries(self.folder / "parts"):
            yield from (entry.name[:64] for entry in _entries(folder) if entry.name.endswith(".safetensors"))

    def identity(self, key: str) -> dict[str, Any] | None:
        """What the part under `key` says that it was made from, not verified; None for a file that says nothing."""
        try:
            facts: dict[str, Any] = read_facts(self._path(key))["identity"]
        except (OSError, IntegrityError, KeyError):
            return None
        return facts

    def prepare(self, parts: int, size: int, *, tidy: bool) -> None:
        """Prove that `parts` of `size` bytes together can be published, by publishing a file. For before the models.

        Raises `IncompleteError` with the path and what it needs. `tidy` also removes what processes left that died a
        day ago or earlier.
        """
        folder = self.folder / "parts"
        probe = folder / f"probe-{secrets.token_hex(8)}"
        write_new(probe, b"fastclip was here\n")
        now = probe.stat().st_mtime  # the file server's clock
        probe.unlink(missing_ok=True)
        room = os.statvfs(folder)
        # Files take whole blocks, and the parts' folders a few of their own.
        needed, free = size + parts * 8192, room.f_bavail * room.f_frsize
        if free < needed:
            raise IncompleteError(
                f"{folder} has {free / 1e6:,.1f} MB free, the embeddings need {needed / 1e6:,.1f}.",
                fix="Free space there or choose another --store, then run the same command again.",
            )
        if room.f_files and room.f_favail < parts + 300:
            raise IncompleteError(
                f"{folder} has room for {room.f_favail:,} more files, the embeddings are {parts:,}.",
                fix="Remove files there or choose another --store, then run the same command again.",
            )
        if tidy:
            for temporary in folder.rglob(".*.tmp"):
                with suppress(OSError):
                    if temporary.stat().st_mtime < now - DAY_S:
                        temporary.unlink()

    def batch_that_fits(self, identity: Mapping[str, Any]) -> int | None:
        """Images a batch that an earlier run found to fit; None if none had to find out."""
        try:
            return int(self._batch_path(identity).read_text())
        except (OSError, ValueError):
            return None

    def remember_batch(self, identity: Mapping[str, Any], images: int) -> None:
        """Keep for later runs how large a batch fits."""
        write_whole(self._batch_path(identity), f"{images}\n".encode())

    def _batch_path(self, identity: Mapping[str, Any]) -> Path:
        return self.folder / "batches" / digest(canonical_json(identity))

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
            self._move_aside(path)
            return None
        unreadable = tuple(Unreadable(row, reason) for row, reason in facts["unreadable"])
        return Part(facts["identity"], tensors["embeddings"], unreadable)

    def _move_aside(self, path: Path) -> None:
        """Make room for a part in the place of a damaged one, which is kept for whoever wants to know why."""
        aside = self.folder / "damaged" / path.name
        try:
            aside.parent.mkdir(exist_ok=True)
            path.replace(aside)
        except FileNotFoundError:
            pass  # another process has
        except OSError as error:
            raise IntegrityError(
                f"{path} is damaged and cannot be moved aside: {error.strerror}.", fix="Delete it, or --store DIR."
            ) from error
        if self._known is not None:
            self._known.discard(path.name[:64])

    def _path(self, key: str) -> Path:
        return self.folder / "parts" / key[:2] / f"{key}.safetensors"


def _entries(folder: str | Path | os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        yield from entries
