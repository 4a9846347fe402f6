"""The head of an HTTP answer: which bytes of which version of a file it brings, and whether they come packed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse

from fastclip.errors import UserError, printable
from fastclip.storage.transfer import ChangedError, LostError, RemoteFile

PACKED_NAMES = (".gz", ".tgz", ".z", ".bz2", ".xz", ".zst", ".br")
"""Ends of names of packed files. Servers call such a file's own bytes encoded."""

STRONG_S = 60.0
"""Seconds for which a file must not have changed before the time of its last change names its bytes."""


def span(response: HTTPResponse, offset: int) -> tuple[int, int | None]:
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


def version_of(response: HTTPResponse) -> str:
    """The value for If-Range: a strong ETag, else the time of the last change if that was not just now; "" for none."""
    tag = response.headers.get("ETag", "")
    if tag.startswith('"'):
        return tag
    changed = response.headers.get("Last-Modified", "")
    age_s = seconds_between(changed, response.headers.get("Date", ""))
    return changed if age_s is not None and age_s >= STRONG_S else ""


def seconds_between(earlier: str, later: str) -> float | None:
    """The seconds between two dates of a server, None if one of them is none."""
    try:
        return (parsedate_to_datetime(later) - parsedate_to_datetime(earlier)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None


def is_packed(file: RemoteFile, response: HTTPResponse) -> bool:
    """Whether the server packed the file, unasked, with gzip. Raises `UserError` for another way of packing."""
    how = response.headers.get("Content-Encoding", "").strip().lower()
    if how in ("", "identity") or response.status == 416 or file.name.lower().endswith(PACKED_NAMES):
        return False
    if how not in ("gzip", "x-gzip"):
        raise UserError(
            f"{file.shown} comes packed ({printable(how)[:30]}), although it was asked for as it is.", fix=file.cure
        )
    return True


def unpacked(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes in a gzip stream. Raises `LostError` if it ends early or is damaged."""
    state = zlib.decompressobj(wbits=31)
    for block in blocks:
        while True:
            if state.eof and block:
                state = zlib.decompressobj(wbits=31)  # several streams may follow each other
            try:
                data = state.decompress(block, 1 << 20)
            except zlib.error as error:
                raise LostError("it comes packed, and damaged") from error
            block = state.unused_data if state.eof else state.unconsumed_tail
            if data:
                yield data
            elif not block:
                break
    if not state.eof:
        raise LostError("the connection ended early")
