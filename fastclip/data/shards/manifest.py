"""The files that describe a sharded dataset: a manifest with a row a shard, and beside each tar an index.

    NAME/manifest.json        dataset, classes, domains, and per shard: images, bytes, SHA-256, SHA-256 of the index
    NAME/rejected.jsonl       each file of the source that is in no shard, with its reason
    NAME/DOMAIN/0.tar         images as they were, `KEY.jpg` (or png, webp) and `KEY.cls` (the label) side by side
    NAME/DOMAIN/0.index.jsonl per image: key, label, path, offset, size, height, width, SHA-256

`classnames.txt` and `DOMAIN/nshards.txt` are there for CLIP_benchmark, which then reads a domain as a split.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from fastclip.errors import IncompleteError, IntegrityError, UserError
from fastclip.files import canonical_json, digest, is_copy, short_name
from fastclip.storage.folders import Folder, LocalFolder, Location, open_folder

FORMAT = "fastclip-shards"
VERSION = 2
MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"
CLASS_NAMES = "classnames.txt"
SHARD_COUNT = "nshards.txt"

_DATASET_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
_LONGEST_NAME = 200


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """A row of a shard's index.

    `path` is CLASS/FILE, `offset` and `size` are of the image's bytes in the tar, `sha256` is theirs, `height` and
    `width` are pixels as stored (EXIF is not applied).
    """

    key: str
    label: int
    path: str
    offset: int
    size: int
    height: int
    width: int
    sha256: str


class Unreadable(NamedTuple):
    """A row of a shard's index whose image gives no pixels, and why."""

    row: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A file of the source that is in no shard. An image that cannot be used has its domain and label; others None."""

    path: str
    reason: str
    domain: str | None = None
    label: int | None = None


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar. `name` is its path in the dataset's folder, with forward slashes."""

    name: str
    domain: str
    images: int
    bytes: int
    sha256: str
    index_sha256: str
    images_sha256: str = ""
    """`images_sha256` of its index; empty in manifests that were written before this field existed."""

    @property
    def index_name(self) -> str:
        """Path of the shard's index in the dataset's folder."""
        return self.name.removesuffix(".tar") + ".index.jsonl"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One domain. `images` are in shards, `unreadable` ones were rejected; both belong to the dataset."""

    name: str
    images: int
    unreadable: int
    class_images: tuple[int, ...]
    """Images in shards of each class, in label order."""
    fingerprint: str
    """A digest of its set of images: see `fastclip.data.shards.fingerprint`."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A sharded dataset. `classes` are folder names in label order, `names` their readable forms."""

    dataset: str
    title: str
    variant: str | None
    """The known set of images that this is; None for any other set."""
    protocol: str
    """How images were chosen: see `fastclip.data.sources.protocols`."""
    verified: bool
    """Whether every image was decoded on the way in."""
    classes: tuple[str, ...]
    names: tuple[str, ...]
    domains: tuple[Domain, ...]
    shards: tuple[Shard, ...]
    rejected_sha256: str

    def shards_of(self, domain: str) -> tuple[Shard, ...]:
        """The shards of one domain, in the manifest's order."""
        return tuple(shard for shard in self.shards if shard.domain == domain)

    def to_json(self) -> bytes:
        """The manifest's file; equal manifests give equal bytes."""
        document = {"format": FORMAT, "version": VERSION, **asdict(replace(self, shards=()))}
        document["shards"] = [vars(shard) for shard in self.shards]
        document["digest"] = _own_digest(document)
        return _indented(document)


def path_name(domain: str) -> str:
    """A domain's name as a folder and as part of a key: percent-encoded, so no name can leave its folder, and short."""
    assert domain, "a domain has a name"
    return short_name(_encoded(domain))


def _encoded(domain: str) -> str:
    return quote(domain, safe="").replace(".", "%2E")


def images_sha256(records: Iterable[ImageRecord]) -> str:
    """SHA-256 of where a tar's images lie and what they are, in their order; labels, keys and paths are not in it."""
    rows = [[each.offset, each.size, each.height, each.width, each.sha256] for each in records]
    return digest(canonical_json(rows))


