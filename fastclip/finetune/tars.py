"""The tars that images are read from at random: each proven once, as few open as a process may have."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from fastclip.data.shards.reader import OpenTar
from fastclip.finetune.samples import Source
from fastclip.proven import Proof

OPEN_TARS = 100
"""A process may have 1,024 descriptors, on some machines 256. Opening a tar again takes 40 µs."""


class Tars:
    """Tars by number, for any thread. One is opened when it is first asked for, and its digest computed once."""

    def __init__(self, sources: Sequence[Source], most: int = OPEN_TARS) -> None:
        self._sources = sources
        self._most = most
        self._open: dict[int, OpenTar] = {}  # the oldest first
        self._proofs: dict[int, Proof] = {}
        self._opening = [Lock() for _ in sources]
        self._lock = Lock()

    def read(self, number: int, offset: int, size: int) -> memoryview:
        """Bytes of a tar. Raises `UserError` if it is missing, `IntegrityError` if it is not the manifest's."""
        return self._opened(number).read(offset, size)

    def _opened(self, number: int) -> OpenTar:
        with self._opening[number]:  # two threads that want the same tar do not both hash it
            with self._lock:
                if number in self._open:
                    return self._open[number]
            target, shard = self._sources[number]
            tar = OpenTar(target.folder, shard, self._proofs.get(number))
            with self._lock:
                self._open[number] = tar
                self._proofs[number] = tar.proof
                oldest = self._open.pop(next(iter(self._open))) if len(self._open) > self._most else None
        if oldest:
            oldest.check_unchanged()
        return tar

    def check_unchanged(self) -> None:
        """Raise `IntegrityError` if the bytes of an open tar changed since it was proven. Closed ones were checked."""
        with self._lock:
            still_open = list(self._open.values())
        for tar in still_open:
            tar.check_unchanged()
