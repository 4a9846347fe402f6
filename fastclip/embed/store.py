"""The part store: one file per (shard, backbone), named by a digest of everything that can change its numbers.

A part that is there is done: no database, no log, no lock. It is published whole or not at all, and proves itself
when it is read.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fastclip.data.shards.manifest import Shard, Unreadable
from fastclip.errors import IncompleteError, IntegrityError
from fastclip.files import (
    canonical_json,
    digest,
    is_temporary,
    patiently,
    temporary_path,
    write_new,
    write_whole,
)
from fastclip.sealed import read_facts, seal, unseal

DAY_S = 86_400.0

_DAMAGES = (errno.EIO, errno.EISDIR, errno.ELOOP)
"""Errors of reading after which a part can only be made again: a bad sector, or no file at all."""


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
        # Marks that nobody can have written into a recipe.
        index, shard = (f'"{secrets.token_hex(16)}"' for _ in range(2))
        identity = canonical_json({**recipe, "index_sha256": index[1:-1], "shard_sha256": shard[1:-1]}).decode()
        self._before, _, rest = identity.partition(index)
        self._between, _, self._after = rest.partition(shard)

    def __call__(self, shard: Shard) -> str:
        index, tar = encode_basestring(shard.index_sha256), encode_basestring(shard.sha256)
        return digest(f"{self._before}{index}{self._between}{tar}{self._after}".encode())


class PartStore:
    """Parts in a folder that any number of processes on any number of machines may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = folder / "parts"
        self._known: set[str] | None = None

    def list(self) -> set[str]:
        """The keys of all parts that are there now, for planning; `has` asks again for one that is not among them."""
        self._known = set(self)
        return self._known

    def has(self, key: str) -> bool:
        """Whether a part is published under `key`. The first call lists the folder: asking for each takes longer.

        False where that cannot be known: a part that is made twice costs time and nothing else.
        """
        if self._known is None:
            self._known = set(self)
        # A string and no `Path`: a run with a million units asks several times for each.
        if key not in self._known and os.path.lexists(f"{self._parts}/{key[:2]}/{key}.safetensors"):
            self._known.add(key)
        return key in self._known

    def __iter__(self) -> Iterator[str]:
        """The key of every part."""
        for folder in _entries(self._parts):
            yield from (entry.name[:64] for entry in _entries(Path(folder)) if entry.name.endswith(".safetensors"))

    def facts(self, key: str) -> dict[str, Any] | None:
        """What the part under `key` says of itself, `identity` and `unreadable`, not verified; None if damaged."""
        try:
            return read_facts(self._path(key))
        except (OSError, IntegrityError):
            return None

    def prepare(self, parts: int, size: int, *, tidy: bool) -> None:
        """Prove that `parts` of `size` bytes together can be published, by publishing a file. For before the models.

        Raises `IncompleteError` with the path and what it needs. `tidy` also removes what processes left that died a
        day ago or earlier.
        """
        folder = self._parts
        there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
        room = os.statvfs(there)
        # Files take whole blocks, and the parts' folders a few of their own.
        needed, free = size + parts * 8192, room.f_bavail * room.f_frsize
        if room.f_blocks and free < needed:
            raise IncompleteError(
                f"{folder} has {free / 1e6:,.1f} MB free, the embeddings need {needed / 1e6:,.1f}.",
                fix="Free space there or choose another --store, then run the same command again.",
            )
        files = parts + min(parts, 256) + 20  # their folders, and what lies beside them
        if room.f_files and room.f_favail < files:
            raise IncompleteError(
                f"{folder} has room for {room.f_favail:,} more files, the embeddings need {files:,}.",
                fix="Remove files there or choose another --store, then run the same command again.",
            )
        probe = temporary_path(folder / "probe")  # so whoever dies here leaves nothing that stays
        try:
            write_new(probe, b"fastclip was here\n")
            now = probe.stat().st_mtime  # the file server's clock
        except OSError as error:
            raise _cannot_read(probe, error) from error
        finally:
            with suppress(OSError):
                probe.unlink()
        if tidy:
            self._tidy(now - DAY_S)

    def _tidy(self, before: float) -> None:
        """Remove temporary files that nobody has written to since `before`."""
        parts = [Path(entry) for entry in _entries(self._parts) if entry.is_dir(follow_symlinks=False)]
        for folder in [*(self.folder / name for name in ("parts", "prototypes", "batches", "given_up")), *parts]:
            for entry in _entries(folder):
                with suppress(OSError):
                    if is_temporary(entry.name) and entry.stat(follow_symlinks=False).st_mtime < before:
                        Path(entry).unlink()

    def batch_that_fits(self, identity: Mapping[str, Any]) -> int | None:
        """Images a batch that an earlier run found to fit; None if none had to find out."""
        try:
            return int(self._batch_path(identity).read_text())
        except (OSError, ValueError):
            return None

    def remember_batch(self, identity: Mapping[str, Any], images: int) -> None:
        """Keep for later runs and other processes how large a batch fits. Of several the smallest counts."""
        if (self.batch_that_fits(identity) or images) >= images:
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
        known = self._known is not None and key in self._known
        # What was listed is there, or was: on a network file system its name may come later, or be out of date.
        lost = (errno.ESTALE, errno.ENOENT) if known else (errno.ESTALE,)
        try:
            return patiently(lambda: _read(path, key), lost)
        except FileNotFoundError:
            if path.is_symlink():
                self._move_aside(path, key)
        except IntegrityError:
            self._move_aside(path, key)
        except OSError as error:
            if error.errno not in _DAMAGES:
                raise _cannot_read(path, error) from error
            self._move_aside(path, key)
        if self._known is not None:
            self._known.discard(key)
        return None

    def _move_aside(self, path: Path, key: str) -> None:
        """Make room for a part in the place of a damaged one, which is kept for whoever wants to know why."""
        aside = self.folder / "damaged" / path.name
        try:
            aside.parent.mkdir(exist_ok=True)
            path.replace(aside)
        except FileNotFoundError:
            return  # another process has
        except OSError as error:
            raise IntegrityError(
                f"{path} is damaged and cannot be moved aside: {error.strerror}.",
                fix="Delete it where the store can be written to, or choose another --store.",
            ) from error
        # Another process may have moved it aside before, and made it again: then this is the new one.
        with suppress(IntegrityError, OSError):
            _read(aside, key)
            os.link(aside, path)
            aside.unlink()

    def _path(self, key: str) -> Path:
        return self._parts / key[:2] / f"{key}.safetensors"


def _read(path: Path, key: str) -> Part:
    """The part in a file. Raises `IntegrityError` unless it is the one that `key` stands for, byte for byte."""
    tensors, facts = unseal(path.read_bytes(), str(path))
    try:
        if part_key(facts["identity"]) != key:
            raise ValueError("another part's key")
        unreadable = tuple(Unreadable(row, reason) for row, reason in facts["unreadable"])
        return Part(facts["identity"], tensors["embeddings"], unreadable)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path} holds something else: {error}.", fix="Delete it.") from error


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, at once, so that it can be asked again; nothing if there is none."""

    def entries() -> list[os.DirEntry[str]]:
        with os.scandir(folder) as found:
            return list(found)

    try:
        return patiently(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _cannot_read(folder, error) from error


def _cannot_read(path: Path, error: OSError) -> IncompleteError:
    return IncompleteError(
        f"Cannot read {path}: {error.strerror or error}.",
        fix="See that it can be read, then run the same command again.",
    )
