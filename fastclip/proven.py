"""Open files whose bytes have a digest: what was hashed is what is read, whatever happens to the path meanwhile.

Nothing is mapped: a file that is cut short under a map ends the process.
"""

from __future__ import annotations

import os
import stat
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fastclip.errors import IntegrityError
from fastclip.faults import named, steadily
from fastclip.files import digest, digest_descriptor, read_file

Differs = Callable[[str], IntegrityError]
"""The error for a file that is not the wanted one. Its argument says how it differs."""

_MOST_BYTES = 1 << 30
"""Linux reads at most 2 GiB at once."""


class Proof(NamedTuple):
    """A file as it was when it was hashed: where, its digest and its stamp, none if that could miss a change."""

    path: Path
    sha256: str
    stamp: _Stamp | None


class ProvenFile:
    """A file that was hashed when it was opened. Reading goes to that very file, from any thread.

    It can be pickled; the process that gets it opens and hashes the path again, and refuses other bytes.

    `fd` is the descriptor, for libraries that read themselves; `check_unchanged` must follow. It is closed when nobody
    has this object any more.
    """

    fd: int

    def __init__(
        self,
        path: Path,
        differs: Differs,
        *,
        size: int | None = None,
        sha256: str | None = None,
        ours: bool = False,
    ) -> None:
        """Open and hash the file at `path`. Raises `differs` unless it has this size and digest, where they are given.

        Of a file of `ours`, such as those of the cache, nobody changes the bytes; its times show when it was used.

        Raises `FileNotFoundError` without a file, and `MachineError` for one that cannot be read.
        """
        self.path, self._differs, self._ours = path, differs, ours
        self._open()
        if size not in (None, self.size):
            raise differs(f"it has {self.size:,} bytes, and should have {size:,}")
        self.sha256 = self._hash()
        if sha256 not in (None, self.sha256):
            raise differs(f"its SHA-256 is {self.sha256[:12]}…, and should be {sha256[:12]}…")
        if self._look()[0] != self._stamp:
            raise differs("it changed while it was read")

    @classmethod
    def again(cls, known: Proof, differs: Differs) -> ProvenFile | None:
        """The file of an earlier proof, not hashed again; None if it is gone, or if anybody has touched it since."""
        found = cls.__new__(cls)
        found.path, found.sha256, found._differs, found._ours = known.path, known.sha256, differs, False
        try:
            found._open()
        except FileNotFoundError:
            return None
        return found if found._stamp == known.stamp else None

    def _open(self) -> None:
        # Not blocking: opening a pipe would wait for somebody to write.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        self.fd = steadily(lambda: os.open(self.path, flags), self.path)
        weakref.finalize(self, os.close, self.fd)
        self._stamp, self._settled = self._look()

    @property
    def size(self) -> int:
        """Bytes."""
        return self._stamp.written[0]

    @property
    def times_ns(self) -> tuple[int, int]:
        """When it was last written to, and when anybody last touched it."""
        return self._stamp.written[1], self._stamp.changed_ns

    @property
    def proof(self) -> Proof:
        """The proof that `again` takes."""
        return Proof(self.path, self.sha256, self._stamp if self._settled else None)

    def read(self, offset: int = 0, size: int | None = None) -> memoryview:
        """Bytes of the file, without a `size` all from `offset` on. Raises as `read_into` does."""
        # Not `bytes`: torch warns of memory that cannot be written to.
        data = memoryview(bytearray(self.size - offset if size is None else size))
        self.read_into(data, offset)
        return data

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` on. Raises `MachineError`, and `differs` if the file ends before that."""
        done = 0
        while done < len(buffer):
            room, place = buffer[done : done + _MOST_BYTES], offset + done
            count = steadily(partial(os.preadv, self.fd, [room], place), self.path)
            if not count:
                raise self._differs(f"it ends at byte {offset + done:,}")
            done += count

    def check_unchanged(self) -> None:
        """Raise `differs` if anybody may have written to the file since it was hashed, also if the bytes are back."""
        now, settled = self._look()
        before = self._stamp
        if self._ours and now.written[0] == self.size:
            return
        # A file that gets or loses a name, as one that is replaced does, was changed without being written to.
        renamed = now.links != before.links and now.written == before.written
        if now == before and self._settled:
            return
        if not (now == before or renamed) or self._hash() != self.sha256:
            raise self._differs("it changed while it was read")
        self._stamp, self._settled = now, settled

    def _look(self) -> tuple[_Stamp, bool]:
        """The stamp of the file now, and whether it would show the next write. Raises `differs` if it is no file.

        The clock of files ticks every few milliseconds, on some file systems every one or two seconds. Two writes
        within a tick leave the same time.
        """
        facts = steadily(lambda: os.fstat(self.fd), self.path)
        if not stat.S_ISREG(facts.st_mode):
            raise self._differs("it is no regular file")
        tick_s = 0.1 if facts.st_ctime_ns % 1_000_000_000 else 2.0
        settled = time.time() - facts.st_ctime > tick_s
        written = facts.st_size, facts.st_mtime_ns, facts.st_dev, facts.st_ino
        return _Stamp(written, facts.st_ctime_ns, facts.st_nlink), settled

    def _hash(self) -> str:
        return steadily(lambda: digest_descriptor(self.fd), self.path)

    def __reduce__(self) -> tuple[Callable[..., ProvenFile], tuple[Path, Differs, str, bool]]:
        return _open_again, (self.path, self._differs, self.sha256, self._ours)


def read_proven(path: Path, sha256: str, differs: Differs) -> bytes:
    """The bytes of a small file, hashed as they are in memory. Raises as `ProvenFile` does."""
    try:
        with named(path):
            data = read_file(path)
    except IsADirectoryError:
        raise differs("it is no regular file") from None
    if digest(data) != sha256:
        raise differs("its SHA-256 is another")
    return data


def _open_again(path: Path, differs: Differs, sha256: str, ours: bool) -> ProvenFile:
    return ProvenFile(path, differs, sha256=sha256, ours=ours)


class _Stamp(NamedTuple):
    """Facts of a file that show that it was written to."""

    written: tuple[int, ...]
    """Size, time of writing, and which file it is."""
    changed_ns: int
    """When it, its names or its times were changed. Nobody can set it."""
    links: int
