"""One file over HTTP: whole and checked under its name or not there at all, and resumed where it was cut off."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from fastclip import __version__
from fastclip.errors import IncompleteError, IntegrityError, UserError
from fastclip.files import canonical_json, digest, digest_file, publish, write_whole

PART = ".part"
"""Ends the name of a file that is not whole yet."""

PART_NOTES = ".part.json"
"""Ends the name of what is known of such a file: whose part it is, and of which version."""

Watch = Callable[[str, int], None]
"""Told what happens now, and by how many bytes what lies on the disk has just grown (or shrunk)."""

LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How patient to be with a server."""

    timeout_s: float = 60.0
    """Seconds without a byte after which a connection counts as lost."""
    retries: int = 5
    """Attempts in a row that may bring nothing new: what gets on, in however many pieces, is not given up."""
    first_wait_s: float = 1.0
    """The pause before the first of them; each next one is twice as long."""

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise UserError(f"The timeout must be more than 0 seconds, not {self.timeout_s:g}.", fix="--timeout 60")
        if self.retries < 0 or self.first_wait_s < 0:
            raise UserError("Neither the retries nor the pause before them can be negative.", fix="--retries 5")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file to fetch, and what it must turn out to be."""

    name: str
    """Its path below the folder of the download, with forward slashes."""
    url: str = field(repr=False)
    shown: str
    """`url` for people and records: without a query, which may hold somebody's key."""
    bytes: int | None = None
    sha256: str | None = None
    token: str | None = field(default=None, repr=False)
    """Sent to the host of `url`, and to no other that it redirects to. None where there is nobody to log in with."""
    page: str = ""
    """Where a person can read about it."""
    by_hand: bool = False
    """A person put it there: `url` is only where from."""


class _LostError(Exception):
    """The connection failed in a way that another attempt may not."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def fetch(file: RemoteFile, target: Path, options: FetchOptions, watch: Watch) -> str:
    """Fetch `file` to `target`, on from what an earlier run left beside it, and return its SHA-256.

    Raises `IncompleteError` when the server cannot be reached for now (what came stays for the next run),
    `IntegrityError` when the file is not what it must be (nothing stays), `UserError` when it cannot be had.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
    failures, furthest = 0, 0
    while True:
        try:
            _receive(file, part, options, watch)
            break
        except _LostError as lost:
            got = size_of(part)
            failures, furthest = (0, got) if got > furthest else (failures + 1, furthest)
            if failures > options.retries:
                raise IncompleteError(
                    f"{file.shown}: {lost}; {got:,} bytes of it are here.",
                    fix="Run the same command again; it goes on from there.",
                ) from lost
            wait_s = min(max(options.first_wait_s * 2 ** max(failures - 1, 0), lost.wait_s), LONGEST_WAIT_S)
            watch(f"{file.name}: {lost}, again in {wait_s:.0f} s", 0)
            time.sleep(wait_s)
    watch(f"checking {file.name}", 0)
    found = _check(file, part)
    publish(part, target)
    notes_of(part).unlink(missing_ok=True)
    return found


def part_of(target: Path) -> Path:
    """Where the beginning of `target` lies while it is fetched."""
    return target.with_name(target.name + PART)


def notes_of(part: Path) -> Path:
    """Where the version of the file stands that `part` is the beginning of."""
    return part.with_name(part.name.removesuffix(PART) + PART_NOTES)


def size_of(path: Path) -> int:
    """Bytes of the file at `path`, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def remote_bytes(file: RemoteFile, options: FetchOptions) -> int | None:
    """How many bytes the server says `file` has, None if it does not say."""
    try:
        with _open(file, {}, options.timeout_s) as response:
            return _length(response)
    except _LostError as lost:
        raise IncompleteError(f"{file.shown}: {lost}.", fix="Run the same command again.") from lost


def check_space(folder: Path, needed: int) -> None:
    """Raise `IncompleteError` unless the disk that `folder` is on, or will be, has `needed` bytes left."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise IncompleteError(
            f"{folder} needs {needed / 1e9:,.2f} GB more, and its disk has {free / 1e9:,.2f} GB left.",
            fix="Free space there, or take another disk: --to DIR",
        )


