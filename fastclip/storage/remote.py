"""Folders elsewhere: HTTP servers to read from, object stores (behind fsspec) to read from and to write to."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import string
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit

from fastclip.errors import FastclipError, UserError
from fastclip.files import digest
from fastclip.proven import ProvenFile
from fastclip.storage.cache import shard_cache
from fastclip.storage.http import get
from fastclip.storage.local import Folder, differs
from fastclip.storage.transfer import (
    Answer,
    FetchOptions,
    LostError,
    MissingError,
    OtherBytesError,
    RemoteFile,
    options_from_environment,
    patiently,
    receive,
)

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
"""The scheme of an object store's address → the package that fsspec needs for it."""

CREDENTIALS = {
    "s3": "Give credentials (aws configure, or AWS_PROFILE); for a public bucket: export FSSPEC_S3_ANON=true",
    "gs": "Give credentials: gcloud auth application-default login; for a public bucket: export FSSPEC_GS_TOKEN=anon",
    "hf": "Give credentials: hf auth login (or HF_TOKEN).",
}

MOST_RETRIES = {"gs": 1}
"""gcsfs makes six attempts of each of ours, half a minute in all."""

BLOCK_BYTES = 8 << 20
BLOCKS_AT_ONCE = 8
"""An object store gives one connection 50–100 MB/s, and any number of them as much each."""

SMALL_FILE_BYTES = 1 << 30
"""No manifest and no index is larger; a server that does not stop sending must not fill memory or disk."""

T = TypeVar("T")


