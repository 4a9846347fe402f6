"""Lists WebDataset shards as a source: fastclip's own, CLIP_benchmark's exports, and img2dataset's with labels.

    ours            manifest.json, DOMAIN/0.tar        labels and paths from the index
    CLIP_benchmark  classnames.txt, SPLIT/0.tar        KEY.jpg + KEY.cls; every split is a domain
    img2dataset     00000.tar, or DOMAIN/00000.tar     KEY.jpg + KEY.json with `label`, `cls` or `class`; or KEY.cls

Labels are numbers that classnames.txt gives names, or names of classes. With a card, classes and domains are found on
it by name, and so get its labels, whatever their order was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastclip.data.catalogue import DatasetCard, readable_name, same_name
from fastclip.data.shards.manifest import (
    FORMAT,
    MANIFEST,
    ImageRecord,
    Manifest,
    Rejected,
    Shard,
    read_manifest,
    read_rejected,
)
from fastclip.data.shards.reader import read_index
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.listing import ONLY_DOMAIN, Listing, SourceImage, in_order, with_distinct_paths
from fastclip.data.sources.samples import (
    CLASS_NAMES,
    OURS,
    Sample,
    SourceShard,
    check_keys,
    check_numbers,
    find_shards,
    other_members,
    pairs,
    read_classnames,
    read_samples,
)
from fastclip.errors import UserError
from fastclip.files import digest_file
from fastclip.storage.folders import differs


def list_webdataset(source: Path, card: DatasetCard | None) -> Listing | None:
    """The images in the WebDataset shards of `source`; None if it holds no tar that pairs an image with a label.

    Raises `UserError` for shards whose images, labels and classes do not fit together, `IntegrityError` for damage.
    """
    if _is_ours(source):
        return _list_ours(source, card)
    shards = find_shards(source)
    if not any(map(pairs, shards)):
        return None
    check_numbers(source, shards)
    samples = {shard.name: read_samples(shard) for shard in shards}
    check_keys(shards, samples)
    listed = listed_classes(source, shards, samples)
    found = Classes.make(listed, card, str(source))
    number_of = {name: number for number, name in enumerate(listed)}
    domain_of = _domains(sorted({shard.split for shard in shards}), card, source)
    images = [
        SourceImage(
            domain_of[shard.split],
            label := found.labels[class_number(sample, number_of, shard)],
            class_path(found.classes[label], sample.image.name),
            f"{shard.name}/{sample.image.name}",
            shard.blob(sample.image),
        )
        for shard in shards
        for sample in samples[shard.name]
    ]
    domains = _in_card_order(set(domain_of.values()), card)
    return Listing(
        layout="WebDataset shards",
        classes=found.classes,
        names=found.names,
        domains=domains,
        images=in_order(with_distinct_paths(images), domains),
        rejected=(*other_members(shards), *_other_files(source, shards)),
    )


def listed_classes(source: Path, shards: Sequence[SourceShard], samples: dict[str, list[Sample]]) -> tuple[str, ...]:
    """The classes that labels count: those of classnames.txt, or else the names that stand in the shards, sorted."""
    file = (source if source.is_dir() else source.parent) / CLASS_NAMES
    if file.is_file():
        return read_classnames(file)
    labels = [(shard, sample) for shard in shards for sample in samples[shard.name]]
    for shard, sample in labels:
        if isinstance(sample.label, int):
            raise UserError(
                f"The labels are numbers ({shard.name}, {sample.key!r}: {sample.label}), and there is no {file} that "
                "says which classes they mean.",
                fix=f"Write {CLASS_NAMES}: a class's name a line, in the order of their numbers.",
            )
    return tuple(sorted({str(sample.label) for _, sample in labels}))


def class_number(sample: Sample, number_of: Mapping[str, int], shard: SourceShard) -> int:
    """The number of a sample's class, by its name or as it stands. Raises `UserError` if there is no such class."""
    if isinstance(sample.label, str):
        if sample.label in number_of:
            return number_of[sample.label]
        raise UserError(
            f"{shard.name}: {sample.key!r} is of the class {sample.label!r}, which {CLASS_NAMES} does not have.",
            fix="Add the class, or correct the label.",
        )
    if sample.label >= len(number_of):
        raise UserError(
            f"{shard.name}: the label of {sample.key!r} is {sample.label}, {CLASS_NAMES} has {len(number_of)} classes "
            f"(0 to {len(number_of) - 1}).",
            fix="Give the list of classes that belongs to these shards.",
        )
    return sample.label


@dataclass(frozen=True)
class Classes:
    """Classes of a listing, and which of them the source's classes are."""

    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    """Position in the source's list → label."""

    @classmethod
    def make(cls, listed: Sequence[str], card: DatasetCard | None, where: str) -> Classes:
        """The card's classes by name; without a card the listed ones. Raises `UserError` for a name without a class."""
        if card is None:
            folders = tuple(name.replace("/", "_") for name in listed)
            if len(set(folders)) != len(folders):
                name = next(name for name, folder in zip(listed, folders, strict=True) if folders.count(folder) > 1)
                raise UserError(f"{where} has two classes that differ in a slash: {name!r}.", fix="Rename one.")
            return cls(folders, tuple(map(readable_name, listed)), tuple(range(len(listed))))
        labels = tuple(map(class_labels(card).get, map(same_name, listed)))
        taken: dict[int, str] = {}
        for name, label in zip(listed, labels, strict=True):
            if label is None:
                raise UserError(
                    f"{where} has the class {name!r}, which is none of {card.title}.",
                    fix="Shard under another NAME to take the classes as they are.",
                )
            if taken.setdefault(label, name) != name:
                raise UserError(f"{where} has two names of one class: {taken[label]!r}, {name!r}.", fix="Remove one.")
        return cls(card.classes, card.names, tuple(label for label in labels if label is not None))


