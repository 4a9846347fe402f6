"""Reads WebDataset shards of other programs: images and their labels, paired by key, with nothing guessed.

A key is a member's name up to the first dot of its last part, as WebDataset has it. The members of one image may stand
anywhere in their shard. An image without a label, a label without an image and a key that stands twice are errors that
name the shard and the key.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from fastclip.data.classes import NO_LABEL, one_form
from fastclip.data.image_headers import IMAGE_SUFFIXES, sniff
from fastclip.data.shards.manifest import CLASS_NAMES, MANIFEST, REJECTED, SHARD_COUNT, Rejected
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.pieces import Piece, find_files, pieces
from fastclip.data.sources.tars import TarMember, list_tar
from fastclip.errors import UserError
from fastclip.faults import steadily

OURS = frozenset((MANIFEST, REJECTED, CLASS_NAMES, SHARD_COUNT, "zeroshot_classification_templates.txt"))
"""Files that describe shards. They are not listed as other files."""

SHARDS = (".tar", ".tar.gz", ".tgz")
IMAGES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
JSON_LABELS = ("label", "cls", "class")
MAX_LABEL_BYTES = 1 << 20
"""The most that a .cls or .json may have: they are read whole."""


class Sample(NamedTuple):
    """An image of a shard, and its label as it stands there: a number, the name of a class, or None."""

    key: str
    image: TarMember
    label: int | str | None


@dataclass(frozen=True)
class SourceShard:
    """One tar and its place in the source."""

    path: Path
    name: str
    """Its path below the source; for messages."""
    piece: Piece
    """Which piece of what it is, by its name."""
    mtime_ns: int
    ctime_ns: int
    members: Sequence[TarMember] = field(repr=False)

    def blob(self, member: TarMember) -> Blob:
        """Where a member's bytes are."""
        return Blob("tar", self.path, member.size, self.mtime_ns, member.offset, ctime_ns=self.ctime_ns)


def find_shards(source: Path) -> list[SourceShard]:
    """Every tar below `source`, in the order of their folders and numbers, with what they hold."""
    root = source if source.is_dir() else source.parent
    return [_source_shard(root, piece) for piece in pieces(source, find_files(source, SHARDS))]


def _source_shard(root: Path, piece: Piece) -> SourceShard:
    path = piece.path
    facts = steadily(path.stat, path)  # before it is listed
    name = path.relative_to(root).as_posix()
    return SourceShard(path, name, piece, facts.st_mtime_ns, facts.st_ctime_ns, list_tar(path))


def _fields(shard: SourceShard) -> dict[str, dict[str, TarMember]]:
    """Key → extension in lower case → member. Raises `UserError` if an extension stands twice under one key."""
    keys: dict[str, dict[str, TarMember]] = {}
    for member in shard.members:
        key, extension = split_name(member.name)
        earlier = keys.setdefault(key, {}).setdefault(extension, member)
        if earlier is not member:
            raise UserError(
                f"{shard.name} holds the key {key!r} twice: {earlier.name!r} at byte {earlier.offset:,} and "
                f"{member.name!r} at byte {member.offset:,}.",
                fix="Write the shard again with a key of its own for every image.",
            )
    return keys


def split_name(name: str) -> tuple[str, str]:
    """A member's key and extension: parted at the first dot of the last part, as WebDataset does.

    A hidden file, such as macOS adds to archives, has no extension.
    """
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if stem else (name, "")


def pairs(shard: SourceShard) -> bool:
    """Whether the tar is a WebDataset shard: it holds a .cls, or an image and a label under one key."""
    fields: dict[str, dict[str, TarMember]] = {}
    for member in shard.members:
        key, extension = split_name(member.name)
        if extension.rpartition(".")[2] == "cls":
            return True
        fields.setdefault(key, {})[extension] = member
    beside = [each for each in fields.values() if "json" in each and len(each) > 1]
    # Without folders they can be no class folders of images with their metadata: img2dataset's, unlabelled.
    if "/" not in next((each["json"].name for each in beside if IMAGES & each.keys()), "/"):
        return True
    reader = BlobReader()
    return any(_has_label(_read_json(shard, each["json"], reader)) for each in beside)


def check_no_labels(files: Mapping[str, Blob]) -> None:
    """Raise `UserError` if a label (KEY.cls) lies beside an image among `files`, which the folders would label too."""
    labels = [path for path in files if path.lower().endswith(".cls")]
    if labels:
        keys = {split_name(path)[0]: path for path in files if posixpath.splitext(path)[1][1:].lower() in IMAGES}
        for label in labels:
            if image := keys.get(split_name(label)[0]):
                raise UserError(
                    f"{image} has its label beside it, {label}, as in WebDataset shards, but lies in no tar.",
                    fix="Put such pairs into tars (tar --sort=name -cf 0.tar FOLDER), or move the .cls files away.",
                )


def read_samples(shard: SourceShard) -> list[Sample]:
    """The images of a shard with their labels, in the order of their bytes. Raises `UserError` for half a pair."""
    reader = BlobReader()
    try:
        return _samples(shard, reader)
    except UserError:
        reader.check_unchanged()  # then that is the reason
        raise


