"""The interface of all folders, and the folders of this machine."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from fastclip.errors import IntegrityError
from fastclip.faults import is_fault, named, steadily
from fastclip.files import publish, read_file, rename, storing, temporary_path, write_over
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
        *levels, last = pattern.split("/")
        folders = [""]
        for level in levels:
            folders = [name for name, each in self._matching(folders, level) if _really(each.is_dir, each)]
            folders = [f"{name}/" for name in folders]
        if "*" in last:
            return sorted(name for name, each in self._matching(folders, last) if _really(each.is_file, each))
        return sorted(f"{folder}{last}" for folder in folders if _may_be_file(self.path / folder / last))

    def _matching(self, folders: Iterable[str], pattern: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Names and entries in `folders`. Raises `MachineError` for a folder that cannot be read: it is not empty."""
        for folder in folders:
            for entry in steadily(partial(_entries, self.path / folder), self.path / folder):
                if fnmatchcase(entry.name, pattern):
                    yield f"{folder}{entry.name}", entry

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
        return partial(self._other, name)

    def _other(self, name: str, how: str) -> IntegrityError:
        error = differs(str(self.path / name), self.name, how)
        if any(self.path.glob(".writing.*.json")):
            error.fix = f"{self.path} is being written: run the same command again when that has ended."
        return error

    def write(self, name: str, data: bytes) -> None:
        write_over(self.path / name, data)

    def staging(self) -> Path | None:
        with storing(self.path):
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


def _entries(folder: Path) -> Sequence[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _really(asks: Callable[[], bool], entry: os.DirEntry[str]) -> bool:
    """The answer of an entry; no for a link that leads nowhere. Raises `MachineError` if it cannot be known."""
    try:
        return steadily(asks, entry.path)
    except OSError:
        return False


def _may_be_file(path: Path) -> bool:
    """Whether a file is there, or that cannot be known: then reading it says why."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        return is_fault(error)


def differs(path: str, dataset: str, how: str) -> IntegrityError:
    """The error for a file of `dataset` that is not the one that was written with the shards."""
    return IntegrityError(
        f"{path} is not the file that was sharded: {how}.",
        fix="Copy it again from where the shards were made, or write them again: "
        f"fastclip shard {dataset} --source DIR --overwrite",
    )
