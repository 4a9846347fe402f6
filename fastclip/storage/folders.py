"""Where shards lie: a folder of this machine, of an HTTP server or of an object store, behind one interface."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias

from fastclip.storage.local import Folder, LocalFolder, differs

__all__ = ["Folder", "LocalFolder", "Location", "differs", "open_folder"]

Location: TypeAlias = Folder | Path | str
"""Anything that `open_folder` opens: a folder, a path, or an address such as s3://bucket/shards."""


def open_folder(location: Location) -> Folder:
    """The folder at a path or an address (https, s3, gs, hf). Nothing is asked of it yet. Raises `UserError`."""
    if isinstance(location, Path):
        return LocalFolder(location)
    if not isinstance(location, str):
        return location
    if location.startswith("file://"):
        return LocalFolder(Path(location.removeprefix("file://")))
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", location):
        from fastclip.storage.remote import open_remote_folder  # loads fsspec

        return open_remote_folder(location)
    return LocalFolder(Path(location))
