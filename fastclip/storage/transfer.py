"""Files that come over a network: retried, resumed where a connection broke, and checked, whatever the protocol."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from fastclip.errors import UserError
from fastclip.faults import MachineError
from fastclip.files import digest_file
from fastclip.storage.cache import number_from_environment

LEAST_BYTES_A_SECOND = 1000
"""A slower server counts as stalled, within one connection and over several."""

LONGEST_PAUSE_S = 60.0
"""The longest pause of our own choice."""

LONGEST_WAIT_S = 300.0
"""A server that asks to be left alone for longer is given up at once."""

Watch = Callable[[str, int], None]
"""Told what happens now, and by how many bytes the file here has just grown (or shrunk)."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How patient to be with a server."""

    timeout_s: float = 60.0
    """Seconds without a byte after which a connection counts as lost. The first pause is a sixtieth of it."""
    retries: int = 5
    """Attempts in a row that may bring nothing new. A server that gets on is not given up, in however many pieces."""

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            fix = "--timeout 60, or export FASTCLIP_TIMEOUT_S=60"
            raise UserError(f"The timeout must be more than 0 seconds, not {self.timeout_s:g}.", fix=fix)
        if self.retries < 0:
            raise UserError("The number of retries cannot be negative.", fix="--retries 5")


def options_from_environment() -> FetchOptions:
    """The options in $FASTCLIP_TIMEOUT_S and $FASTCLIP_RETRIES."""
    retries = number_from_environment("FASTCLIP_RETRIES", float(FetchOptions.retries))
    return FetchOptions(
        timeout_s=number_from_environment("FASTCLIP_TIMEOUT_S", FetchOptions.timeout_s), retries=int(retries)
    )


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file to fetch, and what it must turn out to be."""

    name: str
    """Its path below the folder that it belongs to, with forward slashes."""
    shown: str
    """Its address for people and records: without anything that may be a key."""
    url: str = field(default="", repr=False)
    """On a web server. May hold a user and a password, sent as a header, or a signature, sent as it is."""
    bytes: int | None = None
    sha256: str | None = None
    token: str = field(default="", repr=False)
    """Sent to the server of `url` and to no other."""
    cure: str = "Check the address: who may read it, and until when a signature holds."
    """The fix to show when the server refuses."""
    by_hand: bool = False
    """A person put it there: `url` is only where from."""


class LostError(Exception):
    """An attempt failed in a way that another one may not. The server asked for a pause of `wait_s` seconds."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class ChangedError(LostError):
    """The file is no longer the one whose beginning came before: it must be fetched from its start."""


class MissingError(UserError):
    """There is no such file. It is no `OSError`, which writing the local file may raise as well."""


class OtherBytesError(Exception):
    """The file came whole, and is not the one that was wanted. The text says how it differs."""


def patiently(
    what: str,
    options: FetchOptions,
    attempt: Callable[[], T],
    *,
    done: Callable[[], int] = lambda: 0,
    watch: Watch = lambda now, count: None,
) -> T:
    """The result of the first attempt that does not raise `LostError`. `done()` tells how many bytes are here.

    Pauses start at a sixtieth of the timeout and double each time. Raises `MachineError` after too many attempts in
    a row that brought too little or nothing.
    """
    failures, in_a_row, furthest, since_s = 0, 0, done(), time.monotonic()
    while True:
        try:
            return attempt()
        except LostError as error:
            lost = error
        now_s, here = time.monotonic(), done()
        got_on = here - furthest >= max(1, LEAST_BYTES_A_SECOND * (now_s - since_s))
        failures, in_a_row = failures + 1, 0 if got_on else in_a_row + 1
        furthest, since_s = max(here, furthest), now_s
        came = f"; {here:,} bytes of it came" if here else ""
        if lost.wait_s > LONGEST_WAIT_S:
            raise MachineError(
                f"{what} cannot be had now: {lost}, and asks to come back in {_in_words(lost.wait_s)}{came}.",
                fix="Run the same command then; it goes on where it was.",
            ) from lost
        if in_a_row > options.retries:
            raise MachineError(
                f"{what} cannot be reached, after {failures} attempt{'s' * (failures > 1)}: {lost}{came}.",
                fix="Check the address and the network, then run the same command again to go on.",
            ) from lost
        # Spread by a quarter either way, so that not all processes come back at once.
        doubled_s = options.timeout_s / 60 * 2 ** max(in_a_row - 1, 0) * random.uniform(0.75, 1.25)
        pause_s = max(min(doubled_s, LONGEST_PAUSE_S), lost.wait_s)
        watch(f"{what}: {lost}, again in {pause_s:.0f} s", 0)
        time.sleep(pause_s)


def _in_words(seconds: float) -> str:
    """A span of time, in whole minutes, hours or days."""
    for unit, size in (("days", 86_400), ("hours", 3_600)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds / 60:,.0f} minutes"


