"""The interface of all folders, and the folders of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from fastclip.errors import IntegrityError
from fastclip.faults import named
from fastclip.files import publish, read_file, rename, temporary_path, write_over
from fastclip.proven import Differs, ProvenFile, read_proven


@runtime_checkable  # the tests check annotations
class Folder(Protocol):
    """A dataset's folder, or the folder of all datasets. Names have forward slashes and are relative to it.

    `str(folder)` is for people: it holds no password and no signature. A folder can be pickled; the process that gets
    it opens connections of its own.
    """

    @property
    def name(self) -> str:
        """The last part of its path; a dataset's name."""
        ...

    def child(self, name: str) -> Folder:
        """A folder in it, which need not be there yet."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is a file called `name`."""
        ...

    def list(self, pattern: str) -> Sequence[str]:
        """The sorted names of the files that match `pattern`, such as `*/manifest.json`. A `*` spans no slash."""
        ...

    def sizes(self, folder: str) -> Mapping[str, int]:
        """The bytes of each file of a folder in it ("" for itself), by the name under which it is listed."""
        ...

    def modified_s(self, name: str) -> float | None:
        """When a file was written, by the clock of where it lies; None if that is not known, or there is none."""
        ...

    def tells_case_apart(self) -> bool:
        """Whether names that differ only in upper and lower case are of two files here."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of a small file. Raises `FileNotFoundError`."""
        ...

    def read_proven(self, name: str, sha256: str) -> bytes:
        """The bytes of a small file with this digest, hashed as they are in memory.

        Raises `FileNotFoundError` if no file is called `name`, `IntegrityError` if it has other bytes.
        """
        ...

    def open(self, name: str, *, size: int, sha256: str) -> ProvenFile:
        """A file with exactly these bytes, open. It stays readable if a cache removes it. Raises as `read_proven`."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Put `data` at `name`, whole or not at all, replacing what was there."""
        ...

    def staging(self) -> Path | None:
        """The folder of this machine in which files to be `put` here must be written; None if any will do."""
        ...

    def put(self, name: str, temporary: Path) -> None:
        """Move a synced file of `staging` to `name`, whole or not at all, replacing what was there."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name. A file that has this name already is replaced."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def free_bytes(self) -> int | None:
        """The number of bytes that can still be written; None where it is unknown."""
        ...


class LocalFolder:
    """A folder of this machine, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"LocalFolder({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalFolder) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    def child(self, name: str) -> LocalFolder:
        return LocalFolder(self.path / name)

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def list(self, pattern: str) -> Sequence[str]:
        return sorted(path.relative_to(self.path).as_posix() for path in self.path.glob(pattern) if path.is_file())

    def sizes(self, folder: str) -> Mapping[str, int]:
        try:
            with os.scandir(self.path / folder) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def modified_s(self, name: str) -> float | None:
        try:
            return (self.path / name).stat().st_mtime
        except OSError:
            return None

    def tells_case_apart(self) -> bool:
        probe = temporary_path(self.path / "Case")
        probe.touch()
        try:
            return not probe.with_name(probe.name.swapcase()).exists()
        finally:
            probe.unlink()

    def read(self, name: str) -> bytes:
        path = self.path / name
        try:
            with named(path):
                return read_file(path)
        except (NotADirectoryError, IsADirectoryError) as error:
            raise FileNotFoundError(*error.args) from error

    def read_proven(self, name: str, sha256: str) -> bytes:
        return read_proven(self.path / name, sha256, self._differs(name))

    def open(self, name: str, *, size: int, sha256: str) -> ProvenFile:
        return ProvenFile(self.path / name, self._differs(name), size=size, sha256=sha256)

    def _differs(self, name: str) -> Differs:
        return partial(differs, str(self.path / name), self.name)

    def write(self, name: str, data: bytes) -> None:
        write_over(self.path / name, data)

    def staging(self) -> Path | None:
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path

    def put(self, name: str, temporary: Path) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        publish(temporary, self.path / name)

    def rename(self, old: str, new: str) -> None:
        rename(self.path / old, self.path / new)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def free_bytes(self) -> int | None:
        there = next(path for path in (self.path.absolute(), *self.path.absolute().parents) if path.is_dir())
        return shutil.disk_usage(there).free


def differs(path: str, dataset: str, how: str) -> IntegrityError:
    """The error for a file of `dataset` that is not the one that was written with the shards."""
    return IntegrityError(
        f"{path} is not the file that was sharded: {how}.",
        fix="Copy it again from where the shards were made, or write them again: "
        f"fastclip shard {dataset} --source DIR --overwrite",
    )
