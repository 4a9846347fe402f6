"""Compares a sharded dataset with its manifest, byte by byte, and names every difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastclip.data.shards.fingerprint import fingerprint
from fastclip.data.shards.manifest import (
    CLASS_NAMES,
    REJECTED,
    SHARD_COUNT,
    ImageRecord,
    Manifest,
    Rejected,
    Shard,
    images_sha256,
    path_name,
    read_rejected,
)
from fastclip.data.shards.presence import without_other_spellings
from fastclip.data.shards.reader import read_index
from fastclip.data.sources.samples import IMAGES, split_name
from fastclip.data.sources.tars import TarMember, list_tar
from fastclip.errors import IncompleteError, IntegrityError, UserError
from fastclip.faults import MachineError, named, steadily
from fastclip.files import digest
from fastclip.proven import ProvenFile
from fastclip.storage.folders import Folder


@dataclass(frozen=True)
class Checked:
    """The differences of a dataset from its manifest, and the files that could not be read, a line each."""

    differences: Sequence[str]
    unread: Sequence[str]


@dataclass(frozen=True)
class _CheckedShard:
    records: Sequence[ImageRecord] = ()
    differences: Sequence[str] = ()
    unread: Sequence[str] = ()


def check_dataset(
    folder: Folder, manifest: Manifest, *, workers: int, on_images: Callable[[int], None] = lambda images: None
) -> Checked:
    """Read a whole dataset again and compare it with its manifest. A file that cannot be read costs no other."""
    lines, unread, rejected = [], [], []
    try:
        with named(f"{folder}/{REJECTED}"):
            rejected = read_rejected(folder, manifest)
    except (FileNotFoundError, IntegrityError) as error:
        lines.append(_says(f"{folder}/{REJECTED}", error))
    except MachineError as error:
        unread.append(str(error))

    def check(shard: Shard) -> _CheckedShard:
        try:
            look = partial(_check_shard, folder, shard, len(manifest.classes), rejected)
            checked = steadily(look, f"{folder}/{shard.name}")
        except (IncompleteError, FileNotFoundError) as error:  # FileNotFoundError: it is being removed
            checked = _CheckedShard(unread=[str(error)])
        on_images(shard.images)
        return checked

    with ThreadPoolExecutor(workers) as pool:
        checked = dict(zip(manifest.shards, pool.map(check, manifest.shards), strict=True))
    lines += [line for each in checked.values() for line in each.differences]
    unread += [line for each in checked.values() for line in each.unread]
    if not lines and not unread:
        lines += _domain_differences(manifest, checked, rejected)
    try:
        with named(str(folder)):
            lines += _small_file_differences(folder, manifest)
            lines += _strays(folder, manifest)
    except MachineError as error:
        unread.append(str(error))
    return Checked(lines, unread)


def _check_shard(folder: Folder, shard: Shard, classes: int, rejected: Sequence[Rejected]) -> _CheckedShard:
    lines = []
    tar, records = None, []
    try:
        tar = folder.open(shard.name, size=shard.bytes, sha256=shard.sha256)
    except (FileNotFoundError, IntegrityError) as error:
        lines.append(_says(f"{folder}/{shard.name}", error))
    try:
        records = read_index(folder, shard)
    except (UserError, IntegrityError) as error:
        lines.append(str(error))
    if records and shard.images_sha256 not in ("", images_sha256(records)):  # empty: an earlier version wrote it
        lines.append(f"{folder}/{shard.index_name}: the digest of its images is not the manifest's.")
    if tar and records:
        opened = f"/dev/fd/{tar.fd}"  # its path may lead to another file by now
        try:
            members = list_tar(Path(opened))
        except IntegrityError as error:
            return _CheckedShard(records, [*lines, str(error).replace(opened, str(tar.path))])
        lines += [f"{folder}/{shard.name}: {line}" for line in _row_differences(tar, records, members, classes)]
        lines += [f"{folder}/{shard.name}: {line}" for line in _uncounted(shard, records, members, rejected)]
    return _CheckedShard(records, lines)


def _row_differences(
    tar: ProvenFile, records: Sequence[ImageRecord], members: Sequence[TarMember], classes: int
) -> Iterator[str]:
    """Rows of the index that differ from the tar at their offset."""
    at = {member.offset: member for member in members}
    labels = {split_name(member.name)[0]: member for member in members if split_name(member.name)[1] == "cls"}
    for record in records:
        member = at.get(record.offset)
        if member is None or member.size != record.size or _image_key(member) != record.key:
            found = f"{member.name!r} of {member.size:,} bytes" if member else "no member"
            yield f"{record.key!r} of {record.size:,} bytes should begin at {record.offset:,}; there is {found}."
            continue
        if digest(tar.read(record.offset, record.size)) != record.sha256:
            yield f"the bytes of {record.key!r} have another SHA-256 than its row in the index."
        label = labels.get(record.key)
        text = bytes(tar.read(label.offset, min(label.size, 32))).strip() if label else None
        if text is not None and (not text.isdigit() or int(text) != record.label):
            yield f"{record.key!r} has the label {record.label} in the index, {text!r} in the tar."
        if not 0 <= record.label < classes:
            yield f"{record.key!r} has the label {record.label}; there are {classes} classes."


def _image_key(member: TarMember) -> str | None:
    key, extension = split_name(member.name)
    return key if extension in IMAGES else None


def _uncounted(
    shard: Shard, records: Sequence[ImageRecord], members: Sequence[TarMember], rejected: Sequence[Rejected]
) -> Iterator[str]:
    """Images of the tar that are neither in its index nor among the rejected, and rows that stand twice."""
    counted = {record.offset for record in records}
    known = {row.path for row in rejected if row.label is not None}
    if len(counted) != len(records):
        yield "an image stands twice in the index."
    for member in members:
        accounted = member.offset in counted or f"{shard.name}/{member.name}" in known
        if _image_key(member) is not None and not accounted:
            yield f"{member.name!r} is in the tar and not in the index."


def _domain_differences(
    manifest: Manifest, checked: Mapping[Shard, _CheckedShard], rejected: Sequence[Rejected]
) -> Iterator[str]:
    """Sums in the manifest that the indexes contradict."""
    for domain in manifest.domains:
        records = [row for shard in manifest.shards_of(domain.name) for row in checked[shard].records]
        labels = Counter(record.label for record in records)
        if tuple(labels[label] for label in range(len(manifest.classes))) != domain.class_images:
            yield f"{domain.name}: the indexes and the manifest count its classes differently."
        if fingerprint(bytes.fromhex(record.sha256) for record in records) != domain.fingerprint:
            yield f"{domain.name}: the fingerprint is not the manifest's."
        if repeated := [path for path, count in Counter(record.path for record in records).items() if count > 1]:
            yield f"{domain.name}: {repeated[0]!r} stands twice in its indexes."
        unreadable = sum(row.domain == domain.name for row in rejected)
        if unreadable != domain.unreadable:
            yield f"{domain.name}: {unreadable} unreadable images in {REJECTED}, {domain.unreadable} in the manifest."


def _small_file_differences(folder: Folder, manifest: Manifest) -> Iterator[str]:
    """Differences in the files for other programs: the class list and the numbers of shards."""
    for domain in manifest.domains:
        name, count = f"{path_name(domain.name)}/{SHARD_COUNT}", len(manifest.shards_of(domain.name))
        if not folder.exists(name):
            yield f"{folder}/{name} is missing; it says how many shards there are."
        elif (text := folder.read(name).decode(errors="replace").strip()) != str(count):
            yield f"{folder}/{name} says {text[:40]!r}, the manifest lists {count} shards."
    path = f"{folder}/{CLASS_NAMES}"
    if not folder.exists(CLASS_NAMES):
        yield f"{path} is missing; it says what the labels mean."
        return
    names = [line.strip() for line in folder.read(CLASS_NAMES).decode("utf-8-sig", "replace").rstrip().split("\n")]
    for number, (found, name) in enumerate(zip(names, manifest.names, strict=False)):
        if found != name:
            yield f"{path} calls class {number} {found!r}, the manifest {name!r}."
            return
    if len(names) != len(manifest.names):
        yield f"{path} has {len(names)} classes, the manifest {len(manifest.names)}."


def _strays(folder: Folder, manifest: Manifest) -> list[str]:
    listed = {shard.name for shard in manifest.shards}
    try:
        found = {name for pattern in ("*.tar", "*/*.tar") for name in folder.list(pattern)}
    except UserError:  # an HTTP server lists no files, so other programs cannot take every tar either
        return []
    return [
        f"{folder}/{name} is no shard of the manifest; programs that take every tar would read it."
        for name in without_other_spellings(folder, found - listed, listed)
    ]


def _says(path: str, error: Exception) -> str:
    return f"{path} is missing; the manifest lists it." if isinstance(error, FileNotFoundError) else str(error)