class RemoteFolder(ABC):
    """Reads any remote folder: with patience, and through the cache."""

    scheme: str
    name: str

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def _get(self, name: str, offset: int = 0, version: str = "") -> AbstractContextManager[Answer]:
        """The answer of one connection, as `fastclip.storage.transfer.Get` says."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(str(self))

    def exists(self, name: str) -> bool:
        def look() -> bool:
            with self._get(name):
                return True

        try:
            return patiently(self._shown(name), self._options(), look)
        except MissingError:
            return False

    def read(self, name: str) -> bytes:
        """A small file, from one connection: a resumed one could be of two versions, and no digest would tell."""

        def whole() -> bytes:
            data = bytearray()
            with self._get(name) as answer:
                for block in answer.blocks:
                    data += block
                    if len(data) > SMALL_FILE_BYTES:
                        raise UserError(
                            f"{self._shown(name)} has more than {SMALL_FILE_BYTES >> 30} GiB, which no manifest has.",
                            fix="Check the address.",
                        )
            return bytes(data)

        try:
            return patiently(self._shown(name), self._options(), whole)
        except MissingError as error:
            raise FileNotFoundError(str(error)) from None

    def read_proven(self, name: str, sha256: str) -> bytes:
        data = bytes(self._cached(name, None, sha256).read())
        if digest(data) != sha256:
            raise differs(self._shown(name), self.name, "its copy in the cache changed while it was read")
        return data

    def open(self, name: str, *, size: int, sha256: str) -> ProvenFile:
        return self._cached(name, size, sha256)

    def _cached(self, name: str, size: int | None, sha256: str) -> ProvenFile:
        """The file in the cache, fetched if it is not there."""
        wanted = RemoteFile(name=name, shown=self._shown(name), bytes=size, sha256=sha256)

        def fetch(file: BinaryIO) -> None:
            receive(wanted, partial(self._get, name), file, self._options(), most_bytes=SMALL_FILE_BYTES)

        try:
            return shard_cache().open(sha256, size, fetch)
        except MissingError as error:
            raise FileNotFoundError(str(error)) from None
        except OtherBytesError as error:
            raise differs(wanted.shown, self.name, str(error)) from None

    def tells_case_apart(self) -> bool:
        return True

    def free_bytes(self) -> int | None:
        return None

    def staging(self) -> Path | None:
        return None

    def _shown(self, name: str) -> str:
        return f"{self}/{name}".rstrip("/")

    def _options(self) -> FetchOptions:
        options = options_from_environment()
        return dataclasses.replace(options, retries=min(options.retries, MOST_RETRIES.get(self.scheme, sys.maxsize)))


class HttpFolder(RemoteFolder):
    """A folder of an HTTP server. It can be read, by name; user and password, or a signature, may be in its address."""

    def __init__(self, address: SplitResult) -> None:
        # Quoted once and for all: a signature must reach the server as it was given.
        path = quote(address.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        self._address = address._replace(path=path, query=quote(address.query, safe=string.punctuation), fragment="")
        self.scheme = address.scheme
        self.name = unquote(self._address.path.rpartition("/")[2]) or address.hostname or ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self._address.netloc.rpartition('@')[2]}{self._address.path}"

    def child(self, name: str) -> HttpFolder:
        return HttpFolder(self._at(name))

    def list(self, pattern: str) -> Sequence[str]:
        self._refuse_to_search()

    def sizes(self, folder: str) -> Mapping[str, int]:
        self._refuse_to_search()

    def modified_s(self, name: str) -> float | None:
        return None

    def write(self, name: str, data: bytes) -> None:
        self._refuse_to_write()

    def put(self, name: str, temporary: Path) -> None:
        self._refuse_to_write()

    def rename(self, old: str, new: str) -> None:
        self._refuse_to_write()

    def remove(self, name: str) -> None:
        self._refuse_to_write()

    def _refuse_to_search(self) -> NoReturn:
        raise UserError(
            f"{self} cannot be searched: HTTP has no list of what is in a folder.",
            fix=f"Name the datasets: fastclip eval DATASET… --shards {self}",
        )

    def _refuse_to_write(self) -> NoReturn:
        raise UserError(
            f"{self} can only be read: HTTP has no common way to write.",
            fix="Write to a folder or to s3://, gs:// or hf://, and let the server give it out.",
        )

    def _at(self, name: str) -> SplitResult:
        return self._address._replace(path=f"{self._address.path}/{quote(name)}")

    def _get(self, name: str, offset: int = 0, version: str = "") -> AbstractContextManager[Answer]:
        file = RemoteFile(name=name, shown=self._shown(name), url=self._at(name).geturl())
        return get(file, self._options().timeout_s, offset, version)


class BucketFolder(RemoteFolder):
    """A folder of an object store. Such stores promise that a file is there whole or not at all."""

    def __init__(self, scheme: str, path: str) -> None:
        self.scheme = scheme
        self._path = path.strip("/")
        self.name = self._path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.scheme}://{self._path}"

    def child(self, name: str) -> BucketFolder:
        return BucketFolder(self.scheme, f"{self._path}/{name}")

    def list(self, pattern: str) -> Sequence[str]:
        """Sorted names, found level by level: `*/manifest.json` must not list a million shards."""
        *folders, last = pattern.split("/")
        found = [""]
        for level in folders:
            found = [name for folder in found for name in self._entries(folder, level, "directory")]
        return sorted(name for folder in found for name in self._entries(folder, last, "file"))

    def sizes(self, folder: str) -> Mapping[str, int]:
        return {_last(entry): int(entry["size"]) for entry in self._listed(folder) if entry["type"] == "file"}

    def modified_s(self, name: str) -> float | None:
        with suppress(UserError):  # it is not there, or the library cannot ask for it
            changed = self._patiently(name, lambda: self._filesystem.modified(f"{self._path}/{name}"))
            return float(changed.timestamp())
        return None

    def write(self, name: str, data: bytes) -> None:
        self._upload(name, len(data), lambda path: self._filesystem.pipe_file(path, data))

    def put(self, name: str, temporary: Path) -> None:
        self._upload(name, temporary.stat().st_size, lambda path: self._filesystem.put_file(str(temporary), path))
        temporary.unlink()

    def rename(self, old: str, new: str) -> None:
        self._patiently(old, lambda: self._filesystem.cp_file(f"{self._path}/{old}", f"{self._path}/{new}"))
        self.remove(old)

    def remove(self, name: str) -> None:
        with suppress(MissingError):
            self._patiently(name, lambda: self._filesystem.rm_file(f"{self._path}/{name}"))

    @property
    def _filesystem(self) -> Any:
        return _connected(self.scheme)

    def _size(self, name: str) -> int:
        info = self._filesystem.info(f"{self._path}/{name}")
        if info["type"] != "file":
            raise FileNotFoundError
        return int(info["size"])

    def _entries(self, folder: str, pattern: str, kind: str) -> Sequence[str]:
        names = [_last(entry) for entry in self._listed(folder) if entry["type"] == kind]
        return [f"{folder}/{name}".lstrip("/") for name in names if fnmatchcase(name, pattern)]

    def _listed(self, folder: str) -> Sequence[Mapping[str, Any]]:
        """The entries of a folder as the library lists them; none for one that is not there."""
        where = f"{self._path}/{folder}".rstrip("/")
        try:
            found: list[Mapping[str, Any]] = self._patiently(folder, lambda: self._filesystem.ls(where, detail=True))
        except MissingError:
            return []
        return found

    def _upload(self, name: str, size: int, upload: Callable[[str], object]) -> None:
        def upload_and_look() -> None:
            upload(f"{self._path}/{name}")
            found = self._size(name)
            if found != size:
                raise LostError(f"{size:,} bytes were sent, {found:,} are there")

        self._patiently(name, upload_and_look)

    @contextmanager
    def _get(self, name: str, offset: int = 0, version: str = "") -> Iterator[Answer]:
        size = self._attempt(name, lambda: self._size(name))
        yield Answer(blocks=self._blocks(name, min(offset, size), size), start=min(offset, size), total=size)

    def _blocks(self, name: str, offset: int, size: int) -> Iterator[bytes]:
        path = f"{self._path}/{name}"
        while offset < size:
            starts = list(range(offset, min(size, offset + BLOCKS_AT_ONCE * BLOCK_BYTES), BLOCK_BYTES))
            ends = [min(size, start + BLOCK_BYTES) for start in starts]
            fetch = partial(self._filesystem.cat_ranges, [path] * len(starts), starts, ends, on_error="return")
            # The blocks before the first that failed are kept.
            for start, end, block in zip(starts, ends, self._attempt(name, fetch), strict=True):
                if isinstance(block, Exception):
                    raise self._failure(name, block) from None
                if len(block) != end - start:
                    raise LostError(f"{len(block):,} bytes came where {end - start:,} were asked for")
                yield block
            offset = ends[-1]

    def _patiently(self, name: str, action: Callable[[], T]) -> T:
        return patiently(self._shown(name), self._options(), lambda: self._attempt(name, action))

    def _attempt(self, name: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:
            raise self._failure(name, error) from None

    def _failure(self, name: str, error: Exception) -> Exception:
        """`error` as a `LostError` if another attempt may not fail, else as the error to show.

        The libraries' errors have no base in common, so that any error is tried again unless it is known to be final.
        Their texts may hold addresses with keys in them.
        """
        if isinstance(error, FastclipError | LostError | TypeError | AttributeError | AssertionError):
            return error  # said already, or a mistake of ours
        shown = self._shown(name)
        if isinstance(error, FileNotFoundError):
            return MissingError(f"{shown} is not there.", fix="Check the address.")
        if isinstance(error, ImportError):
            return UserError(
                f"{self.scheme}:// needs {PACKAGES[self.scheme]}, which is not installed here.",
                fix=f"pip install {PACKAGES[self.scheme]}  (or, for all kinds of addresses: fastclip[remote])",
            )
        reason = re.sub(r"\w+://\S+", "the address", str(error).strip().rstrip(".") or type(error).__name__)
        status = _http_status(error)
        if isinstance(error, PermissionError) or status in (401, 403) or type(error).__name__ == "NoCredentialsError":
            return UserError(f"{shown} may not be used: {reason}.", fix=CREDENTIALS[self.scheme])
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            return LostError(f"the server fell silent for {self._options().timeout_s:g} seconds")
        if isinstance(error, ValueError | NotImplementedError) or (
            status is not None and 400 <= status < 500 and status not in (408, 409, 425, 429)
        ):
            return UserError(f"{shown} cannot be used: {reason}.", fix="Check the address.")
        return LostError(reason)


def _last(entry: Mapping[str, Any]) -> str:
    """The last part of a listed name."""
    return str(entry["name"]).rstrip("/").rpartition("/")[2]


def open_remote_folder(address: str) -> Folder:
    """The folder at an address. Raises `UserError` unless its scheme is known."""
    scheme = {"gcs": "gs"}.get(found := address.partition("://")[0].lower(), found)
    if scheme not in ("http", "https", *PACKAGES):
        raise UserError(
            f"Shards cannot lie at {scheme}://.", fix="Give a folder, or an https://, s3://, gs:// or hf:// address."
        )
    rest = address.partition("://")[2]
    if scheme in ("http", "https"):
        try:
            split = urlsplit(f"{scheme}://{rest}")
            if not split.hostname or split.port == 0:
                raise ValueError
        except ValueError:
            raise UserError(
                f"This {scheme}:// address of the shards has no valid host or port.", fix=f"{scheme}://HOST/FOLDER"
            ) from None
        return HttpFolder(split)
    if "@" in rest.partition("/")[0]:
        raise UserError(f"An {scheme}:// address holds no keys.", fix=CREDENTIALS[scheme])
    if not rest.strip("/"):
        raise UserError(f"{scheme}:// names no bucket.", fix=f"{scheme}://BUCKET/FOLDER")
    return BucketFolder(scheme, rest)


def _connected(scheme: str) -> Any:
    """fsspec's file system. Each process has its own: connections do not survive a fork."""
    return _filesystem(scheme, os.getpid(), options_from_environment().timeout_s)


