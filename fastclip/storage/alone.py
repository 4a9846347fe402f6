"""One writer of a folder at a time: a lock of the kernel's, and a note for the machines that the kernel does not know.

    .writing.MACHINE-PROCESS-START.json    written again every 20 seconds, removed when its writer ends

Nothing blocks for long. The kernel releases the lock of a process that dies. The note of a dead process of this machine
counts for nothing, and one of another machine for a minute after it was written.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fastclip.errors import FastclipError, IncompleteError, printable
from fastclip.machine import started, this_machine
from fastclip.storage.local import Folder, LocalFolder

BEAT_S = 20.0
"""Seconds between the signs of life of a writer."""

SILENT_S = 60.0
"""Seconds after its last sign of life in which a writer on another machine is taken for a living one."""

_NOTE = re.compile(r"\.writing\.([0-9a-f]{12})-([0-9]{1,9})-([0-9]+)\.json")


class Alone:
    """The note of the one process that writes a folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        process, self._machine = os.getpid(), this_machine()
        self._note = f".writing.{self._machine}-{process}-{started(process) or 0}.json"
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._facts = json.dumps({"host": platform.node(), "process": process, "since": since}).encode()
        self._ended = threading.Event()
        self._writing = threading.Lock()

    def begin(self) -> None:
        """Leave the note and look for those of others. Raises `IncompleteError` if one of them is alive."""
        self._folder.write(self._note, self._facts)
        now_s = self._folder.modified_s(self._note)
        for name in self._folder.list(".writing.*.json"):
            if name == self._note or not _NOTE.fullmatch(name):
                continue
            if self._lives(name, now_s):
                raise _written_by_another(self._folder, name)
            self._folder.remove(name)
        threading.Thread(target=self._beat, name="writing", daemon=True).start()

    def check(self) -> None:
        """Raise `IncompleteError` if others took this process for dead: it was frozen, or cut off, for a minute."""
        if not self._folder.exists(self._note):
            raise _written_by_another(self._folder)

    def end(self) -> None:
        """Remove the note."""
        self._ended.set()
        with self._writing, suppress(FastclipError, OSError):  # it counts for nothing when this process is gone
            self._folder.remove(self._note)

    def _lives(self, name: str, now_s: float | None) -> bool:
        if name.startswith(f".writing.{self._machine}-"):
            return _lives_here(name)
        written_s = self._folder.modified_s(name)
        return written_s is not None and now_s is not None and now_s - written_s < SILENT_S

    def _beat(self) -> None:
        """Write the note again and again, as long as nobody has removed it."""
        while not self._ended.wait(BEAT_S):
            with self._writing, suppress(FastclipError, OSError):
                if self._ended.is_set() or not self._folder.exists(self._note):
                    return
                self._folder.write(self._note, self._facts)


@contextmanager
def alone_in(folder: Folder) -> Iterator[Alone]:
    """Keep other processes from writing `folder`. Raises `IncompleteError` at once if one does."""
    with ExitStack() as last:
        if isinstance(folder, LocalFolder):
            last.callback(_remove_empty, [path for path in (folder.path, *folder.path.parents) if not path.exists()])
            folder.staging()
            if not last.enter_context(locked(folder.path)):
                raise _written_by_another(folder, *filter(_lives_here, folder.list(".writing.*.json")))
        alone = Alone(folder)
        last.callback(alone.end)
        alone.begin()
        yield alone


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether this process has `folder` for itself. The kernel releases the lock when it dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        free = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:  # a network file system that cannot lock folders: go on without, as curl does
            pass
        yield free
    finally:
        os.close(handle)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that were made for nothing, the inner ones first."""
    for path in folders:
        with suppress(OSError):
            path.rmdir()


def _lives_here(note: str) -> bool:
    """Whether a note is of a process that lives, if it is of this machine."""
    found = _NOTE.fullmatch(note)
    return found is not None and (started(int(found[2])) or "0") == found[3]


def _written_by_another(folder: Folder, *notes: str) -> IncompleteError:
    """The error for a folder that another process writes, with what its note says."""
    which = ""
    for note in notes:
        with suppress(OSError, FastclipError, ValueError, KeyError, TypeError):
            facts = json.loads(folder.read(note))
            which = printable(f" (process {facts['process']} on {facts['host']}, since {facts['since']})")
    return IncompleteError(
        f"Another process is writing {folder}{which}.", fix="Wait for it to end, or choose another --out."
    )
