"""Files that are whole or absent: digests, canonical JSON and atomic publishing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fastclip.errors import IncompleteError, IntegrityError

_PAUSES_S = (0.05, 0.1, 0.2, 0.4)
"""Seconds between attempts to read what a network file system has lost sight of."""

_STREAMS = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))
"""Where devices and open files have names. Nothing is created or replaced there: root would replace /dev/stdout."""

_CANNOT_SYNC_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""What fsync of a folder fails with where the file system has no such thing: some of FUSE, SMB."""

_BLOCK = 1 << 25

T = TypeVar("T")


def canonical_json(value: Any) -> bytes:
    """The one JSON spelling of `value` that digests are made of: sorted keys, no blanks, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits."""
    state = hashlib.sha256()  # hashlib.file_digest is new in Python 3.11
    with path.open("rb", buffering=0) as file:
        # Large, so that hashing seldom asks for the lock that imports hold, and the same memory for each block.
        block = memoryview(bytearray(min(path.stat().st_size + 1, _BLOCK)))
        while size := file.readinto(block):
            state.update(block[:size])
    return state.hexdigest()


def patiently(read: Callable[[], T], lost: tuple[int, ...] = (errno.ESTALE,)) -> T:
    """`read()`, again after pauses of a second together while it fails with an error of `lost`.

    A network file system says ESTALE once when somebody else has replaced or removed what it knew.
    """
    for pause_s in _PAUSES_S:
        try:
            return read()
        except OSError as error:
            if error.errno not in lost:
                raise
        time.sleep(pause_s)
    return read()


def write_new(path: Path, data: bytes) -> bool:
    """Publish `data` at `path` if nothing is there: temp file, fsync, link, fsync of the folder.

    Returns whether this call created the file. Equal bytes that are already there are success: two processes may do
    the same unit, and a network file system may say that a link exists which it has just made. Other bytes under the
    same name raise `IntegrityError`: a name stands for everything that can change the numbers, so somebody's result
    is not deterministic.
    """
    temporary = write_temporary(path, lambda file: file.write(data))
    created = True
    try:
        os.link(temporary, path)
    except FileExistsError:
        if not _holds(path, data):
            raise IntegrityError(
                f"{path} exists with other bytes than this run computed for the same key.",
                fix="Keep both runs' hardware and library versions apart (another --store), and report this.",
            ) from None
        created = False
    except OSError as error:
        raise _storage_error(path, error) from error
    finally:
        _discard(temporary)
    _sync_folder(path)
    return created


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path`, replacing what was there, so that a reader sees the old bytes or the new, never half.

    What is no file but a device or a pipe, such as /dev/stdout, is written to.
    """
    if path.parent in _STREAMS or path.is_fifo() or path.is_char_device():
        try:
            path.write_bytes(data)
        except OSError as error:
            raise _storage_error(path, error) from error
        return
    publish(write_temporary(path, lambda file: file.write(data)), path)


def write_temporary(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """A synced file with what `write(file)` wrote, beside `path`; a name with a leading dot, so no reader takes it."""
    temporary = temporary_path(path)
    try:
        _make_folder(path.parent)
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        _discard(temporary)
        if isinstance(error, OSError):
            raise _storage_error(path, error) from error
        raise
    return temporary


def temporary_path(path: Path) -> Path:
    """A name beside `path` that nobody else uses and no reader takes, for what is not whole yet."""
    return path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a file is called as `temporary_path` calls them."""
    return re.fullmatch(r"\..+\.[0-9]+\.[0-9a-f]{8}\.tmp", name, re.DOTALL) is not None


def publish(temporary: Path, path: Path) -> None:
    """Rename a synced temporary file to its final name, replacing what was there; where that fails, remove it."""
    try:
        rename(temporary, path)
    except IncompleteError:
        _discard(temporary)
        raise


def rename(old: Path, new: Path) -> None:
    """Give a file another name, replacing what has it, and sync the folder."""
    try:
        old.replace(new)
    except OSError as error:
        raise _storage_error(new, error) from error
    _sync_folder(new)


def _holds(path: Path, data: bytes) -> bool:
    """Whether `data` is what `path` holds. False for what is there and cannot be read: a link to nowhere."""
    try:
        return patiently(path.read_bytes, (errno.ESTALE, errno.ENOENT)) == data
    except (FileNotFoundError, IsADirectoryError):
        return False
    except OSError as error:
        raise _storage_error(path, error) from error


def _make_folder(folder: Path) -> None:
    """Make `folder` and those above it, and sync their names like those of files: a power cut takes none back."""
    if not folder.is_dir():
        if folder.parent != folder:
            _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder)


def _sync_folder(path: Path) -> None:
    """Sync the folder that `path` stands in, so that its name lasts."""
    try:
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except PermissionError:
        pass  # who may write to a folder may be forbidden to open it
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise _storage_error(path, error) from error


def _discard(temporary: Path) -> None:
    with suppress(OSError):  # it does no harm, and `PartStore.prepare` removes it a day later
        temporary.unlink()


def _storage_error(path: Path, error: OSError) -> IncompleteError:
    return IncompleteError(
        f"Cannot write {path}: {error.strerror or error}.",
        fix="Free space or permissions there (or choose another folder), then run the same command again to go on.",
    )