def check_dataset_name(name: str) -> None:
    """Raise `UserError` unless `name` can be a folder's name and a word of a command."""
    if not re.fullmatch(_DATASET_NAME, name):
        raise UserError(f"{name!r} cannot be a dataset's name.", fix="Use letters, digits, dots, dashes, underscores.")
    if len(name) > _LONGEST_NAME:
        raise UserError(
            f"{name[:20]}… has {len(name)} letters, too many for a dataset's name.", fix=f"Use {_LONGEST_NAME} at most."
        )


def list_datasets(folder: Folder) -> list[str]:
    """The names of the datasets in `folder` that are sharded. Copies such as `pacs.bak` are none, unless asked for."""
    names = sorted(path.split("/")[0] for path in folder.list(f"*/{MANIFEST}"))
    return [name for name in names if re.fullmatch(_DATASET_NAME, name) and not is_copy(name)]


def unfinished_datasets(folder: Folder) -> list[str]:
    """The names of the datasets in `folder` whose writing was interrupted, or goes on; none elsewhere than here."""
    if not isinstance(folder, LocalFolder):
        return []
    signs = [*folder.list("*/.writing.*.json"), *folder.list("*/*/.*.receipt.json")]
    begun = {name.split("/")[0] for name in signs}
    return sorted(begun - {*list_datasets(folder)})


def not_finished(folder: Folder) -> IncompleteError:
    """The error for a dataset that has no manifest yet, although somebody began to write it."""
    return IncompleteError(
        f"{folder} is not finished: its writing was interrupted, or goes on.",
        fix=f"fastclip shard {folder.name} --source DIR, as before: it goes on where it was. Until then, name others.",
    )


def check_folder_is_free(folder: Folder, *, overwrite: bool) -> None:
    """Raise `UserError` if `folder` holds a dataset that may not be replaced, or tars that fastclip did not write."""
    if not folder.exists(MANIFEST):
        ours = {name.removesuffix(".index.jsonl") for name in folder.list("*/[0-9]*.index.jsonl")}
        receipts = folder.list("*/.[0-9]*.receipt.json")
        ours |= {name.removesuffix(".receipt.json").replace("/.", "/") for name in receipts}
        if others := [name for name in folder.list("*/[0-9]*.tar") if name.removesuffix(".tar") not in ours]:
            raise UserError(
                f"{folder}/{others[0]} was not written by fastclip, and would be replaced.",
                fix=f"fastclip shards index {folder.name} to use these shards, or choose another --out.",
            )
    elif not overwrite:
        raise UserError(f"{folder} is sharded already.", fix="Add --overwrite to write it again.")


def read_manifest(location: Location) -> Manifest:
    """The manifest in a folder. Raises `UserError` if there is none, `IntegrityError` if it does not add up."""
    folder = open_folder(location)
    path = f"{folder}/{MANIFEST}"
    try:
        data = folder.read(MANIFEST)
    except FileNotFoundError:
        if isinstance(folder, LocalFolder) and (folder.list(".writing.*.json") or folder.list("*/.*.receipt.json")):
            raise not_finished(folder) from None
        fix = f"fastclip shard {folder.name} --source DIR"
        if isinstance(folder, LocalFolder) and folder.exists("classnames.txt") and folder.list("*/[0-9]*.tar"):
            elsewhere = "" if folder.path.parent == Path("shards") else f" --shards {folder.path.parent}"
            fix = f"If other programs wrote the tars in it: fastclip shards index {folder.name}{elsewhere}"
        raise UserError(f"{folder.name} is not sharded: there is no {path}.", fix=fix) from None
    try:
        document = json.loads(data)
        if (document["format"], document["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it is {document['format']} version {document['version']}")
        manifest = _parse(document)
        _check(manifest)
        if document["digest"] != _own_digest(document):
            raise ValueError("it was changed after it was written: its digest differs")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"{path} cannot be used: {f'it has no {error}' if isinstance(error, KeyError) else error}.",
            fix=f"Write the shards again: {rewrite(folder)}",
        ) from error
    return manifest


