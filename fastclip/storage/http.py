"""The one HTTP client. It follows redirects within the web only, takes no credentials along, and shows no secret."""

from __future__ import annotations

import http.client
import netrc
import os
import socket
import ssl
import string
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path
from urllib.error import URLError
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from fastclip import __version__
from fastclip.errors import UserError
from fastclip.storage.connections import HttpHandler, HttpsHandler
from fastclip.storage.http_headers import is_packed, seconds_between, span, unpacked, version_of
from fastclip.storage.transfer import LEAST_BYTES_A_SECOND, Answer, ChangedError, LostError, MissingError, RemoteFile

MOST_REDIRECTS = 10


@contextmanager
def get(file: RemoteFile, timeout_s: float, offset: int = 0, version: str = "") -> Iterator[Answer]:
    """The answer to a GET of `file`, as `fastclip.storage.transfer.Get` says."""
    headers = {"Accept-Encoding": "identity", "User-Agent": f"fastclip/{__version__}"}
    if offset:
        headers |= {"Range": f"bytes={offset}-"} | ({"If-Range": version} if version else {})
    try:
        response = _follow(file, headers, timeout_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _no_connection(file, error, timeout_s) from error
    with response:
        if response.status not in (200, 206) and not (response.status == 416 and offset):
            raise _refusal(file, response)
        start, total = span(response, offset)
        # A server that has nothing more to send compared the version, and does not always name it again.
        found = version_of(response) or (version if response.status == 416 else "")
        if start and version and found not in ("", version):
            raise ChangedError("the server sent other bytes than it was asked for")
        blocks = _blocks(response, None if total is None else total - start, timeout_s)
        if packed := is_packed(file, response):
            if start:
                raise ChangedError("the server packs what it sends")
            blocks, total, found = unpacked(blocks), None, ""
        yield Answer(
            blocks=blocks,
            start=start,
            total=total,
            version=found,
            modified=response.headers.get("Last-Modified", ""),
            cut_shows=packed or total is not None or bool(response.chunked),
            is_page=response.status != 416 and response.headers.get_content_type() == "text/html",
        )


def _follow(file: RemoteFile, headers: dict[str, str], timeout_s: float) -> HTTPResponse:
    """The answer at the end of all redirects, whatever its status."""
    opener = urllib.request.OpenerDirector()
    web = (HttpHandler, HttpsHandler)  # no handler for file: or ftp:
    for handler in (urllib.request.ProxyHandler, *web, urllib.request.HTTPCookieProcessor):
        opener.add_handler(handler())
    here = urlsplit(file.url)
    login = f"Bearer {file.token}" if file.token else _login(here)  # goes along while the server is the same
    downgraded = False
    for _ in range(MOST_REDIRECTS + 1):
        request = urllib.request.Request(here._replace(netloc=here.netloc.rpartition("@")[2]).geturl(), headers=headers)
        if authorization := login or ("" if downgraded else _login(here)):
            request.add_header("Authorization", authorization)
        response: HTTPResponse = opener.open(request, timeout=timeout_s)
        if response.status not in (301, 302, 303, 307, 308):
            return response
        response.close()
        location = quote(response.headers.get("Location", ""), safe=string.punctuation, encoding="iso-8859-1")
        there = urlsplit(urljoin(here.geturl(), location))
        if there.scheme not in ("http", "https"):
            raise UserError(f"{file.shown} redirects to what is neither http nor https.", fix=file.cure)
        login = login if _is_same_server(here, there) else ""
        downgraded |= (here.scheme, there.scheme) == ("https", "http")
        here = there
    raise UserError(f"{file.shown} redirects in circles.", fix=file.cure)


def _is_same_server(old: SplitResult, new: SplitResult) -> bool:
    """Whether both have one scheme, host and port, or the second is https where the first is http."""
    if (old.scheme, old.port or 80, new.scheme, new.port or 443) == ("http", 80, "https", 443):
        return old.hostname == new.hostname
    return (old.scheme, old.hostname, old.port) == (new.scheme, new.hostname, new.port)


def _login(address: SplitResult) -> str:
    """The header for the user and password in an address, or for its host in $NETRC or ~/.netrc; "" without either."""
    user, password = unquote(address.username or ""), unquote(address.password or "")
    if not user:
        with suppress(OSError, RuntimeError, ValueError, netrc.NetrcParseError):  # an unreadable file has no login
            hosts = netrc.netrc(os.environ.get("NETRC") or Path.home() / ".netrc").hosts
            user, _, password = (part or "" for part in hosts.get(address.hostname or "", ("", "", "")))
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode() if user else ""


def _blocks(response: HTTPResponse, length: int | None, timeout_s: float) -> Iterator[bytes]:
    """The body as it comes. Raises `LostError` when the server falls silent, gets too slow, or ends before `length`."""
    came, mark, mark_s = 0, 0, time.monotonic()
    while came != length:
        try:
            block = response.read1(1 << 20)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a chunk's length is no number
            raise LostError(_reason(error, timeout_s)) from error
        if not block and length is not None:
            raise LostError(f"the connection ended {length - came:,} bytes early")
        if not block:
            return
        came += len(block)
        yield block
        if (elapsed_s := time.monotonic() - mark_s) > timeout_s:
            if came - mark < LEAST_BYTES_A_SECOND * elapsed_s:
                raise LostError(f"the server sends fewer than {LEAST_BYTES_A_SECOND:,} bytes a second")
            mark, mark_s = came, time.monotonic()


def _refusal(file: RemoteFile, response: HTTPResponse) -> LostError | UserError:
    """The error for an answer that holds no bytes of the file."""
    status = response.status
    if not 300 <= status < 500 or status in (408, 409, 425, 429):
        after = response.headers.get("Retry-After", "").strip()
        wait_s = float(after) if after.isdecimal() else seconds_between(response.headers.get("Date", ""), after)
        return LostError(f"the server answers {status}", max(0.0, wait_s or 0.0))
    how = "may not be read" if status in (401, 403) else "cannot be had"
    kind = MissingError if status == 404 else UserError
    return kind(f"{file.shown} {how}: the server answers {status}.", fix=file.cure)


def _no_connection(file: RemoteFile, error: Exception, timeout_s: float) -> LostError | UserError:
    """The error for a request that got no answer."""
    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return UserError(
            f"{file.shown}: its certificate cannot be verified ({cause.verify_message}).",
            fix="If a proxy of yours signs it, name its certificates in SSL_CERT_FILE; else do not trust it.",
        )
    if isinstance(cause, http.client.InvalidURL | ValueError):
        return UserError(f"{file.shown} has, or redirects to, an address that cannot be valid.", fix=file.cure)
    return LostError(_reason(cause, timeout_s))


def _reason(cause: Exception, timeout_s: float) -> str:
    """How a connection broke, without addresses: those may hold keys."""
    if isinstance(cause, TimeoutError):
        return f"the server fell silent for {timeout_s:g} seconds"
    if isinstance(cause, socket.gaierror):
        return "its server's name is not known here (no network?)"
    if isinstance(cause, http.client.HTTPException | ValueError):
        return "the connection was cut off"
    return (cause.strerror if isinstance(cause, OSError) and cause.strerror else type(cause).__name__).lower()
