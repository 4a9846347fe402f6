"""Fetches the files that a dataset's card names, from the web and Hugging Face: checked, recorded, never unpacked."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fastclip.data.catalogue import DatasetCard, Download
from fastclip.data.download.fetch import (
    PART,
    PART_NOTES,
    check_space,
    fetch,
    part_of,
    remote_bytes,
    size_of,
)
from fastclip.errors import IncompleteError, IntegrityError, UserError
from fastclip.faults import steadily
from fastclip.files import digest_file, write_over
from fastclip.storage.alone import locked
from fastclip.storage.local import LocalFolder
from fastclip.storage.presence import check_presence
from fastclip.storage.transfer import FetchOptions, RemoteFile, Watch

DOWNLOADED = "downloaded.json"
"""The record in a download's folder: file → its bytes, its SHA-256, and where it came from."""


@dataclass(frozen=True)
class Fetched:
    """A row of the record. A later run compares the file with it."""

    bytes: int
    sha256: str
    url: str


def list_remote_files(card: DatasetCard, options: FetchOptions) -> dict[Download, tuple[RemoteFile, ...]]:
    """The files of each row of `card`. Asks Hugging Face which files its repositories have.

    A row that a person must fetch has one file if the card names it, else none.
    """
    found = {row: _remote_files(row, card.homepage, options) for row in card.downloads}
    files = [file for files in found.values() for file in files]
    names = [DOWNLOADED, *(file.name + end for file in files for end in ("", PART, PART_NOTES))]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"{card.name}: two files of its card are called {twice[0]}.", fix="Give a row of the card another `file`."
        )
    return found


def download(files: Sequence[RemoteFile], folder: Path, options: FetchOptions, watch: Watch) -> set[str]:
    """Bring `files` into `folder` and into its record, and return the names of those that had to be fetched.

    A file that is there already is compared with the size and the digest that the card, Hugging Face or the record
    know. If it differs, `IntegrityError` is raised and it stays: it may be somebody's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_names_apart(files, LocalFolder(folder))
    new = set()
    with _alone_in(folder):
        record = read_record(folder)
        check_space(folder, sum(file.bytes or 0 for file in files) - bytes_here(files, folder))
        for file in files:
            target = folder / file.name
            before = record.get(file.name)
            if before is not None and before.url == file.shown:
                file = replace(file, sha256=file.sha256 or before.sha256, bytes=file.bytes or before.bytes)
            if target.exists():
                watch(f"checking {file.name}", 0)
                sha256 = _check_present(file, target, options)
            else:
                watch(file.name, 0)
                sha256 = fetch(file, target, options, watch)
                new.add(file.name)
            row = Fetched(bytes=target.stat().st_size, sha256=sha256, url=file.shown)
            if row != before:
                record[file.name] = row
                _write_record(folder, record)
        check_presence(LocalFolder(folder), {file.name: record[file.name].bytes for file in files})
    return new


def bytes_here(files: Sequence[RemoteFile], folder: Path) -> int:
    """The number of bytes of `files` in `folder`, in whole files and in parts."""
    return sum(size_of(folder / file.name) or size_of(part_of(folder / file.name)) for file in files)


def read_record(folder: Path) -> dict[str, Fetched]:
    """The record of what was fetched into `folder`, file → row; empty if nothing was."""
    path = folder / DOWNLOADED
    try:
        return {name: _fetched(row) for name, row in json.loads(steadily(path.read_bytes, path)).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{path} is damaged: it is not the record that fastclip wrote.",
            fix=f"Delete {path}; the next run writes it again from the files that are there.",
        ) from error


def _check_names_apart(files: Sequence[RemoteFile], folder: LocalFolder) -> None:
    """Raise `UserError` for two files whose names are one where upper and lower case are the same."""
    first: dict[str, str] = {}
    for file in files:
        other = first.setdefault(unicodedata.normalize("NFC", file.name).casefold(), file.name)
        if other != file.name and not folder.tells_case_apart():
            raise UserError(
                f"The names of {other} and {file.name} are one on the file system of {folder}.",
                fix="Choose a folder on another file system: --to DIR",
            )


def _fetched(row: Mapping[str, object]) -> Fetched:
    match row:
        case {"bytes": int(count), "sha256": str(sha256), "url": str(url)}:
            return Fetched(count, sha256, url)
    raise ValueError("not a row of the record")


def _write_record(folder: Path, record: Mapping[str, Fetched]) -> None:
    rows = {name: asdict(row) for name, row in sorted(record.items())}
    write_over(folder / DOWNLOADED, (json.dumps(rows, indent=2, ensure_ascii=False) + "\n").encode())


def _check_present(file: RemoteFile, target: Path, options: FetchOptions) -> str:
    """The SHA-256 of `target`, which is there already. Raises `IntegrityError` if it is known to be another file."""
    if not target.is_file():
        raise UserError(f"{target} is not a file.", fix="Move it away, or fetch into another folder: --to DIR")
    size, expected = target.stat().st_size, file.bytes
    if expected is None and file.sha256 is None and not file.by_hand:
        expected = remote_bytes(file, options)
    problem, sha256 = "", ""
    if not size and file.bytes is None and file.sha256 is None:
        problem = "no bytes"
    elif expected not in (None, size):
        problem = f"{size:,} bytes, expected {expected:,}"
    elif file.sha256 not in (None, sha256 := digest_file(target)):
        problem = f"SHA-256 {sha256[:16]}…, expected {file.sha256[:16]}…"
    if problem:
        raise IntegrityError(f"{target} has {problem}.", fix="Delete it or move it away, then run the same command.")
    return sha256


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine from writing into `folder`."""
    with locked(folder) as free:
        if not free:
            raise IncompleteError(f"Another process is downloading into {folder}.", fix="Wait for it, or use --to DIR.")
        yield