@cache
def _filesystem(scheme: str, process: int, wait_s: float) -> Any:
    import fsspec

    # These libraries log failures with tracebacks and whole addresses; our errors say what matters of them. asyncio
    # complains when a process ends on a loaded machine and a connection took more than a tenth of a second to close.
    for library in ("aiobotocore", "asyncio", "botocore", "fsspec", "gcsfs", "huggingface_hub", "s3fs"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    return fsspec.filesystem(scheme, skip_instance_cache=True, **_filesystem_options(scheme, wait_s))


def _filesystem_options(scheme: str, wait_s: float) -> dict[str, Any]:
    """Timeouts, no cached lists, and no retries beside ours where a library can do without: they would multiply."""
    if scheme == "s3":
        config = {"connect_timeout": wait_s, "read_timeout": wait_s, "retries": {"total_max_attempts": 1}}
        return {"use_listings_cache": False, "config_kwargs": config}
    if scheme == "gs":
        return {"use_listings_cache": False, "requests_timeout": wait_s}
    return {"use_listings_cache": False}


def _http_status(error: Exception) -> int | None:
    """The HTTP status behind an error of a library of ours; None without one."""
    response = getattr(error, "response", None)
    for holder, name in ((error, "status"), (error, "code"), (response, "status_code")):
        status = getattr(holder, name, None)
        if isinstance(status, int):
            return status
    return None
