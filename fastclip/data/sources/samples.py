"""Reads WebDataset shards of other programs: images and their labels, paired by key, with nothing guessed.

A key is a member's name up to the first dot of its last part, as WebDataset has it. The members of one image may stand
anywhere in their shard. An image without a label, a label without an image and a key that stands twice are errors that
name the shard and the key.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fastclip.data.shards.manifest import CLASS_NAMES, MANIFEST, REJECTED, SHARD_COUNT, Rejected
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.tars import TarMember, list_tar
from fastclip.errors import UserError

OURS = frozenset((MANIFEST, REJECTED, CLASS_NAMES, SHARD_COUNT, "zeroshot_classification_templates.txt"))
"""Files that describe shards. They are not listed as other files."""

SHARDS = (".tar", ".tar.gz", ".tgz")
IMAGES = frozenset(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "pbm", "pgm", "ppm", "pnm"))
JSON_LABELS = ("label", "cls", "class")
MAX_LABEL_BYTES = 1 << 20
"""The most that a .cls or .json may have: they are read whole."""


class Sample(NamedTuple):
    """An image of a shard, and its label as it stands there: a number, or the name of a class."""

    key: str
    image: TarMember
    label: int | str


@dataclass(frozen=True)
class SourceShard:
    """One tar and its place in the source."""

    path: Path
    name: str
    """SPLIT/FILE, or FILE; for messages."""
    split: str
    """The folder that it lies in; empty for the source itself."""
    mtime_ns: int
    members: Sequence[TarMember] = field(repr=False)

    def blob(self, member: TarMember) -> Blob:
        """Where a member's bytes are."""
        return Blob("tar", self.path, member.size, self.mtime_ns, offset=member.offset)


def find_shards(source: Path) -> list[SourceShard]:
    """Every tar in `source` and in its folders, in the order of their numbers, with what they hold."""
    if source.is_file():
        return [_shard(source, source.name, "")] if source.name.lower().endswith(SHARDS) else []
    paths = [path for path in (*source.glob("*"), *source.glob("*/*")) if path.name.lower().endswith(SHARDS)]
    found = [path for path in paths if path.is_file() and not path.name.startswith(".")]
    found.sort(
        key=lambda path: (path.parent, [int(n) if n.isdigit() else 0 for n in re.split(r"(\d+)", path.name)], path)
    )
    return [
        _shard(path, path.relative_to(source).as_posix(), path.parent.name if path.parent != source else "")
        for path in found
    ]


def _shard(path: Path, name: str, split: str) -> SourceShard:
    return SourceShard(path, name, split, path.stat().st_mtime_ns, list_tar(path))


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
    """Whether the tar is a WebDataset shard: an image and a label stand in it under one key."""
    keys: dict[str, dict[str, TarMember]] = {}
    for member in shard.members:
        key, extension = split_name(member.name)
        keys.setdefault(key, {})[extension] = member
    for fields in keys.values():
        if IMAGES & fields.keys() and "cls" in fields:
            return True
        if IMAGES & fields.keys() and "json" in fields:
            # Without folders they can be no class folders of images with their metadata: img2dataset's, unlabelled.
            member = fields["json"]
            return "/" not in member.name or any(name in _read_json(shard, member) for name in JSON_LABELS)
    return False


def read_samples(shard: SourceShard) -> list[Sample]:
    """The images of a shard with their labels, in the order of their bytes. Raises `UserError` for half a pair."""
    reader = BlobReader()
    found = []
    for key, fields in _fields(shard).items():
        images = [fields[extension] for extension in sorted(IMAGES & fields.keys())]
        if len(images) > 1:
            names = " and ".join(repr(image.name) for image in images)
            raise UserError(f"{shard.name} holds two images of one key: {names}.", fix="Remove one of them.")
        if images:
            found.append(Sample(key, images[0], _label(shard, key, fields, reader)))
        else:
            _check_no_image_is_meant(shard, key, fields)
    if not found:
        raise UserError(f"{shard.name} holds no image.", fix="Remove it or get it again: an empty shard hides a loss.")
    return sorted(found, key=lambda sample: sample.image.offset)


def _check_no_image_is_meant(shard: SourceShard, key: str, fields: dict[str, TarMember]) -> None:
    """Raise `UserError` if the members of a key without an image are half of a pair."""
    for extension, member in fields.items():
        if "." in extension and extension.rpartition(".")[2] in IMAGES | {"cls"}:
            raise UserError(
                f"{shard.name} holds {member.name!r}: its key ends at the first dot, {key!r}, and has no image.",
                fix="Write the shard again with keys without dots: every WebDataset tool parts them there.",
            )
        if extension == "cls" or (extension == "json" and any(n in _read_json(shard, member) for n in JSON_LABELS)):
            raise UserError(
                f"{shard.name} has a label without an image: {member.name!r}.",
                fix="Add the image, or remove the label.",
            )


def _label(shard: SourceShard, key: str, fields: dict[str, TarMember], reader: BlobReader) -> int | str:
    if "cls" in fields:
        text = _read(shard, fields["cls"], reader).decode("utf-8", "backslashreplace").strip()
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise UserError(
                f"{shard.name}: the label of {key!r} is {text[:40]!r}, not a number from 0 up.",
                fix="Write the shard again; KEY.cls holds the class's number in decimal digits.",
            )
        return int(text)
    row = _read_json(shard, fields["json"], reader) if "json" in fields else {}
    name = next((name for name in JSON_LABELS if row.get(name) is not None), None)
    if name is None:
        raise UserError(
            f"{shard.name} has an image without a label: {key!r}.",
            fix=f"Every image needs KEY.cls, or KEY.json with one of {', '.join(JSON_LABELS)}.",
        )
    value = row[name]
    if isinstance(value, str) and value.strip():
        return value.strip()
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


def other_members(shards: Iterable[SourceShard]) -> Iterator[Rejected]:
    """Members that are neither images nor labels, a row for each shard and extension."""
    for shard in shards:
        names = [split_name(member.name) for member in shard.members]
        keys = {key for key, extension in names if extension in IMAGES}
        used = IMAGES | {"cls", "json"}
        others = Counter(extension for key, extension in names if key not in keys or extension not in used)
        for extension in sorted(others):
            yield Rejected(
                path=f"{shard.name}/*.{extension}" if extension else f"{shard.name}/*",
                reason=f"{others[extension]:,} members that are neither images nor labels",
            )
