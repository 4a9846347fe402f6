"""Folders behind fsspec: HTTP servers to read from, object stores to read from and to write to.

Everything that a network does is expected here: what breaks off is resumed, what stalls is noticed, what fails is
tried again a bounded number of times, and what arrives is believed only when its SHA-256 is the manifest's.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from fastclip.errors import FastclipError, IncompleteError, UserError
from fastclip.storage.cache import number_from_environment, shard_cache
from fastclip.storage.local import Folder, differs

PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
"""The scheme of an address → the package that fsspec needs for it."""

CREDENTIALS = {
    "s3": "Give credentials (aws configure, or AWS_PROFILE); for a public bucket: export FSSPEC_S3_ANON=true",
    "gs": "Give credentials: gcloud auth application-default login; for a public bucket: export FSSPEC_GS_TOKEN=anon",
    "hf": "Give credentials: hf auth login (or HF_TOKEN).",
}

RETRIES_IN_A_ROW = {"gs": 1}
"""Further attempts while no new byte arrives: five, but gcsfs makes six of each, half a minute in all."""

RETRIES = 100
"""Further attempts for one file in all."""

BLOCK_BYTES = 8 << 20
BLOCKS_AT_ONCE = 8
"""An object store gives one connection 50–100 MB/s, and any number of them as much each."""

SMALL_FILE_BYTES = 1 << 30
"""No manifest and no index is larger; a server that does not stop sending must not fill the memory."""

LEAST_BYTES_A_SECOND = 1000
"""A connection slower than this counts as stalled."""

T = TypeVar("T")


def timeout_s() -> float:
    """Seconds without a byte after which a connection counts as dead."""
    return number_from_environment("FASTCLIP_TIMEOUT_S", 20.0)


class Patience:
    """How often a failing source is asked again, and how long before: half a second, doubled each time."""

    def __init__(self, what: str, retries_in_a_row: int) -> None:
        self.what = what
        self.retries_in_a_row = retries_in_a_row
        self.failures = 0
        self._in_a_row = 0

    def progress(self) -> None:
        """It answered."""
        self._in_a_row = 0

    def wait(self, reason: str) -> None:
        """Pause before the next attempt, or raise `IncompleteError` when there were enough."""
        self.failures += 1
        self._in_a_row += 1
        if self._in_a_row > self.retries_in_a_row or self.failures > RETRIES:
            raise IncompleteError(
                f"{self.what} cannot be reached, after {self.failures} attempts: {reason}.",
                fix="Check the address and the network, then run the same command again to go on.",
            )
        # A fortieth of the timeout: 0.5, 1, 2, 4, 8 s. Not all processes at once.
        time.sleep(timeout_s() / 40 * 2 ** (self._in_a_row - 1) * random.uniform(0.75, 1.25))


class _MissingError(Exception):
    """The remote file is not there; no `OSError`, which writing the local one may raise as well."""


class RemoteFolder(ABC):
    """What all remote folders have in common: names, patience, and the cache."""

    scheme: str
    name: str

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def _stream(self, name: str, offset: int) -> Generator[bytes, None, None]:
        """The bytes of a file from `offset` on, from one connection, in blocks."""

    @abstractmethod
    def _without_secrets(self, text: str) -> str: ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(str(self))

    def read(self, name: str) -> bytes:
        """A small file, from one connection: a resumed one could be of two versions, and no digest would tell."""

        def whole() -> bytes:
            data = bytearray()
            for block in self._stream(name, 0):
                data += block
                if len(data) > SMALL_FILE_BYTES:
                    raise ValueError(f"it has more than {SMALL_FILE_BYTES >> 30} GiB, which no manifest has")
            return bytes(data)

        return self._patiently(name, whole)

    def local(self, name: str, *, size: int | None, sha256: str) -> Path:
        """The file in the cache, fetched if it is not there."""
        shards = shard_cache()
        found = shards.find(sha256, size)
        try:
            return found or shards.add(sha256, lambda file: self._download(name, size, sha256, file))
        except _MissingError:
            raise FileNotFoundError(f"{self}/{name} is not there") from None

    def free_bytes(self) -> int | None:
        return None

    def staging(self) -> Path | None:
        return None

    def _download(self, name: str, size: int | None, sha256: str, file: BinaryIO) -> None:
        """Write a remote file into `file`. Raises `IntegrityError` if the server has other bytes under this name.

        Pieces of several connections that give the wrong digest may be of two versions: then all is fetched anew, once.
        """
        how = ""
        for _ in range(2):
            file.seek(0)
            file.truncate()
            state, done, patience = hashlib.sha256(), 0, self._patience(name)
            limit = SMALL_FILE_BYTES if size is None else size
            with closing(self._resumed(name, size, patience)) as blocks:
                for block in blocks:
                    wanted = block[: limit - done]
                    file.write(wanted)
                    state.update(wanted)
                    done += len(wanted)
                    if size is not None and done == size:
                        break
            if size is not None and done != size:
                how = f"it has {done:,} bytes, the manifest says {size:,}"
            elif state.hexdigest() == sha256:
                return
            else:
                how = "its SHA-256 is not the manifest's"
            if not patience.failures:
                break
        raise differs(f"{self}/{name}", self.name, how)

    def _resumed(self, name: str, size: int | None, patience: Patience) -> Generator[bytes, None, None]:
        """The bytes of a file, over as many connections as that takes."""
        done, ended_at = 0, -1
        while True:
            try:
                for block in self._stream(name, done):
                    done += len(block)
                    patience.progress()
                    yield block
            except FileNotFoundError:
                raise _MissingError from None
            except Exception as error:
                reason = self._reason(name, error)
            else:
                if size is None or done >= size or done == ended_at:
                    return
                ended_at = done  # twice at the same byte: that is all there is
                reason = f"it ended after {done:,} of {size:,} bytes"
            patience.wait(reason)

    def _patience(self, name: str) -> Patience:
        return Patience(f"{self}/{name}" if name else str(self), RETRIES_IN_A_ROW.get(self.scheme, 5))

    def _patiently(self, name: str, action: Callable[[], T]) -> T:
        """What `action` returns, at the first attempt that does not fail."""
        patience = self._patience(name)
        while True:
            try:
                return action()
            except Exception as error:
                reason = self._reason(name, error)
            patience.wait(reason)

    def _reason(self, name: str, error: Exception) -> str:
        """Why it failed, if another attempt may not. Raises what no attempt can mend.

        Libraries of four makers raise here, and their errors have no base in common: what is not known to be final is
        tried again. Their texts may hold addresses, with keys in them.
        """
        if isinstance(error, FastclipError | TypeError | AttributeError | AssertionError):
            raise error  # said already, or a mistake of ours
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"{self}/{name} is not there") from None
        if isinstance(error, ImportError):
            raise UserError(
                f"{self.scheme}:// needs {PACKAGES[self.scheme]}, which is not installed here.",
                fix=f"pip install {PACKAGES[self.scheme]}  (or, for all kinds of addresses: fastclip[remote])",
            ) from None
        reason = self._without_secrets(str(error).strip().rstrip(".") or type(error).__name__)
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            reason = f"nothing came for {timeout_s():g} seconds"
        status = _http_status(error)
        if isinstance(error, PermissionError) or status in (401, 403) or type(error).__name__ == "NoCredentialsError":
            fix = CREDENTIALS.get(self.scheme, "Check the address: who may read it, and until when a signature holds.")
            raise UserError(f"{self}/{name} may not be used: {reason}.", fix=fix) from None
        if type(error).__name__ == "NonHttpUrlRedirectClientError":
            raise UserError(
                f"{self}/{name} cannot be used: its server redirects to what is neither http nor https.",
                fix="Check the address.",
            ) from None
        if isinstance(error, ValueError | NotImplementedError) or (
            status is not None and 400 <= status < 500 and status not in (408, 409, 425, 429)
        ):
            raise UserError(f"{self}/{name} cannot be used: {reason}.", fix="Check the address.") from None
        return reason


class HttpFolder(RemoteFolder):
    """A folder of an HTTP server. It can be read, by name; user and password, or a signature, may be in its address."""

    def __init__(self, address: SplitResult) -> None:
        # Quoted once and for all: a signature must reach the server as it was given.
        self._address = address._replace(path=quote(address.path.rstrip("/"), safe="/%:@!$&'()*+,;=~"), fragment="")
        self.scheme = address.scheme
        self.name = unquote(self._address.path.rpartition("/")[2]) or address.hostname or ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self._address.netloc.rpartition('@')[2]}{self._address.path}"

    def child(self, name: str) -> HttpFolder:
        return HttpFolder(self._at(name))

    def exists(self, name: str) -> bool:
        def first_byte() -> bool:
            with closing(self._stream(name, 0)) as blocks:
                next(blocks, b"")
            return True

        try:
            return self._patiently(name, first_byte)
        except FileNotFoundError:
            return False

    def list(self, pattern: str) -> Sequence[str]:
        raise UserError(
            f"{self} cannot be searched: HTTP has no list of what is in a folder.",
            fix=f"Name the datasets: fastclip eval DATASET… --shards {self}",
        )

    def write(self, name: str, data: bytes) -> None:
        self._refuse_to_write()

    def put(self, name: str, temporary: Path) -> None:
        self._refuse_to_write()

    def rename(self, old: str, new: str) -> None:
        self._refuse_to_write()

    def remove(self, name: str) -> None:
        self._refuse_to_write()

    def _refuse_to_write(self) -> NoReturn:
        raise UserError(
            f"{self} can only be read: HTTP has no common way to write.",
            fix="Write to a folder or to s3://, gs:// or hf://, and let the server give it out.",
        )

    def _at(self, name: str) -> SplitResult:
        return self._address._replace(path=f"{self._address.path}/{quote(name)}")

    def _stream(self, name: str, offset: int) -> Generator[bytes, None, None]:
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
        # `size` spares a request for it, block_size=0 gives the connection's bytes as they come.
        options = {"block_size": 0, "size": 1, "headers": headers}
        try:
            file = _connected("http").open(self._at(name).geturl(), "rb", **options)
        except Exception as error:
            if offset and _http_status(error) == 416:
                return  # it is not longer than what is there already
            raise
        with closing(file):
            to_skip = offset if file.r.status == 200 else 0  # a server without ranges sends all of it again
            sent = file.r.headers.get("Content-Range", f"bytes {offset}-")
            if not to_skip and not sent.startswith(f"bytes {offset}-"):
                raise ConnectionError(f"the server sent {sent} where bytes {offset}- were asked for")
            mark_s, came = time.monotonic(), 0
            while block := file.read(1 << 20):
                came += len(block)
                if (elapsed_s := time.monotonic() - mark_s) > timeout_s():
                    if came < LEAST_BYTES_A_SECOND * elapsed_s:
                        raise TimeoutError
                    mark_s, came = time.monotonic(), 0
                if len(block) > to_skip:
                    yield block[to_skip:]
                to_skip = max(0, to_skip - len(block))

    def _without_secrets(self, text: str) -> str:
        text = re.sub(r"\w+://\S+", "the address", text)
        secrets = [self._address.username, self._address.password, self._address.query]
        secrets += [value for _, value in parse_qsl(self._address.query)]
        for secret in secrets:
            if secret:
                text = text.replace(secret, "…").replace(unquote(secret), "…")
        return text


class BucketFolder(RemoteFolder):
    """A folder of an object store. Files are there whole or not at all: so these stores promise."""

    def __init__(self, scheme: str, path: str) -> None:
        self.scheme = scheme
        self._path = path.strip("/")
        self.name = self._path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.scheme}://{self._path}"

    def child(self, name: str) -> BucketFolder:
        return BucketFolder(self.scheme, f"{self._path}/{name}")

    def exists(self, name: str) -> bool:
        try:
            self._patiently(name, lambda: self._size(name))
        except FileNotFoundError:
            return False
        return True

    def list(self, pattern: str) -> Sequence[str]:
        """Level by level: `*/manifest.json` must not list a million shards."""
        *folders, last = pattern.split("/")
        found = [""]
        for level in folders:
            found = [name for folder in found for name in self._entries(folder, level, "directory")]
        return sorted(name for folder in found for name in self._entries(folder, last, "file"))

    def write(self, name: str, data: bytes) -> None:
        self._upload(name, len(data), lambda path: self._filesystem.pipe_file(path, data))

    def put(self, name: str, temporary: Path) -> None:
        self._upload(name, temporary.stat().st_size, lambda path: self._filesystem.put_file(str(temporary), path))
        temporary.unlink()

    def rename(self, old: str, new: str) -> None:
        self._patiently(old, lambda: self._filesystem.cp_file(f"{self._path}/{old}", f"{self._path}/{new}"))
        self.remove(old)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
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
        where = f"{self._path}/{folder}".rstrip("/")
        try:
            entries = self._patiently(folder, lambda: self._filesystem.ls(where, detail=True))
        except FileNotFoundError:
            return []
        names = [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == kind]
        return [f"{folder}/{name}".lstrip("/") for name in names if fnmatchcase(name, pattern)]

    def _upload(self, name: str, size: int, upload: Callable[[str], object]) -> None:
        def upload_and_look() -> None:
            upload(f"{self._path}/{name}")
            found = self._size(name)
            if found != size:
                raise ConnectionError(f"{size:,} bytes were sent, {found:,} are there")

        self._patiently(name, upload_and_look)

    def _stream(self, name: str, offset: int) -> Generator[bytes, None, None]:
        path = f"{self._path}/{name}"
        size = self._size(name)
        while offset < size:
            starts = list(range(offset, min(size, offset + BLOCKS_AT_ONCE * BLOCK_BYTES), BLOCK_BYTES))
            ends = [min(size, start + BLOCK_BYTES) for start in starts]
            # What arrived before the first that failed is kept.
            blocks = self._filesystem.cat_ranges([path] * len(starts), starts, ends, on_error="return")
            for start, end, block in zip(starts, ends, blocks, strict=True):
                if isinstance(block, Exception):
                    raise block
                if len(block) != end - start:
                    raise ConnectionError(f"{len(block):,} bytes came where {end - start:,} were asked for")
                yield block
            offset = ends[-1]

    def _without_secrets(self, text: str) -> str:
        return re.sub(r"\w+://\S+", "the address", text)  # a library may sign the addresses that it asks


def open_remote_folder(address: str) -> Folder:
    """The folder at an address. Raises `UserError` unless its scheme is known."""
    scheme = {"gcs": "gs"}.get(found := address.partition("://")[0].lower(), found)
    if scheme not in PACKAGES:
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
            raise UserError(f"The {scheme}:// address of the shards is none.", fix=f"{scheme}://HOST/FOLDER") from None
        return HttpFolder(split)
    if "@" in rest.partition("/")[0]:
        raise UserError(f"An {scheme}:// address holds no keys.", fix=CREDENTIALS[scheme])
    if not rest.strip("/"):
        raise UserError(f"{scheme}:// names no bucket.", fix=f"{scheme}://BUCKET/FOLDER")
    return BucketFolder(scheme, rest)


def _connected(scheme: str) -> Any:
    """fsspec's file system, one a process: its connections do not survive a fork."""
    return _filesystem(scheme, os.getpid(), timeout_s())


