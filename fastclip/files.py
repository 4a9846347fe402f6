"""Files that are whole or absent: digests, canonical JSON and atomic publishing."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fastclip.destinations import check_place as check_place
from fastclip.destinations import destination, stream
from fastclip.errors import IncompleteError, IntegrityError

_PAUSES_S = (0.05, 0.1, 0.2, 0.4)
"""Seconds between attempts to read a file that a network file system has lost sight of."""

_CANNOT_SYNC_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""Errors of fsync on file systems that cannot sync a folder: SMB, some of FUSE."""

_BLOCK = 1 << 25

_DAY_S = 86_400.0

T = TypeVar("T")


def canonical_json(value: Any) -> bytes:
    """The JSON spelling of `value` from which digests are made: sorted keys, no blanks, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb", buffering=0) as file:
        return digest_open_file(file)


def digest_open_file(file: FileIO) -> str:
    """SHA-256 of the bytes that an open file still gives, as 64 hexadecimal digits."""
    state = hashlib.sha256()  # hashlib.file_digest is new in Python 3.11
    # A large block, always in the same memory: hashing then seldom asks for the lock that imports hold.
    block = memoryview(bytearray(min(os.fstat(file.fileno()).st_size + 1, _BLOCK)))
    while size := file.readinto(block):
        state.update(block[:size])
    return state.hexdigest()


def patiently(read: Callable[[], T], lost: tuple[int, ...] = (errno.ESTALE,)) -> T:
    """The result of `read()`, tried again for 0.75 s while it fails with an error of `lost`.

    A network file system says ESTALE once when another machine has replaced or removed the file.
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

    Returns whether this call created the file. Equal bytes that are already there are a success: another process may
    have done the same work, and a network file system may report a link that it has just made. Other bytes under the
    same name raise `IntegrityError`: the name stands for everything that can change the bytes, so one of the two
    results is not deterministic.
    """
    temporary = write_temporary(path, lambda file: file.write(data))
    created = True
    try:
        os.link(temporary, path)
    except FileExistsError:
        if not _holds(path, data):
            raise IntegrityError(
                f"{path} exists with other bytes than this run computed for the same name.",
                fix="Choose another --store for this run, and report this.",
            ) from None
        created = False
    except OSError as error:
        raise _storage_error(path, error) from error
    finally:
        _discard(temporary)
    _sync_folder(path)
    return created


def write_whole(path: Path, data: bytes) -> None:
    """Replace the file at `path` with `data`, as `replace_file` does."""
    replace_file(path, lambda file: file.write(data))


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace the file at `path` by what `write(file)` writes. A reader sees the old bytes or the new, never a mixture.

    A symbolic link stays, and the file that it leads to is replaced or made. A device, a pipe or a stream, such as
    /dev/stdout, is written to directly, as far as anybody reads it.
    """
    try:
        end = destination(path)
        number = stream(end)
        if number is not None:
            with suppress(BrokenPipeError), os.fdopen(number, "wb") as file:
                write(file)
            return
    except OSError as error:
        raise _storage_error(path, error) from error
    publish(write_temporary(end, write), end)


def write_temporary(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """The path of a synced temporary file beside `path`, filled by `write(file)`. Readers ignore it."""
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


def write_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Publish a folder that `write(temporary)` fills: readers see all of it or nothing.

    A folder that is there is replaced, by two renames: a process that dies between them leaves both under hidden names.
    Folders that a killed process left are removed a day later.
    """
    temporary, replaced = temporary_path(folder), temporary_path(folder)
    try:
        _make_folder(temporary)
        _remove_left_folders(folder)
        write(temporary)
        for path in [*sorted(temporary.rglob("*"), reverse=True), temporary]:
            _sync(path)
        if folder.exists():
            folder.rename(replaced)
        try:
            temporary.rename(folder)
        except OSError:
            with suppress(FileNotFoundError):
                replaced.rename(folder)
            raise
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise _storage_error(folder, error) from error
        raise
    try:
        _sync_folder(folder)
    finally:
        shutil.rmtree(replaced, ignore_errors=True)


def temporary_path(path: Path) -> Path:
    """A path beside `path` for an unfinished file: no other process uses it, and no reader takes it."""
    return path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"


def is_temporary(name: str) -> bool:
    """Whether `name` is one that `temporary_path` gives."""
    return re.fullmatch(r"\..+\.[0-9]+\.[0-9a-f]{8}\.tmp", name, re.DOTALL) is not None


def publish(temporary: Path, path: Path) -> None:
    """Rename a synced temporary file to its final name, replacing what was there. Remove it if that fails."""
    try:
        rename(temporary, path)
    except IncompleteError:
        _discard(temporary)
        raise


def rename(old: Path, new: Path) -> None:
    """Rename a file, replacing any file at `new`, and sync the folder."""
    try:
        old.replace(new)
    except OSError as error:
        raise _storage_error(new, error) from error
    _sync_folder(new)


def _holds(path: Path, data: bytes) -> bool:
    """Whether the file at `path` holds `data`. False for a folder and for a link to nowhere."""
    try:
        return patiently(path.read_bytes, (errno.ESTALE, errno.ENOENT)) == data
    except (FileNotFoundError, IsADirectoryError):
        return False
    except OSError as error:
        raise _storage_error(path, error) from error


def _make_folder(folder: Path) -> None:
    """Make `folder` and its parents, and sync their names, so that they survive a power cut."""
    if not folder.is_dir():
        if folder.parent != folder:
            _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder)


def _remove_left_folders(folder: Path) -> None:
    """Remove unfinished folders of `folder` that nobody has touched for a day."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
        if is_temporary(path.name) and path.stat().st_mtime < time.time() - _DAY_S:
            shutil.rmtree(path, ignore_errors=True)


def _sync_folder(path: Path) -> None:
    """Sync the folder of `path`, so that the name survives a power cut."""
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Sync a file or a folder."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except PermissionError:
        pass  # a process may be allowed to write to a folder and not to open it
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:
            raise _storage_error(path, error) from error


def _discard(temporary: Path) -> None:
    with suppress(OSError):  # a file left behind does no harm, and `Store.prepare` removes it a day later
        temporary.unlink()


def _storage_error(path: Path, error: OSError) -> IncompleteError:
    return IncompleteError(
        f"Cannot write {path}: {error.strerror or error}.",
        fix="Free space or permissions there (or choose another folder), then run the same command again to go on.",
    )
