"""Temporary folders that no end of the program leaves behind.

The owner of a folder holds a lock on it, which the system gives back however the owner ends. A folder whose lock is
free was left by a process that was killed; the next process that makes a folder removes it.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SUFFIX = ".tmp"

_YOUNG_S = 60.0
"""A folder may be so old and have no lock yet: two calls make the one and then the other."""

_folders: dict[Path, tuple[int, int]] = {}
"""Folders that were made and not removed → the process that made each, and the open folder that holds its lock."""


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A folder of this process below the system's temporary one, removed at the end of the block."""
    folder = make_temporary_folder(purpose)
    try:
        yield folder
    finally:
        _remove(folder)


def make_temporary_folder(purpose: str) -> Path:
    """A folder below the system's temporary one that stays until `remove_temporary_folders` or the process's end."""
    place = Path(tempfile.gettempdir())
    _remove_left_folders(place)
    folder = Path(tempfile.mkdtemp(_SUFFIX, f"fastclip-{purpose}-", place))
    _folders[folder] = os.getpid(), _locked(folder)
    return folder


def remove_temporary_folders() -> None:
    """Remove every folder that this process still has: it is about to end without the ends of its blocks."""
    for folder, (process, _) in list(_folders.items()):
        if process == os.getpid():  # a forked process has no folder of its own
            _remove(folder)


atexit.register(remove_temporary_folders)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        os.close(_folders.pop(folder, (0, -1))[1])


def _locked(folder: Path) -> int:
    """The descriptor of a folder with this process's lock on it; -1 if another has it, or nobody can."""
    handle = -1
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle
    with suppress(OSError):
        os.close(handle)
    return -1


def _remove_left_folders(place: Path) -> None:
    for folder in place.glob(f"fastclip-*{_SUFFIX}"):
        with suppress(OSError):
            facts = folder.lstat()
            ours = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid()
            if ours and folder not in _folders and facts.st_mtime < time.time() - _YOUNG_S:
                _remove_left(folder)


def _remove_left(folder: Path) -> None:
    handle = _locked(folder)
    if handle >= 0:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
