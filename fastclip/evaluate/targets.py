"""The sharded datasets that an evaluation is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastclip.data.catalogue import find_card
from fastclip.data.shards.manifest import Manifest, Shard, list_datasets, read_manifest
from fastclip.errors import UserError
from fastclip.files import digest
from fastclip.results.cells import DatasetFacts
from fastclip.storage.folders import Folder, Location, open_folder


@dataclass(frozen=True)
class Target:
    """A dataset, and those of its domains that are asked for."""

    folder: Folder
    manifest: Manifest
    domains: tuple[str, ...]

    @property
    def shards(self) -> Iterator[Shard]:
        """The shards of the wanted domains."""
        return (shard for shard in self.manifest.shards if shard.domain in self.domains)


def find_targets(location: Location, names: Sequence[str]) -> list[Target]:
    """The datasets at `location` called DATASET or DATASET/DOMAIN; without names, all that are there."""
    shards = open_folder(location)
    wanted: dict[str, list[str]] = {}
    for name in names or list_datasets(shards):
        dataset, _, domain = name.partition("/")
        wanted.setdefault(dataset, []).append(domain)
    if not wanted:
        raise UserError(f"{shards} holds no sharded dataset.", fix="fastclip shard NAME --source DIR, or fastclip demo")
    return [_target(shards.child(dataset), domains) for dataset, domains in wanted.items()]


def _target(folder: Folder, domains: list[str]) -> Target:
    manifest = read_manifest(folder)
    known = [domain.name for domain in manifest.domains]
    for domain in domains:
        if domain and domain not in known:
            raise UserError(
                f"{manifest.dataset} has no domain {domain!r}.", fix=f"Choose from {', '.join(known)}, or leave it out."
            )
    return Target(folder, manifest, tuple(name for name in known if "" in domains or name in domains))


def dataset_facts(target: Target, shards: Location) -> DatasetFacts:
    """What a record says of a target's images; `shards` is where the user's own cards are."""
    manifest = target.manifest
    card = find_card(target.folder.name, shards)
    return DatasetFacts(
        name=target.folder.name,
        title=manifest.title,
        variant=manifest.variant,
        protocol=manifest.protocol,
        manifest_sha256=digest(manifest.to_json()),
        fingerprints={domain.name: domain.fingerprint for domain in manifest.domains if domain.name in target.domains},
        has_variants=card is not None and bool(card.variants),
    )
