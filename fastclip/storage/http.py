"""The one HTTP client. It follows redirects within the web only, takes no credentials along, and shows no secret."""

from __future__ import annotations

import http.client
import netrc
import os
import re
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
        start, total = _span(response, offset)
        found = _version(response)
        if start and version and found not in ("", version):
            raise ChangedError("the server sent other bytes than it was asked for")
        yield Answer(
            blocks=_blocks(response, None if total is None else total - start, timeout_s),
            start=start,
            total=total,
            version=found,
            cut_shows=total is not None or bool(response.chunked),
            is_page=response.status != 416 and response.headers.get_content_type() == "text/html",
        )


def _follow(file: RemoteFile, headers: dict[str, str], timeout_s: float) -> HTTPResponse:
    """The answer at the end of all redirects, whatever its status."""
    opener = urllib.request.OpenerDirector()
    web = (urllib.request.HTTPHandler, urllib.request.HTTPSHandler)  # no handler for file: or ftp:
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


def _span(response: HTTPResponse, offset: int) -> tuple[int, int | None]:
    """Where in the file an answer begins, and how long the file is, if the server says."""
    if response.status == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() and not response.chunked else None
    sent = response.headers.get("Content-Range", "").strip()
    if response.status == 416:
        if re.fullmatch(rf"bytes\s*\*/{offset}", sent):
            return offset, offset  # it ends there
        raise ChangedError("the file has become shorter")
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", sent)
    total = 0 if found is None else int(found[2]) + 1 if found[3] == "*" else int(found[3])
    if found is None or int(found[1]) != offset or total < offset:
        raise ChangedError("the server sent other bytes than it was asked for")
    return offset, total


def _version(response: HTTPResponse) -> str:
    """The value for If-Range: a strong ETag, else the time of the last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


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
        after = response.headers.get("Retry-After", "")
        return LostError(f"the server answers {status}", float(after) if after.isdecimal() else 0.0)
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