def _remote_files(row: Download, page: str, options: FetchOptions) -> tuple[RemoteFile, ...]:
    if row.url.startswith("hf://") and not row.by_hand:
        return files_of_repository(row, options)
    if row.by_hand and not row.file:
        return ()
    name = row.file or _last_part(row.url)
    return (
        RemoteFile(
            name=name,
            url=row.url,
            shown=shown(row.url),
            bytes=row.bytes,
            sha256=row.sha256,
            cure=f"See {page or 'the page of the dataset'}; a file that you put there by hand is taken as it is.",
            by_hand=row.by_hand,
        ),
    )


def shown(url: str) -> str:
    """`url` without its query, which may hold a key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _last_part(url: str) -> str:
    """The name for the file at `url`: a plain name in the folder, whatever the address says."""
    last = unquote(urlsplit(url).path).replace("\\", "/").rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^\w.+,=@() -]", "_", last).lstrip(". ").rstrip()
    if not name:
        raise UserError(
            f"{shown(url)} ends in no name that a file could have.", fix="Say the file's name in the card: file = …"
        )
    return name


def files_of_repository(row: Download, options: FetchOptions) -> tuple[RemoteFile, ...]:
    """The files of a Hugging Face repository at one commit, with their sizes, and with the digests of large ones."""
    from huggingface_hub import HfApi, constants, get_token, hf_hub_url
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import filter_repo_objects

    repository, _, revision = row.url.removeprefix("hf://datasets/").partition("@")
    api = HfApi()
    try:
        commit = api.dataset_info(repository, revision=revision or None, timeout=options.timeout_s).sha
        tree = api.list_repo_tree(repository, recursive=True, revision=commit, repo_type="dataset")
        listed = [entry for entry in tree if isinstance(entry, RepoFile)]
    except Exception as error:  # offline, unknown, gated, a proxy's page: the hub's client has a type for each
        raise hub_error(row.url, error) from error
    chosen = list(
        filter_repo_objects(
            listed, allow_patterns=list(row.patterns) or None, ignore_patterns=[".*"], key=lambda entry: entry.path
        )
    )
    if not chosen:
        raise UserError(
            f"{row.url} has no file like {' or '.join(row.patterns) or '*'}.", fix="Correct the card's `patterns`."
        )
    if row.bytes not in (None, total := sum(entry.size for entry in chosen)):
        raise IntegrityError(
            f"{row.url} has {total:,} bytes in {len(chosen):,} files, expected {row.bytes:,}; nothing was fetched.",
            fix="It has changed: name a commit in the card (…/NAME@COMMIT), or correct its `bytes`.",
        )
    return tuple(
        RemoteFile(
            name=_inside(entry.path, row.url),
            url=hf_hub_url(repository, entry.path, repo_type="dataset", revision=commit, endpoint=constants.ENDPOINT),
            shown=f"hf://datasets/{repository}@{commit}/{entry.path}",
            bytes=entry.size,
            sha256=entry.lfs.sha256 if entry.lfs else None,
            token=get_token() or "",
            cure=f"Ask for access at {constants.ENDPOINT}/datasets/{repository}, then `hf auth login` or HF_TOKEN=…",
        )
        for entry in sorted(chosen, key=lambda entry: entry.path)
    )


def _inside(path: str, url: str) -> str:
    """`path` if it stays below the folder of the download; the hub's listing is not trusted with that."""
    if not path.isprintable() or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise IntegrityError(
            f"{url} lists {path!r}, which would lie outside of the folder; nothing was fetched.",
            fix="Leave such a repository alone, or name the good files in the card's `patterns`.",
        )
    return path


def hub_error(url: str, error: Exception) -> UserError | IncompleteError:
    """The two lines for what Hugging Face's client raised about the repository at `url`, hf://datasets/…"""
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    page = f"{constants.ENDPOINT}/{url.removeprefix('hf://').partition('@')[0]}"
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):  # gated ones are of the first type too
        return UserError(
            f"Hugging Face shows no {url} ({type(error).__name__}).",
            fix=f"If {page} exists, ask for access there, then `hf auth login` or HF_TOKEN=…",
        )
    return IncompleteError(
        f"{constants.ENDPOINT} could not be asked for the files of {url} ({type(error).__name__}).",
        fix="Run the same command where there is a network (HF_HUB_OFFLINE unset; HF_ENDPOINT names a mirror).",
    )
