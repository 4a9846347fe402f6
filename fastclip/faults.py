"""Faults of the machine, told from what the data say: tried again where that helps, else an error that names the file.

A full table of open files says nothing about the photo that could not be opened. So a fault never makes an image
unreadable, an archive damaged or a dataset smaller: it ends what it touches with exit 4, and a later run does the rest.
"""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from fastclip.errors import IncompleteError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PAUSES_S = (0.05, 0.1, 0.2, 0.4)
"""Seconds between attempts."""

_PASSING = frozenset(
    (
        *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM),
        *(errno.ESTALE, errno.ETIMEDOUT, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
    )
)
"""Faults that may be gone a moment later. A network file system says ESTALE once when another machine has replaced a
file."""

_OF_THE_DATA = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG))
"""Errors that say what lies at a path, and not that the machine fails. Nor does one without a number, of a library."""

_CURES = {
    errno.EMFILE: "Allow a process more open files (ulimit -n 4096)",
    errno.ENFILE: "End programs that hold many files open",
    errno.ENOMEM: "Free memory, or allow more of it (ulimit -v)",
    errno.EACCES: "Give yourself permission to read it",
    errno.EPERM: "Give yourself permission to read it",
    errno.ENOSPC: "Free space there",
    errno.EDQUOT: "Free space there",
}

T = TypeVar("T")


class MachineError(IncompleteError):
    """The machine, or a server, does not give one file. Nothing is known about its bytes, and others may be read."""


def is_fault(error: BaseException) -> bool:
    """Whether an error is the machine's, and says nothing about the data that were to be read."""
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _OF_THE_DATA
    return isinstance(error, MemoryError)


def fault(error: BaseException, path: Path | str) -> MachineError:
    """The error for what the machine could not do with the file or folder at `path`."""
    if isinstance(error, OSError) and isinstance(error.filename, str | os.PathLike):
        path = os.fspath(error.filename)  # of several files behind one name, such as a shard's tar and index
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    said = getattr(error, "strerror", None) or (os.strerror(number) if number else str(error))
    cure = _CURES.get(number or 0, "Check the disk or the server on which it lies")
    return MachineError(f"{path} cannot be read: {said}.", fix=f"{cure}, then run the same command again to go on.")


@contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Raise `MachineError` with `path` for a fault of the machine in the block; any other error as it is."""
    try:
        yield
    except (OSError, MemoryError) as error:
        if not is_fault(error):
            raise
        raise fault(error, path) from error


def patiently(read: Callable[[], T], also: tuple[int, ...] = ()) -> T:
    """The result of `read()`, tried again for 0.75 s while the machine fails in a way that may pass.

    Errors of the numbers `also` are tried again too.
    """
    for pause_s in PAUSES_S:
        try:
            return read()
        except MemoryError:
            pass
        except OSError as error:
            if error.errno not in _PASSING and error.errno not in also:
                raise
        time.sleep(pause_s)
    return read()


def steadily(read: Callable[[], T], path: Path | str) -> T:
    """The result of `read()`, which reads what lies at `path`, tried again as `patiently` does.

    Raises `MachineError` with `path` if the machine still fails; any other error as it is, such as `FileNotFoundError`.
    """
    with named(path):
        return patiently(read)


class SteadyFile(io.RawIOBase):
    """A file whose faults are the machine's: each read is tried again, and then raises `MachineError`.

    Libraries that read archives pass that error on. An `OSError` they would take for damage.
    """

    mode = "rb"

    def __init__(self, path: Path) -> None:
        self.name = path
        self._file = steadily(lambda: io.FileIO(path), path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        return steadily(lambda: self._file.readinto(buffer), self.name)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        if not self.closed:
            with suppress(OSError):  # all that was asked for is read
                self._file.close()
        super().close()


def open_steadily(path: Path) -> io.BufferedReader:
    """The file at `path`, opened and read as `SteadyFile` says."""
    return io.BufferedReader(SteadyFile(path))


def facts_of(file: BinaryIO) -> os.stat_result:
    """The facts of an open file, asked for as `steadily` does."""
    return steadily(lambda: os.fstat(file.fileno()), file.name)