@dataclass(frozen=True)
class Version:
    """All that a server says about which bytes of a file it sends. Nothing is known of fields that are empty."""

    tag: str = ""
    """The value for If-Range."""
    total: int | None = None
    modified: str = ""

    def may_be(self, other: Version) -> bool:
        """Whether both may be of the same bytes: nothing that is known of both differs."""
        pairs = ((self.tag, other.tag), (self.total, other.total), (self.modified, other.modified))
        return all(one == two for one, two in pairs if one not in ("", None) and two not in ("", None))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The bytes of a file from `start` on, from one connection."""

    blocks: Iterator[bytes]
    """Raises `LostError` if the connection breaks or stalls."""
    start: int
    total: int | None
    """Length of the whole file, where the server tells it."""
    version: str = ""
    """The value for If-Range: differs for files that differ; "" where the server names none."""
    modified: str = ""
    """When the server says that the file was changed last."""
    cut_shows: bool = True
    """Whether `blocks` would notice an early end."""
    is_page: bool = False
    """Whether the server calls it a web page."""

    @property
    def of(self) -> Version:
        """The version of the file that it is a piece of."""
        return Version(self.version, self.total, self.modified)


Get = Callable[[int, str], AbstractContextManager[Answer]]
"""Asks for a file from an offset on, if it is still of a version. The server may send all of it instead.

Raises `LostError` where another attempt may succeed, `ChangedError` where one from the start may, else `UserError`.
"""


def receive(
    file: RemoteFile,
    get: Get,
    out: BinaryIO,
    options: FetchOptions,
    *,
    version: Version = Version(),
    most_bytes: int = sys.maxsize,
    on_answer: Callable[[Answer], object] = lambda answer: None,
    watch: Watch = lambda now, count: None,
) -> str:
    """Write `file` into `out` over as many connections as it takes, and return its SHA-256.

    `out` may hold the beginning of `version` already. `on_answer` may refuse an answer before anything
    of it is written. A file of unknown length is read up to `most_bytes`.

    Raises `MachineError` if the server is given up (`out` keeps what came), `OtherBytesError` if its file is
    another one, and `UserError` if it cannot be had.
    """
    most_bytes = most_bytes if file.bytes is None else file.bytes
    joined, ended_at = False, -1

    def restart(new_version: Version) -> None:
        nonlocal version, joined
        version, joined = new_version, False
        watch(file.name, -out.tell())
        out.seek(0)
        out.truncate()

    def go_on() -> str:
        nonlocal joined, ended_at
        if not (version.tag or file.sha256):
            restart(Version())  # only a version or a digest can tell a splice of two files from one
        if not out.tell() or out.tell() != file.bytes:
            with get(out.tell(), version.tag) as answer:
                if answer.start and not (answer.of.may_be(version) and (answer.version or file.sha256)):
                    raise ChangedError("the server does not go on with the version that it began with")
                on_answer(answer)
                if not answer.start:
                    restart(answer.of)
                joined |= answer.start > 0
                _add(answer, file, out, most_bytes, watch)
        if not out.tell() and file.bytes is None and file.sha256 is None:
            raise LostError("it comes empty (for a file that is, write `bytes = 0` into its row of the card)")
        if file.bytes is not None and out.tell() < file.bytes and out.tell() != ended_at:
            ended_at = out.tell()  # if it ends at the same byte twice, that is all there is
            raise LostError(f"the connection ended {file.bytes - ended_at:,} bytes early")
        found = digest_file(Path(out.name))
        if problem := _problem(file, out.tell(), found):
            if joined:
                raise ChangedError(f"its pieces seem to be of two versions ({problem})")
            raise OtherBytesError(problem)
        return found

    def attempt() -> str:
        try:
            return go_on()
        except ChangedError:
            restart(Version())
            raise

    return patiently(file.shown, options, attempt, done=out.tell, watch=watch)


def _add(answer: Answer, file: RemoteFile, out: BinaryIO, most_bytes: int, watch: Watch) -> None:
    """Write what an answer brings. Every block is flushed, so that a killed process leaves it."""
    for block in answer.blocks:
        # A digest proves the file without what a server may send after its end.
        wanted = block[: most_bytes - out.tell()] if file.sha256 else block
        out.write(wanted)
        out.flush()
        watch(file.name, len(wanted))
        if out.tell() > most_bytes or (out.tell() == most_bytes and file.sha256):
            return


def _problem(file: RemoteFile, size: int, sha256: str) -> str:
    """How a file differs from what it must be; "" if it does not."""
    if file.bytes is not None and file.bytes != size:
        return f"{'at least ' * (size > file.bytes)}{size:,} bytes, expected {file.bytes:,}"
    if file.sha256 not in (None, sha256):
        return f"SHA-256 {sha256[:16]}…, expected {file.sha256[:16]}…"
    return ""
