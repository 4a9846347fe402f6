"""Targets: sharded datasets, and those of their domains that somebody asks about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from fastclip.data.catalogue import find_card
from fastclip.data.ids import nameless, with_names
from fastclip.data.shards.manifest import (
    Manifest,
    Shard,
    images_sha256,
    list_datasets,
    not_finished,
    read_manifest,
    unfinished_datasets,
)
from fastclip.data.shards.reader import read_index
from fastclip.errors import UserError
from fastclip.files import digest
from fastclip.storage.folders import Folder, Location, open_folder


@dataclass(frozen=True)
class Target:
    """A dataset, and those of its domains that are asked for. Each of its shards names the digest of its images."""

    folder: Folder
    manifest: Manifest
    domains: tuple[str, ...]
    manifest_sha256: str
    """Of the manifest as it was read."""

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.folder.name

    @property
    def shards(self) -> Iterator[Shard]:
        """The shards of the wanted domains, in the manifest's order."""
        return (shard for shard in self.manifest.shards if shard.domain in self.domains)


def find_targets(location: Location, names: Sequence[str]) -> list[Target]:
    """The datasets at `location` called DATASET or DATASET/DOMAIN; without names, all that are there."""
    shards = open_folder(location)
    wanted: dict[str, list[str]] = {}
    if not names and (begun := unfinished_datasets(shards)):
        raise not_finished(shards.child(begun[0]))
    for name in names or list_datasets(shards):
        dataset, _, domain = name.partition("/")
        wanted.setdefault(dataset, []).append(domain)
    if not wanted:
        raise UserError(f"{shards} holds no sharded dataset.", fix="fastclip shard NAME --source DIR, or fastclip demo")
    return [_target(shards.child(dataset), domains, location) for dataset, domains in wanted.items()]


def _target(folder: Folder, domains: list[str], location: Location) -> Target:
    manifest = read_manifest(folder)
    known = [domain.name for domain in manifest.domains]
    for domain in domains:
        if domain and domain not in known:
            raise UserError(
                f"{manifest.dataset} has no domain {domain!r}.", fix=f"Choose from {', '.join(known)}, or leave it out."
            )
    wanted = tuple(name for name in known if "" in domains or name in domains)
    named = replace(manifest, names=_names(folder.name, manifest, location))
    return Target(folder, _with_images(folder, named, wanted), wanted, digest(manifest.to_json()))


def _names(dataset: str, manifest: Manifest, location: Location) -> tuple[str, ...]:
    """The manifest's readable names. Where they are ids, those of the card: it may be younger than the shards."""
    if nameless(manifest.classes, manifest.names) and (card := find_card(dataset, location)):
        return with_names(manifest.classes, manifest.names, card.readable_names)
    return manifest.names


def _with_images(folder: Folder, manifest: Manifest, domains: Sequence[str]) -> Manifest:
    """The manifest with `images_sha256` of the shards of `domains`: an old one has none, and indexes are asked."""

    def named(shard: Shard) -> Shard:
        if shard.images_sha256 or shard.domain not in domains:
            return shard
        return replace(shard, images_sha256=images_sha256(read_index(folder, shard)))

    if all(shard.images_sha256 for shard in manifest.shards):
        return manifest
    with ThreadPoolExecutor(8, "index") as pool:
        return replace(manifest, shards=tuple(pool.map(named, manifest.shards)))