def class_labels(card: DatasetCard) -> dict[str, int]:
    """`same_name` of a card's folders, readable names and aliases → label; spellings that two classes share are out."""
    found: dict[str, set[int]] = {}
    for label, (folder, name) in enumerate(zip(card.classes, card.names, strict=True)):
        for spelling in (folder, name, *card.aliases.get(folder, ())):
            found.setdefault(same_name(spelling), set()).add(label)
    return {spelling: min(labels) for spelling, labels in found.items() if len(labels) == 1}


def _domains(splits: Sequence[str], card: DatasetCard | None, source: Path) -> dict[str, str]:
    """Split → domain. Raises `UserError` if the card does not know one, or cannot say which one it is."""
    if "" in splits and len(splits) > 1:
        raise UserError(
            f"{source} holds shards, and folders with shards.", fix="Point --source at one of them, or move them apart."
        )
    if card is None:
        return {split: split or ONLY_DOMAIN for split in splits}
    known = card.domain_of
    if len(card.domains) == 1 and (only := card.only_domain(splits)):
        return {only: card.domains[0].name}
    found: dict[str, str] = {}
    for split in splits:
        domain = known.get(same_name(split))
        if domain is None:
            raise UserError(
                f"{source} holds {split or 'shards without a folder'}, which is no domain of {card.title} "
                f"({', '.join(domain.name for domain in card.domains)}).",
                fix="Name the folders of shards after the domains, or shard under another NAME.",
            )
        if domain in found.values():
            raise UserError(f"{source} holds two folders of {card.title}'s {domain}.", fix="Move one of them away.")
        found[split] = domain
    return found


def _in_card_order(domains: set[str], card: DatasetCard | None) -> tuple[str, ...]:
    return tuple(domain.name for domain in card.domains if domain.name in domains) if card else tuple(sorted(domains))


def class_path(folder: str, member: str) -> str:
    """CLASS/FILE for a member: the folders in its name keep files of one name apart."""
    return member if member.startswith(f"{folder}/") else f"{folder}/{member}"


def _other_files(source: Path, shards: Sequence[SourceShard]) -> Iterator[Rejected]:
    known = {shard.path for shard in shards}
    for path in sorted(source.rglob("*")) if source.is_dir() else ():
        ours = path.name in OURS or path.name.endswith((".index.jsonl", ".idx"))
        if path.is_file() and path not in known and not ours:
            yield Rejected(path=path.relative_to(source).as_posix(), reason="not a shard")


def _is_ours(source: Path) -> bool:
    try:
        return bool(json.loads((source / MANIFEST).read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _list_ours(source: Path, card: DatasetCard | None) -> Listing:
    """A dataset that fastclip sharded: every tar must be the manifest's, and its index says what is in it."""
    manifest = read_manifest(source)
    found = Classes.make(manifest.classes, card, str(source))
    domain_of = _domains([domain.name for domain in manifest.domains], card, source)
    domains = tuple(domain_of[domain.name] for domain in manifest.domains)
    if card:
        domains = _in_card_order(set(domains), card)
    images = [
        SourceImage(
            domain_of[shard.domain],
            label := found.labels[row.label],
            row.path if card is None else class_path(found.classes[label], row.path.partition("/")[2]),
            f"{shard.name}/{row.path}",
            blob,
        )
        for shard, row, blob in _our_images(source, manifest)
    ]
    rejected = [
        Rejected(
            path=row.path,
            reason=row.reason,
            domain=domain_of[row.domain] if row.domain is not None else None,
            label=found.labels[row.label] if row.label is not None else None,
        )
        for row in read_rejected(source, manifest)
    ]
    return Listing(
        layout="fastclip shards",
        classes=found.classes,
        names=found.names if card else manifest.names,
        protocol=manifest.protocol,
        domains=domains,
        images=in_order(images, domains),
        rejected=tuple(rejected),
    )


def _our_images(source: Path, manifest: Manifest) -> Iterator[tuple[Shard, ImageRecord, Blob]]:
    for shard in manifest.shards:
        path = source / shard.name
        if not path.is_file():
            raise UserError(f"{path} is missing; the manifest lists it.", fix="Copy it from where shards were made.")
        if path.stat().st_size != shard.bytes or digest_file(path) != shard.sha256:
            raise differs(str(path), source.name, "its size or SHA-256 is not the manifest's")
        mtime_ns = path.stat().st_mtime_ns
        for row in read_index(source, shard):
            yield shard, row, Blob("tar", path, row.size, mtime_ns, offset=row.offset)
