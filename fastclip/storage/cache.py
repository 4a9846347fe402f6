"""The cache of remote files: named by SHA-256, checked whenever one is opened, bounded, shared by processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from fastclip.errors import IncompleteError, IntegrityError, UserError
from fastclip.files import publish, write_temporary
from fastclip.proven import ProvenFile

YOUNG_S = 600.0
"""Files that some process used in the last ten minutes stay."""

ABANDONED_S = 3600.0
"""A temporary file that was not written to for an hour belongs to a dead process."""

JUST_USED = 4
"""A process keeps the last four files that it gave out: the next run is likely to ask for them."""

_ROUNDS = 3
"""Another process may remove a file between its arrival and its opening."""


class Cache:
    """Files in a folder that many processes may use at once, without locks.

    When it is full, the files of other runs go first, the longest unused before the others. The files of this run go
    last, the newest first: a dataset that does not fit then keeps its first shards for the next run. If the oldest
    went first, the next run would find none that it needs soon.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._used: dict[Path, None] = {}
        """The files that this process gave out, oldest first."""
        self._unseen = 0
        """Bytes that may be added before the folder is looked through again."""
        self._lock = threading.Lock()

    def open(self, sha256: str, size: int | None, write: Callable[[BinaryIO], object]) -> ProvenFile:
        """The file with these bytes. Where it is not there, `write` writes it; it must give these bytes.

        A file whose bytes have changed since is removed. Two processes may add one file; neither waits.
        """
        path = self._path(sha256)
        for _ in range(_ROUNDS):
            with suppress(FileNotFoundError, NotADirectoryError):
                try:
                    found = ProvenFile(path, _differs, size=size, sha256=sha256, ours=True)
                except IntegrityError:
                    path.unlink()
                else:
                    self._use(path)
                    return found
            temporary = write_temporary(path, write)
            self._make_room(temporary.stat())
            publish(temporary, path)
            self._use(path)
        raise IncompleteError(
            f"{path} is removed again and again before it can be read.", fix="export FASTCLIP_CACHE=DIR, another folder"
        )

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _use(self, path: Path) -> None:
        with self._lock:
            self._used.pop(path, None)
            self._used[path] = None
        with suppress(OSError):  # another user's folder, or another process removed the file
            os.utime(path)

    def _make_room(self, new: os.stat_result) -> None:
        """Remove files until the `new` one fits. It was written just now, which is told by the file server's clock."""
        with self._lock:
            # Looking through 50 GB of small files takes seconds, so it is done once for every twentieth of the bound.
            self._unseen -= new.st_size
            if self._unseen >= 0:
                return
            ahead = self.limit_bytes // 20
            self._unseen = ahead
            entries = _entries(self.folder)  # with the file that is being added
            excess = sum(facts.st_size for facts in entries.values()) + ahead - self.limit_bytes
            for path in self._removable(entries, new.st_mtime):
                if excess <= 0:
                    break
                with suppress(FileNotFoundError):
                    if path in self._used or path.stat().st_mtime == entries[path].st_mtime:  # else used just now
                        path.unlink()
                        excess -= entries[path].st_size
                self._used.pop(path, None)

    def _removable(self, entries: Mapping[Path, os.stat_result], now: float) -> list[Path]:
        """The files that may be removed, in the order in which they should be."""
        others = [path for path, facts in entries.items() if path not in self._used and _is_old(path, facts, now)]
        others.sort(key=lambda path: entries[path].st_mtime)
        ours = [path for path in list(self._used)[:-JUST_USED] if path in entries]
        return [*others, *reversed(ours)]


def _differs(how: str) -> IntegrityError:
    return IntegrityError(f"A file of the cache is not the one it is called after: {how}.", fix="Run it again.")


def _entries(folder: Path) -> dict[Path, os.stat_result]:
    """All files, also those that are being written. A file's time of change is that of its last use."""
    found = {}
    for path in folder.glob("*/*"):
        with suppress(FileNotFoundError):  # another process makes room as well
            found[path] = path.stat()
    return found


def _is_old(path: Path, facts: os.stat_result, now: float) -> bool:
    return now - facts.st_mtime > (ABANDONED_S if path.name.startswith(".") else YOUNG_S)


def shard_cache() -> Cache:
    """The cache in $FASTCLIP_CACHE (~/.cache/fastclip/shards) of at most $FASTCLIP_CACHE_GB (50) gigabytes."""
    folder = Path(os.environ.get("FASTCLIP_CACHE") or "~/.cache/fastclip/shards").expanduser()
    return _cache(folder.absolute(), int(number_from_environment("FASTCLIP_CACHE_GB", 50.0) * 1e9))


def number_from_environment(name: str, default: float) -> float:
    """The number in an environment variable. Raises `UserError` for anything but a number of at least zero."""
    text = os.environ.get(name) or str(default)
    try:
        number = float(text)
        if not 0 <= number < float("inf"):
            raise ValueError
    except ValueError:
        raise UserError(f"${name} must be a number, not {text!r}.", fix=f"export {name}={default:g}") from None
    return number


@cache  # one per process: it remembers which files this run used
def _cache(folder: Path, limit_bytes: int) -> Cache:
    return Cache(folder, limit_bytes)