def _receive(file: RemoteFile, part: Path, options: FetchOptions, watch: Watch) -> None:
    """Complete `part` over one connection; raises `_LostError` when that is cut off."""
    size = size_of(part)
    done, version = _resumable(file, part, size)
    if done and done == file.bytes:
        return
    headers = {"Range": f"bytes={done}-"} if done else {}
    if done and version:
        headers["If-Range"] = version
    try:
        response = _open(file, headers, options.timeout_s)
    except HTTPError as error:  # 416, the part is as long as the file or longer
        if error.headers.get("Content-Range", "").replace(" ", "") == f"bytes*/{done}":
            return
        watch(file.name, -size)
        _discard(part)
        raise _LostError("the file has become shorter") from error
    with response:
        start, total = _span(response, done, version)
        if start < 0:
            watch(file.name, -size)
            _discard(part)
            raise _LostError("the server sent other bytes than it was asked for")
        _check_answer(file, response, total)
        if total is not None:
            check_space(part.parent, total - start)
        watch(file.name, start - size)
        try:
            with part.open("ab" if start else "wb") as out:
                if not start:  # only now that nothing of another version is left
                    notes = {"source": _source(file), "version": _version(response.headers)}
                    write_whole(notes_of(part), canonical_json(notes))
                _copy(response, out, lambda count: watch(file.name, count))
        except OSError as error:
            raise IncompleteError(
                f"Cannot write {part}: {error.strerror or error}.",
                fix="Free space or permissions there, then run the same command again; it goes on from there.",
            ) from error
    whole = total if total is not None else None if response.chunked else file.bytes
    if whole is not None and size_of(part) < whole:
        raise _LostError(f"the connection ended {whole - size_of(part):,} bytes early")


def _copy(response: HTTPResponse, out: IO[bytes], on_bytes: Callable[[int], None]) -> None:
    """Write what comes to `out` as it comes, so that a killed process leaves all of it, and sync it."""
    try:
        while True:
            try:
                block = response.read1(1 << 20)
            except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a chunk's length is none
                raise _LostError(_reason(error)) from error
            if not block:
                return
            out.write(block)
            out.flush()
            on_bytes(len(block))
    finally:
        os.fsync(out.fileno())