def read_rejected(location: Location, manifest: Manifest) -> list[Rejected]:
    """The files of the source that are in no shard. Raises `IntegrityError` if the list was changed."""
    data = open_folder(location).read_proven(REJECTED, manifest.rejected_sha256)
    return [Rejected(**json.loads(line)) for line in data.splitlines()]


def rewrite(folder: Folder | Path) -> str:
    """The command that writes a dataset's shards again."""
    return f"fastclip shard {folder.name} --source DIR --overwrite"


def json_lines(rows: Iterable[Any]) -> bytes:
    """Dataclass rows as JSON lines; equal rows give equal bytes."""
    return b"".join(canonical_json(vars(row)) + b"\n" for row in rows)


def _own_digest(document: Mapping[str, Any]) -> str:
    """The digest of everything else in a manifest: it shows an edit or a flipped bit."""
    return digest(canonical_json({name: value for name, value in document.items() if name != "digest"}))


def _indented(document: Mapping[str, Any]) -> bytes:
    """A manifest as `json.dumps` writes it with an indent of 1; of 100,000 shards that takes it several seconds."""
    # Without an indent json encodes in C; the separator between the fields of a row makes it look the same.
    encode = json.JSONEncoder(separators=(",\n   ", ": "), ensure_ascii=False).encode
    rows = ",".join(f"\n  {{\n   {encode(row)[1:-1]}\n  }}" for row in document["shards"])
    text = json.dumps({**document, "shards": []}, indent=1, ensure_ascii=False)
    return text.replace('"shards": []', f'"shards": [{rows}\n ]' if rows else '"shards": []', 1).encode() + b"\n"


def _parse(document: dict[str, Any]) -> Manifest:
    return Manifest(
        dataset=document["dataset"],
        title=document["title"],
        variant=document["variant"],
        protocol=document["protocol"],
        verified=document["verified"],
        classes=tuple(document["classes"]),
        names=tuple(document["names"]),
        domains=tuple(Domain(**{**row, "class_images": tuple(row["class_images"])}) for row in document["domains"]),
        shards=tuple(Shard(**row) for row in document["shards"]),
        rejected_sha256=document["rejected_sha256"],
    )


def _check(manifest: Manifest) -> None:
    if len(manifest.classes) != len(manifest.names) or not manifest.classes:
        raise ValueError(f"{len(manifest.classes)} classes, {len(manifest.names)} readable names")
    for repeated in ("classes", "domains", "shards"):
        names = [row if isinstance(row, str) else row.name for row in getattr(manifest, repeated)]
        if len(set(names)) != len(names):
            raise ValueError(f"a name stands twice in {repeated}")
    domains = {domain.name for domain in manifest.domains}
    if "" in domains:
        raise ValueError("a domain has no name")
    for shard in manifest.shards:
        if shard.domain not in domains:
            raise ValueError(f"{shard.name} belongs to no domain")
        # No path of a manifest may lead out of its folder: `--overwrite` removes what it lists.
        # Long names were not shortened once, and an object store takes them.
        folder, _, file = shard.name.partition("/")
        if folder not in (path_name(shard.domain), _encoded(shard.domain)) or not re.fullmatch(r"[0-9]+\.tar", file):
            raise ValueError(f"{shard.name!r} is not the name of a shard of {shard.domain!r}")
    images_of = Counter[str]()
    for shard in manifest.shards:
        images_of[shard.domain] += shard.images
    for domain in manifest.domains:
        images = images_of[domain.name]
        if images != domain.images:
            raise ValueError(f"{domain.name} has {domain.images} images, its shards have {images}")
        if len(domain.class_images) != len(manifest.classes) or sum(domain.class_images) != images:
            raise ValueError(f"the classes of {domain.name} do not add up to its {images} images")
