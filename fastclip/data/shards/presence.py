"""The last look at a dataset that was written: all that its manifest lists is there, and nothing stale is left."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from fastclip.data.shards.manifest import MANIFEST, Manifest, path_name
from fastclip.errors import IncompleteError, UserError
from fastclip.files import maker_of
from fastclip.machine import started
from fastclip.storage.folders import Folder
from fastclip.storage.presence import check_presence

_MINUTE_S = 60.0


def check_domains_apart(folder: Folder, domains: Sequence[str]) -> None:
    """Raise `UserError` for two domains whose folders would be one, where upper and lower case are the same."""
    first: dict[str, str] = {}
    for domain in domains:
        other = first.setdefault(path_name(domain).lower(), domain)
        if other != domain and not folder.tells_case_apart():
            raise UserError(
                f"The domains {other!r} and {domain!r} differ in upper and lower case only, and {folder} is on a file "
                "system that does not tell them apart.",
                fix="Rename one of them in the source, or choose an --out on another file system.",
            )


def remove_stale_shards(folder: Folder, manifest: Manifest) -> None:
    """Remove files of earlier runs that `manifest` does not list: programs that take `*.tar` would read them."""
    listed = {name for each in manifest.shards for name in (each.name, each.index_name)}
    stale: set[str] = set()
    # *.idx: earlier versions wrote one beside each tar, for DALI's own reader.
    for pattern in ("[0-9]*.tar", "[0-9]*.index.jsonl", "[0-9]*.idx", ".*.receipt.json"):
        stale |= {*folder.list(f"*/{pattern}")} - listed
    for name in without_other_spellings(folder, stale, listed):
        folder.remove(name)


def without_other_spellings(folder: Folder, names: Collection[str], listed: Collection[str]) -> list[str]:
    """The sorted `names` but those that are, on this file system, a listed one in upper or lower case."""
    lower = {name.lower() for name in listed}
    if any(name.lower() in lower for name in names) and not folder.tells_case_apart():
        return sorted(name for name in names if name.lower() not in lower)
    return sorted(names)


def remove_abandoned(folder: Folder) -> None:
    """Remove the unfinished files of processes that died. A living one of this machine keeps its own for a minute."""
    for name in [*folder.list(".*.tmp"), *folder.list("*/.*.tmp")]:
        last = name.rpartition("/")[2]
        if last.startswith("..writing."):
            continue  # another machine's first sign of life, perhaps
        written_s, maker = folder.modified_s(name), maker_of(last)
        if maker is None and not last.startswith(".shard-"):  # earlier versions called theirs so
            continue
        if maker and started(maker) and written_s is not None and time.time() - written_s < _MINUTE_S:
            continue
        folder.remove(name)


def publish_manifest(folder: Folder, manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Write the manifest of files that have `sizes`, and look once more whether all are there; else remove it."""
    data = manifest.to_json()
    folder.write(MANIFEST, data)
    try:
        check_presence(folder, {**sizes, MANIFEST: len(data)})
    except (IncompleteError, OSError):
        folder.remove(MANIFEST)
        raise