@cache
def _filesystem(scheme: str, process: int, wait_s: float) -> Any:
    import fsspec

    # They log failures with tracebacks and whole addresses; what matters of them is in our errors.
    # asyncio complains at the end of a loaded machine's process of a connection that was not closed in a tenth second.
    for library in ("aiobotocore", "asyncio", "botocore", "fsspec", "gcsfs", "huggingface_hub", "s3fs"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    return fsspec.filesystem(scheme, skip_instance_cache=True, **_filesystem_options(scheme, wait_s))


def _filesystem_options(scheme: str, wait_s: float) -> dict[str, Any]:
    """Timeouts, lists that are never cached, and no retries but ours where that can be had: they would multiply."""
    if scheme == "http":
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, connect=wait_s, sock_connect=wait_s, sock_read=wait_s)
        return {"encoded": True, "client_kwargs": {"timeout": timeout, "trust_env": True}}
    if scheme == "s3":
        config = {"connect_timeout": wait_s, "read_timeout": wait_s, "retries": {"total_max_attempts": 1}}
        return {"use_listings_cache": False, "config_kwargs": config}
    if scheme == "gs":
        return {"use_listings_cache": False, "requests_timeout": wait_s}
    return {"use_listings_cache": False}


def _http_status(error: Exception) -> int | None:
    """The HTTP status that an error of aiohttp, huggingface_hub or gcsfs was made of."""
    response = getattr(error, "response", None)
    for holder, name in ((error, "status"), (error, "code"), (response, "status_code")):
        status = getattr(holder, name, None)
        if isinstance(status, int):
            return status
    return None
