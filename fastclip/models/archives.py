"""OpenAI's own archives: where its package keeps them, and the way to get one, proved by its SHA-256."""

from __future__ import annotations

from pathlib import Path

from fastclip.data.download.fetch import fetch
from fastclip.models.backbones import Backbone
from fastclip.storage.transfer import FetchOptions, RemoteFile, Watch

ADDRESS = "https://openaipublic.azureedge.net/clip/models"
"""Below it lies SHA256/ARCHIVE, as openai/CLIP, clip/clip.py, has it."""


def archive_folder() -> Path:
    """The folder in which OpenAI's own package keeps its downloads."""
    return Path("~/.cache/clip").expanduser()


def openai_archive(backbone: Backbone) -> Path | None:
    """OpenAI's archive of `backbone` where OpenAI's own package keeps it, if it is there."""
    archive = archive_folder() / backbone.archive if backbone.archive else None
    return archive if archive and archive.is_file() else None


def fetch_archive(backbone: Backbone, watch: Watch, options: FetchOptions | None = None) -> Path:
    """Fetch OpenAI's archive of one of the nine to where its package keeps it; goes on where it was cut off.

    Raises `IncompleteError` if the server cannot be reached, `IntegrityError` for other bytes than were published.
    """
    assert backbone.archive and backbone.archive_sha256, f"{backbone.name} is none of OpenAI's"
    url = f"{ADDRESS}/{backbone.archive_sha256}/{backbone.archive}"
    file = RemoteFile(name=backbone.archive, shown=url, url=url, sha256=backbone.archive_sha256)
    path = archive_folder() / backbone.archive
    fetch(file, path, options or FetchOptions(), watch)
    return path
