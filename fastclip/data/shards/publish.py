"""Makes the manifest of finished shards, and writes the small files beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fastclip.data.catalogue import DatasetCard
from fastclip.data.shards.fingerprint import find_variant, fingerprint
from fastclip.data.shards.manifest import (
    CLASS_NAMES,
    REJECTED,
    SHARD_COUNT,
    Domain,
    ImageRecord,
    Manifest,
    Rejected,
    Shard,
    images_sha256,
    json_lines,
    path_name,
)
from fastclip.data.sources.protocols import FULL
from fastclip.files import digest
from fastclip.storage.folders import Folder


def shard_row(name: str, domain: str, records: Sequence[ImageRecord], *, size: int, sha256: str) -> Shard:
    """The manifest's row of a tar of `size` bytes, whose index has the rows `records`."""
    return Shard(
        name=name,
        domain=domain,
        images=len(records),
        bytes=size,
        sha256=sha256,
        index_sha256=digest(json_lines(records)),
        images_sha256=images_sha256(records),
    )


def make_manifest(
    dataset: str,
    card: DatasetCard | None,
    *,
    protocol: str,
    verified: bool,
    classes: tuple[str, ...],
    names: tuple[str, ...],
    shards: Sequence[Shard],
    records: Mapping[str, Sequence[ImageRecord]],
    rejected: Sequence[Rejected],
) -> Manifest:
    """The manifest of `shards`. `records` are the rows of every domain, in the domains' order."""
    domains = tuple(_domain(name, rows, rejected, len(classes)) for name, rows in records.items())
    return Manifest(
        dataset=dataset,
        title=card.title if card else dataset,
        variant=find_variant(domains, card) if protocol == FULL else None,
        protocol=protocol,
        verified=verified,
        classes=classes,
        names=names,
        domains=domains,
        shards=tuple(shards),
        rejected_sha256=digest(json_lines(rejected)),
    )


def write_beside_shards(
    folder: Folder, manifest: Manifest, rejected: Sequence[Rejected], *, overwrite: bool = True
) -> dict[str, int]:
    """Write rejected.jsonl, the class list and the numbers of shards; the last two only if absent or to `overwrite`.

    Returns the size of each file that was written.
    """
    texts = {
        f"{path_name(domain.name)}/{SHARD_COUNT}": f"{len(manifest.shards_of(domain.name))}\n"
        for domain in manifest.domains
    }
    texts[CLASS_NAMES] = "".join(f"{name}\n" for name in manifest.names)
    files = {name: text.encode() for name, text in texts.items() if overwrite or not folder.exists(name)}
    files[REJECTED] = json_lines(rejected)
    for name, data in files.items():
        folder.write(name, data)
    return {name: len(data) for name, data in files.items()}


def _domain(name: str, records: Sequence[ImageRecord], rejected: Sequence[Rejected], classes: int) -> Domain:
    labels = Counter(record.label for record in records)
    return Domain(
        name=name,
        images=len(records),
        unreadable=sum(row.domain == name for row in rejected),
        class_images=tuple(labels[label] for label in range(classes)),
        fingerprint=fingerprint(bytes.fromhex(record.sha256) for record in records),
    )
