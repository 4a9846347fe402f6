"""Files that are whole or absent: digests, canonical JSON and atomic publishing."""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from fastclip.destinations import destination, stream
from fastclip.errors import IncompleteError, IntegrityError, UserError
from fastclip.faults import patiently

MOST_HEADER_BYTES = 100_000_000
"""The longest header of a safetensors file, by its library."""

_CANNOT_SYNC_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""Errors of fsync on file systems that cannot sync a folder: SMB, some of FUSE."""

_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of link on file systems without hard links."""

_BLOCK = 1 << 22

_DAY_S = 86_400.0


def canonical_json(value: Any) -> bytes:
    """The JSON spelling of `value` from which digests are made: sorted keys, no blanks, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes | memoryview) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with check_is_file(path).open("rb", buffering=0) as file:
        return digest_descriptor(file.fileno())


def digest_descriptor(fd: int) -> str:
    """SHA-256 of an open file from its start, as 64 hexadecimal digits. Its position plays no part and stays."""
    state = hashlib.sha256()  # hashlib.file_digest is new in Python 3.11
    # Always in the same memory, which a core's cache holds: of 32 MiB, hashing was a quarter slower. Smaller ones would
    # more often ask for the lock that imports hold.
    block = memoryview(bytearray(min(os.fstat(fd).st_size + 1, _BLOCK)))
    done = 0
    while size := os.preadv(fd, [block], done):
        state.update(block[:size])
        done += size
    return state.hexdigest()


def check_is_file(path: Path) -> Path:
    """The path itself. Raises `IsADirectoryError` unless a file is there: opening a pipe would wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is no file", str(path))
    return path


def read_file(path: Path, also: tuple[int, ...] = ()) -> bytes:
    """The bytes of a file. Raises `IsADirectoryError` for a folder, a pipe, a socket or a device, and opens none.

    A fault of the machine that may pass is waited for, and so are errors of the numbers `also`. One that lasts is
    raised as an `OSError` with the path.
    """
    try:
        return patiently(lambda: check_is_file(path).read_bytes(), also)
    except OSError as error:  # that of a read does not say whose it is
        raise OSError(error.errno, error.strerror, str(path)) from error


def is_copy(name: str) -> bool:
    """Whether a file or folder is called as synchronisers, editors and backups call what they put beside ours."""
    return re.search(r"^\.|~$|\.(bak|old|orig|swp|tmp)$|sync-conflict|conflicted copy", name) is not None


def write_new(path: Path, data: bytes) -> bool:
    """Publish `data` at `path` if nothing is there: temp file, fsync, `name_new`, fsync of the folder.

    Returns whether this call created the file. Equal bytes that are already there are a success: another process may
    have done the same work, and a network file system may report a link that it has just made. Other bytes under the
    same name raise `IntegrityError`: the name stands for everything that can change the bytes, so one of the two
    results is not deterministic.
    """
    temporary = write_temporary(path, lambda file: file.write(data))
    created = True
    try:
        name_new(temporary, path)
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


def name_new(old: Path, new: Path) -> None:
    """Give the file `old` the name `new` too, or instead. Raises `FileExistsError` if anything is called so.

    A hard link does that everywhere; exFAT, some network drives and some of FUSE have none. There, Linux renames a file
    if its new name is free. Raises `UserError` where neither can be done: any other way may show half a file.
    """
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_new(old, new)


def _rename_new(old: Path, new: Path) -> None:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, no_replace = -100, 1  # AT_FDCWD, RENAME_NOREPLACE
    if rename and not rename(here, os.fsencode(old), here, os.fsencode(new), no_replace):
        return
    number = ctypes.get_errno() if rename else errno.ENOSYS
    if number in (errno.EINVAL, *_NO_HARD_LINKS):
        raise UserError(
            f"{new.parent} lies on a file system without hard links, which cannot keep embeddings.",
            fix="--store on another one: ext4, XFS, Btrfs, APFS, NTFS and NFS have them, exFAT and FAT do not.",
        )
    raise OSError(number, os.strerror(number), str(new))


def short_name(name: str, most: int = 255) -> str:
    """`name`, which is ASCII; if it has more than `most` letters, its beginning and a digest of it, 200 at most.

    File systems take 255 bytes, and three letters stand for a byte where names are percent-encoded.
    """
    if len(name) <= most:
        return name
    beginning = re.sub("%.?$", "", name[:180])
    return f"{beginning}~{digest(name.encode())[:16]}"


def write_whole(path: Path, data: bytes) -> None:
    """Replace the file at `path` with `data`, as `replace_file` does."""
    replace_file(path, lambda file: file.write(data))


def write_over(path: Path, data: bytes) -> None:
    """Put a file with `data` in the place of whatever is at `path`, be it a pipe. Raises for a folder."""
    publish(write_temporary(path, lambda file: file.write(data)), path)


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


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Raise `IncompleteError` with `path` for what the file system does not take in the block."""
    try:
        yield
    except OSError as error:
        raise _storage_error(path, error) from error


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
    return maker_of(name) is not None


def maker_of(name: str) -> int | None:
    """The number of the process that gave a temporary file its name; None for any other file."""
    found = re.fullmatch(r"\..+\.([0-9]{1,9})\.[0-9a-f]{8}\.tmp", name, re.DOTALL)
    return int(found[1]) if found else None


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
        return read_file(path, (errno.ENOENT,)) == data
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
