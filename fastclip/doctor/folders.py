"""Checks of the folders that fastclip works in: the store takes parts, the shards can be read."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fastclip.doctor.finding import Asked, Finding, fail, ok, warn
from fastclip.errors import FastclipError, UserError, in_bytes
from fastclip.files import is_temporary, name_new

NETWORK = ("nfs", "cifs", "smb", "lustre", "ceph", "gpfs", "beegfs", "glusterfs", "afs", "9p", "fuse.")
"""Beginnings of the names of file systems that lie on another machine, or behind a program."""

LEAST_ROOM, LEAST_INODES = 1 << 30, 10_000
MOST_SKEW_S = 60.0
"""Seconds by which the file server's clock may differ: a writer that was silent for so long is taken for dead."""

MOST_ENTRIES = 200_000
"""Files that are looked at for leftovers; a large store has more."""


def store(asked: Asked) -> list[Finding]:
    """The folder of embeddings: room, and whether it takes a file as parts are published. Nothing stays there."""
    from fastclip.store.store import Store

    folder = Path(asked.store)
    Store(folder).check_layout()
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        return [fail("store", f"{there} is no folder.", "--store DIR")]
    return [_room(folder, there), *_publishes(there), *_leftovers(folder)]


def _room(folder: Path, there: Path) -> Finding:
    facts = os.statvfs(there)
    free, inodes = facts.f_frsize * facts.f_bavail, facts.f_favail if facts.f_files else None
    kind = file_system(there, Path("/proc/self/mountinfo"))
    network = ", a network file system" if kind.startswith(NETWORK) else ""
    text = f"{folder}{'' if there == folder else ' (not there yet)'} on {kind}{network}: {in_bytes(free)} free"
    text += "." if inodes is None else f", {inodes:,} files more."
    if free < LEAST_ROOM:
        return warn("store", text, "Free space there, or --store DIR on another disk.")
    if inodes is not None and inodes < LEAST_INODES:
        return warn("store", text, "Remove files there: a part is a file, and the disk has no names left.")
    return ok("store", text)


def file_system(path: Path, mounts: Path) -> str:
    """The kind of file system that a path lies on, such as ext4 or nfs4; `?` where the system does not say."""
    place, kind = "", "?"
    with suppress(OSError):
        real = str(path.resolve())
        for line in mounts.read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            point = before.split()[4].encode().decode("unicode_escape", errors="replace")
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(place) and after:
                place, kind = point, after.split()[0]
    return kind


def _publishes(there: Path) -> Iterator[Finding]:
    """Whether a file can be written, synced and named only if its name is free, as parts are."""
    try:
        trial = Path(tempfile.mkdtemp(".tmp", ".fastclip-doctor-", there))
    except OSError as error:
        yield fail("store, writing", f"{there}: {error.strerror}.", "Get permission or space there, or --store DIR.")
        return
    try:
        yield from _trial(trial)
    except UserError as error:
        yield fail("store, writing", str(error), error.fix)
    except OSError as error:
        yield fail("store, writing", f"{there}: {error.strerror}.", "Free space there, or --store DIR on another disk.")
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _trial(trial: Path) -> Iterator[Finding]:
    first, second, part = trial / "first", trial / "second", trial / "part"
    for path in (first, second):
        with path.open("xb") as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    skew = first.stat().st_mtime - time.time()
    name_new(first, part)
    try:
        name_new(second, part)
    except FileExistsError:
        links = "by hard links" if first.exists() else "by renaming, as there are no hard links"
        yield ok("store, writing", f"It takes files, whole or not at all, {links}.")
    else:
        what = "A file takes the name of another one: two processes could overwrite each other's parts."
        yield fail("store, writing", what, "--store DIR on another file system")
    yield from of_clock(skew)


def of_clock(ahead_s: float) -> Iterator[Finding]:
    """The finding about a file server whose clock is ahead of this machine's; none for a small difference."""
    if abs(ahead_s) > MOST_SKEW_S:
        word = "ahead of" if ahead_s > 0 else "behind"
        what = f"The file server's clock is {abs(ahead_s):,.0f} s {word} this machine's."
        yield warn("store, clock", what, "Set both clocks by NTP: unfinished files are judged by their age.")


def _leftovers(folder: Path) -> Iterator[Finding]:
    """Files that killed runs left unfinished a day ago or longer."""
    count = size = seen = 0
    before = time.time() - 86_400
    for parent, _, names in os.walk(folder):
        for name in names:
            seen += 1
            with suppress(OSError):
                if is_temporary(name) and (facts := (Path(parent) / name).stat()).st_mtime < before:
                    count, size = count + 1, size + facts.st_size
        if seen > MOST_ENTRIES:
            break
    if count:
        yield ok("store, leftovers", f"{count:,} of killed runs, {in_bytes(size)}; the next eval removes them.")


def shards(asked: Asked) -> list[Finding]:
    """The manifests in the folder of shards. An address is asked only with --online."""
    from fastclip.data.shards.manifest import list_datasets, read_manifest, unfinished_datasets
    from fastclip.storage.folders import LocalFolder, open_folder

    folder = open_folder(asked.shards)
    if not isinstance(folder, LocalFolder) and not asked.online:
        return [ok("shards", f"{folder} is not asked; --online does.")]
    if isinstance(folder, LocalFolder) and not folder.path.is_dir():
        return [ok("shards", f"There is no folder {folder} yet; fastclip shard NAME --source DIR makes it.")]
    found, usable, images = [], 0, 0
    for name in list_datasets(folder):
        try:
            manifest = read_manifest(folder.child(name))
        except FastclipError as error:
            found.append(fail("shards", str(error), f"fastclip shards check {name}"))
            continue
        usable, images = usable + 1, images + sum(domain.images for domain in manifest.domains)
    for name in unfinished_datasets(folder) if isinstance(folder, LocalFolder) else ():
        found.append(warn("shards", f"{name} is not finished.", f"fastclip shard {name} --source DIR goes on."))
    word = "dataset" if usable == 1 else "datasets"
    return [ok("shards", f"{folder}: {usable} {word} with {images:,} images can be read."), *found]
