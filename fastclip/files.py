"""Files that are whole or absent: digests, canonical JSON and atomic publishing."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from fastclip.errors import IncompleteError, IntegrityError


def canonical_json(value: Any) -> bytes:
    """The one JSON spelling of `value` that digests are made of: sorted keys, no blanks, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits."""
    state = hashlib.sha256()  # hashlib.file_digest is new in Python 3.11
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def write_new(path: Path, data: bytes) -> bool:
    """Publish `data` at `path` if nothing is there: temp file, fsync, link, fsync of the folder.

    Returns whether this call created the file. Equal bytes that are already there are success: two processes may do
    the same unit. Other bytes under the same name raise `IntegrityError`: a name stands for everything that can
    change the numbers, so somebody's result is not deterministic.
    """
    temporary = write_temporary(path, lambda file: file.write(data))
    try:
        os.link(temporary, path)
    except FileExistsError:
        if path.read_bytes() != data:
            raise IntegrityError(
                f"{path} exists with other bytes than this run computed for the same key.",
                fix="Keep both runs' hardware and library versions apart (another --store), and report this.",
            ) from None
        return False
    except OSError as error:
        raise _storage_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path`, replacing what was there, so that a reader sees the old bytes or the new, never half."""
    temporary = write_temporary(path, lambda file: file.write(data))
    publish(temporary, path)


def write_temporary(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """A synced file with what `write(file)` wrote, beside `path`; a name with a leading dot, so no reader takes it."""
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise _storage_error(path, error) from error
        raise
    return temporary


def publish(temporary: Path, path: Path) -> None:
    """Rename a synced temporary file to its final name, replacing what was there, and sync the folder."""
    try:
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _storage_error(path, error) from error
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _storage_error(path: Path, error: OSError) -> IncompleteError:
    return IncompleteError(
        f"Cannot write {path}: {error.strerror or error}.",
        fix="Free space or permissions there (or choose another folder), then run the same command again to go on.",
    )