def _samples(shard: SourceShard, reader: BlobReader) -> list[Sample]:
    found = []
    for member in shard.members:
        _check_key(shard, member)
    for key, fields in _fields(shard).items():
        images = [fields[extension] for extension in sorted(IMAGES & fields.keys())]
        images = images or _by_first_bytes(shard, fields, reader)
        if len(images) > 1:
            names = " and ".join(repr(image.name) for image in images)
            raise UserError(f"{shard.name} holds two images of one key: {names}.", fix="Remove one of them.")
        if images:
            found.append(Sample(key, images[0], _label(shard, key, fields, reader)))
        elif _is_labelled(shard, fields, reader):
            label = fields.get("cls") or fields["json"]
            raise UserError(
                f"{shard.name} has a label without an image: {label.name!r}.", fix="Add the image, or remove the label."
            )
    if not found:
        raise UserError(f"{shard.name} holds no image.", fix="Remove it or get it again: an empty shard hides a loss.")
    return sorted(found, key=lambda sample: sample.image.offset)


def _check_key(shard: SourceShard, member: TarMember) -> None:
    """Raise `UserError` if the key of an image or label has a dot: it would end there, and the rest be lost."""
    key, extension = split_name(member.name)
    if "." in extension and extension.rpartition(".")[2] in IMAGES | {"cls"}:
        raise UserError(
            f"{shard.name} holds {member.name!r}: its key ends at the first dot, {key!r}, so it is no image and no "
            "label of its own.",
            fix="Write the shard again with keys without dots: every WebDataset tool parts them there.",
        )


def _is_labelled(shard: SourceShard, fields: Mapping[str, TarMember], reader: BlobReader) -> bool:
    return "cls" in fields or ("json" in fields and _has_label(_read_json(shard, fields["json"], reader)))


def _has_label(row: Mapping[str, Any]) -> bool:
    return any(name in row for name in JSON_LABELS)


def _by_first_bytes(shard: SourceShard, fields: Mapping[str, TarMember], reader: BlobReader) -> list[TarMember]:
    """The images among the members of a key, of which no suffix is one of an image."""
    others = [member for extension, member in fields.items() if extension not in ("cls", "json")]
    return [each for each in others if sniff(reader.read(replace(shard.blob(each), size=min(each.size, 64))))]


def _label(shard: SourceShard, key: str, fields: Mapping[str, TarMember], reader: BlobReader) -> int | str | None:
    """A sample's label; None if it stands there that it has none: -1, or null in a json."""
    if "cls" in fields:
        text = _read(shard, fields["cls"], reader).decode("utf-8", "backslashreplace").strip()
        if text == NO_LABEL:
            return None
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise UserError(
                f"{shard.name}: the label of {key!r} is {text[:40]!r}, not a number from 0 up.",
                fix="Write the shard again; KEY.cls holds the class's number in decimal digits.",
            )
        return int(text)
    row = _read_json(shard, fields["json"], reader) if "json" in fields else {}
    if not _has_label(row):
        raise UserError(
            f"{shard.name} has an image without a label: {key!r}.",
            fix=f"Every image needs KEY.cls, or KEY.json with one of {', '.join(JSON_LABELS)}.",
        )
    said = [name for name in JSON_LABELS if row.get(name) is not None]
    name = (said or JSON_LABELS)[0]
    value = row.get(name)
    if any(type(row[other]) is type(value) and row[other] != value for other in said):
        raise UserError(
            f"{shard.name}: {' and '.join(said)} of {key!r} say different things.",
            fix="Write the shard again with one label for an image.",
        )
    if value in (None, NO_LABEL, int(NO_LABEL)):
        return None
    if isinstance(value, str) and value.strip():
        return one_form(value.strip())
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9:
        return value
    raise UserError(
        f"{shard.name}: the {name} of {key!r} is {json.dumps(value)[:40]}.",
        fix="Write the shard again with a number from 0 up, or a class's name.",
    )


def _read(shard: SourceShard, member: TarMember, reader: BlobReader) -> bytes:
    if member.size > MAX_LABEL_BYTES:
        raise UserError(
            f"{shard.name}: {member.name!r} has {member.size:,} bytes, too many for a label.", fix="Write it again."
        )
    return reader.read(shard.blob(member))


def _read_json(shard: SourceShard, member: TarMember, reader: BlobReader | None = None) -> dict[str, Any]:
    try:
        row = json.loads(_read(shard, member, reader or BlobReader()))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shard.name}: {member.name!r} is not JSON: {error}.", fix="Write the shard again.") from error
    return row if isinstance(row, dict) else {}


def other_members(shards: Iterable[SourceShard], samples: Iterable[Sequence[Sample]]) -> Iterator[Rejected]:
    """Members that are neither images nor labels, a row for each shard and extension; `samples` are of each shard."""
    for shard, found in zip(shards, samples, strict=True):
        keys = {sample.key for sample in found}
        images = {sample.image.name for sample in found}
        names = [split_name(member.name) for member in shard.members if member.name not in images]
        others = Counter(extension for key, extension in names if key not in keys or extension not in ("cls", "json"))
        for extension in sorted(others):
            yield Rejected(
                path=f"{shard.name}/*.{extension}" if extension else f"{shard.name}/*",
                reason=f"{others[extension]:,} members that are neither images nor labels",
            )
