"""The files of a hand-over: their names, which folder they may replace, and the room that they take."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from fastclip.errors import IncompleteError, UserError, in_bytes
from fastclip.files import read_file

ITEMS = "items.parquet"
FACTS = "items.json"
SCRIPT = "open_in_fiftyone.py"
FACTS_FORMAT = "fastclip.items/1"


def thumbnail_name(number: int) -> str:
    """Where the thumbnail of a row lies in FiftyOne's folder, which no name of a class or file takes part in."""
    return f"thumbs/{number // 1000:04d}/{number:08d}.jpg"


def check_is_free(folder: Path, *, overwrite: bool) -> None:
    """Raise `UserError` if `folder` holds a hand-over that may not be replaced, or anything that is no part of one."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if not found and not folder.is_file():
        return
    others = {name for name in found if not _is_ours(name)}
    try:
        if json.loads(read_file(folder / FACTS))["format"] != FACTS_FORMAT:
            others = found
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        others = found
    if others or folder.is_file():
        raise UserError(
            f"{folder / min(others, default='')} was not written by fastclip export, and would be lost.",
            fix="Move it away, or choose another --output DIR.",
        )
    if not overwrite:
        raise UserError(f"{folder} is exported already.", fix="Add --overwrite, or choose another --output DIR.")


def _is_ours(name: str) -> bool:
    return name in (ITEMS, FACTS, SCRIPT) or re.fullmatch(r"thumbs/\d{4,}/\d{8,}\.jpg", name) is not None


def check_room(folder: Path, needed: int) -> None:
    """Raise `IncompleteError` unless the disk that `folder` is on, or will be, has `needed` bytes left."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise IncompleteError(
            f"{folder} will take about {in_bytes(needed)}, and its disk has {in_bytes(free)} left.",
            fix="Free space there, take another disk (--output DIR), or leave out pictures: --thumbnails off",
        )