def _open(file: RemoteFile, headers: dict[str, str], timeout_s: float) -> HTTPResponse:
    """The answer to a GET of `file`: 200 or 206. Raises `HTTPError` for 416, `_LostError`, or `UserError`."""
    request = urllib.request.Request(file.url, headers={"Accept-Encoding": "identity", **headers})
    request.add_header("User-Agent", f"fastclip/{__version__}")
    if file.token:
        request.add_unredirected_header("Authorization", f"Bearer {file.token}")
    opener = urllib.request.OpenerDirector()  # the handlers of the web only: no file:, ftp: or data:
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _WebRedirects,
    ):
        opener.add_handler(handler())
    try:
        response: HTTPResponse = opener.open(request, timeout=timeout_s)
    except HTTPError as error:
        error.close()
        if error.code == 416 and "Range" in headers:
            raise
        if error.code in (408, 425, 429) or error.code >= 500:
            after = error.headers.get("Retry-After", "")
            raise _LostError(f"the server answers {error.code}", float(after) if after.isdecimal() else 0.0) from error
        raise _refusal(file, error.code) from error
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise UserError(
                f"{file.shown}: its certificate cannot be verified ({error.reason.verify_message}).",
                fix="If a proxy of yours signs it, name its certificates in SSL_CERT_FILE; else do not trust it.",
            ) from error
        raise _LostError(_reason(error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _LostError(_reason(error)) from error
    if response.status not in (200, 206):
        response.close()
        raise _LostError(f"the server answers {response.status}")
    return response


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects within the web only, and takes credentials to no other server."""

    # Python 3.10 does not know 308.
    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("http", "https"):
            raise HTTPError(req.full_url, code, "not a web address", headers, fp)
        followed = urllib.request.Request(newurl, headers=req.headers, unverifiable=True)
        authorization = req.unredirected_hdrs.get("Authorization")
        if authorization and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            followed.add_unredirected_header("Authorization", authorization)
        return followed


def _refusal(file: RemoteFile, code: int) -> UserError:
    by_hand = f"See {file.page or 'the page of the dataset'}; a file that you put there by hand is taken as it is."
    if code in (401, 403):
        log_in = f"Ask for access at {file.page}, then `hf auth login` or HF_TOKEN=…" if file.token is not None else ""
        return UserError(f"{file.shown} is not open to everybody: the server answers {code}.", fix=log_in or by_hand)
    if code < 400:
        return UserError(f"{file.shown} redirects in circles, or to what is neither http nor https.", fix=by_hand)
    return UserError(f"{file.shown} cannot be had: the server answers {code}.", fix=by_hand)


def _reason(error: Exception) -> str:
    """What broke a connection, without addresses: those may hold keys."""
    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    if isinstance(cause, TimeoutError):
        return "the server fell silent"
    if isinstance(cause, socket.gaierror):
        return "its server's name is not known here (no network?)"
    if isinstance(cause, http.client.HTTPException | ValueError):
        return "the connection was cut off"
    return (cause.strerror if isinstance(cause, OSError) and cause.strerror else type(cause).__name__).lower()


def _resumable(file: RemoteFile, part: Path, size: int) -> tuple[int, str]:
    """How many bytes of `part` a new connection can go on from, and the version they are of ("" if unknown).

    Without a version only a known digest can tell a splice of two files from one: Hugging Face's servers name none.
    """
    try:
        notes = json.loads(notes_of(part).read_bytes())
        source, version = str(notes["source"]), str(notes["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""
    if source != _source(file) or (file.bytes is not None and size > file.bytes) or not (version or file.sha256):
        return 0, ""
    return size, version


def _source(file: RemoteFile) -> str:
    """The address as a digest: the notes of a part are no place for keys either."""
    return digest(file.url.encode())


def _version(headers: HTTPMessage) -> str:
    """What If-Range can be asked with: a strong ETag, else the time of the last change."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _length(response: HTTPResponse) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and not response.chunked else None


def _span(response: HTTPResponse, done: int, version: str) -> tuple[int, int | None]:
    """Where in the file an answer begins, -1 if that makes no sense, and how long the file is, if the server says."""
    if response.status == 200:
        return 0, _length(response)
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if found is None or int(found[1]) != done or (version and _version(response.headers) not in ("", version)):
        return -1, None
    total = int(found[2]) + 1 if found[3] == "*" else int(found[3])
    return (done, total) if total >= done else (-1, None)


def _check_answer(file: RemoteFile, response: HTTPResponse, total: int | None) -> None:
    """Raise before anything is written if this cannot be the file."""
    if response.headers.get_content_type() == "text/html" and not file.name.endswith((".html", ".htm")):
        raise UserError(
            f"{file.shown} leads to a web page, not to a file.",
            fix=f"See {file.page or 'it'} in a browser: it has moved, or wants a log-in; put it there by hand.",
        )
    if total is not None and file.bytes is not None and total != file.bytes:
        raise IntegrityError(
            f"{file.shown} has {total:,} bytes, expected {file.bytes:,}; nothing was fetched.",
            fix="The source has changed: compare its page, then correct the card (and delete downloaded.json).",
        )
    if total is None and not response.chunked and file.bytes is None and file.sha256 is None:
        raise UserError(
            f"{file.shown}: neither its server nor the card says how long it is, so a cut would go unnoticed.",
            fix="Write `bytes` or `sha256` into its row of the card.",
        )


def _check(file: RemoteFile, part: Path) -> str:
    """The SHA-256 of the finished `part`; removes it and raises `IntegrityError` if it is not what it must be."""
    problem, found = "", ""
    if file.bytes not in (None, size := size_of(part)):
        problem = f"{size:,} bytes, expected {file.bytes:,}"
    elif file.sha256 not in (None, found := digest_file(part)):
        problem = f"SHA-256 {found[:16]}…, expected {file.sha256[:16]}…"
    if problem:
        _discard(part)
        raise IntegrityError(
            f"{file.shown} came with {problem}; it was not kept.",
            fix="Run it once more. If it ends the same, the source has changed: compare its page, correct the card.",
        )
    return found


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    notes_of(part).unlink(missing_ok=True)
