"""One file of the web: whole and checked under its name or not there at all, and resumed where it was cut off."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import astuple
from functools import partial
from pathlib import Path

from fastclip.errors import IncompleteError, IntegrityError, UserError
from fastclip.files import canonical_json, digest, publish, write_over
from fastclip.storage.http import get
from fastclip.storage.transfer import (
    Answer,
    FetchOptions,
    OtherBytesError,
    RemoteFile,
    Version,
    Watch,
    patiently,
    receive,
)

PART = ".part"
"""Ends the name of a file that is not whole yet."""

PART_NOTES = ".part.json"
"""Ends the name of a part's notes: the address that it is of, and the version."""


def fetch(file: RemoteFile, target: Path, options: FetchOptions, watch: Watch) -> str:
    """Fetch `file` to `target`, on from what an earlier run left beside it, and return its SHA-256.

    Raises `IncompleteError` when the server cannot be reached for now (what came stays for the next run),
    `IntegrityError` when the file is not what it must be (nothing stays), `UserError` when it cannot be had.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
    version = _resumable_version(file, part)
    if version is None:
        watch(file.name, -size_of(part))
        _discard(part)
    try:
        found = _complete(file, part, version or Version(), options, watch)
    except BaseException:
        if not size_of(part):
            _discard(part)
        raise
    publish(part, target)
    notes_of(part).unlink(missing_ok=True)
    return found


def part_of(target: Path) -> Path:
    """The file that holds the beginning of `target` while it is fetched."""
    return target.with_name(target.name + PART)


def notes_of(part: Path) -> Path:
    """The file that says which address and version `part` is of."""
    return part.with_name(part.name.removesuffix(PART) + PART_NOTES)


def size_of(path: Path) -> int:
    """Bytes of the file at `path`, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def remote_bytes(file: RemoteFile, options: FetchOptions) -> int | None:
    """Bytes that the server says `file` has, None if it does not say."""

    def ask() -> int | None:
        with get(file, options.timeout_s) as answer:
            return answer.total

    return patiently(file.shown, options, ask)


def check_space(folder: Path, needed: int) -> None:
    """Raise `IncompleteError` unless the disk that `folder` is on, or will be, has `needed` bytes left."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise IncompleteError(
            f"{folder} needs {needed / 1e9:,.2f} GB more, and its disk has {free / 1e9:,.2f} GB left.",
            fix="Free space there, or take another disk: --to DIR",
        )


def _complete(file: RemoteFile, part: Path, version: Version, options: FetchOptions, watch: Watch) -> str:
    """Bring `part`, which is of `version`, to its end, sync it, and return its SHA-256."""
    try:
        with part.open("a+b") as out:

            def on_answer(answer: Answer) -> None:
                _check_answer(file, answer)
                check_space(part.parent, (answer.total or 0) - answer.start)
                if not answer.start:  # the notes change only when nothing of another version is left
                    out.truncate(0)
                    notes = {"source": _source(file), "version": astuple(answer.of)}
                    write_over(notes_of(part), canonical_json(notes))

            try:
                asked = partial(get, file, options.timeout_s)
                return receive(file, asked, out, options, version=version, on_answer=on_answer, watch=watch)
            finally:
                os.fsync(out.fileno())
    except OtherBytesError as error:
        _discard(part)
        raise IntegrityError(
            f"{file.shown} came with {error}; it was not kept.",
            fix="Run it once more. If it ends the same, the source has changed: compare its page, correct the card.",
        ) from error
    except OSError as error:
        raise IncompleteError(
            f"Cannot write {part}: {error.strerror or error}.",
            fix="Free space or permissions there, then run the same command again; it goes on from there.",
        ) from error


def _check_answer(file: RemoteFile, answer: Answer) -> None:
    """Raise before anything is written if this cannot be the file."""
    if answer.is_page and not file.name.endswith((".html", ".htm")):
        raise UserError(
            f"{file.shown} leads to a web page, not to a file: it has moved, or wants a log-in.", fix=file.cure
        )
    if answer.total is not None and file.bytes not in (None, answer.total):
        raise IntegrityError(
            f"{file.shown} has {answer.total:,} bytes, expected {file.bytes:,}; nothing was fetched.",
            fix="The source has changed: compare its page, then correct the card (and delete downloaded.json).",
        )
    if not answer.cut_shows and file.bytes is None and file.sha256 is None:
        raise UserError(
            f"{file.shown}: neither its server nor the card says how long it is, so a cut would go unnoticed.",
            fix="Write `bytes` or `sha256` into its row of the card.",
        )


def _resumable_version(file: RemoteFile, part: Path) -> Version | None:
    """The version that `part` is of; None if a new connection cannot go on from it."""
    try:
        notes = json.loads(notes_of(part).read_bytes())
        source, version = str(notes["source"]), _parsed(notes["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    too_long = file.bytes is not None and size_of(part) > file.bytes
    return version if source == _source(file) and not too_long else None


def _parsed(version: object) -> Version:
    match version:
        case [str(tag), int() | None as total, str(modified)]:
            return Version(tag, total, modified)
    raise ValueError("not a version")


def _source(file: RemoteFile) -> str:
    """The address as a digest: the notes of a part are no place for keys either."""
    return digest(file.url.encode())


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    notes_of(part).unlink(missing_ok=True)
