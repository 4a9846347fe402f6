"""The contents of a source in any layout: labelled images in a fixed order, and everything else with its reason."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastclip.data.image_headers import IMAGE_SUFFIXES
from fastclip.data.shards.manifest import Rejected
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.leftovers import known_reason
from fastclip.data.sources.splits import is_split
from fastclip.data.sources.walk import is_file
from fastclip.errors import UserError
from fastclip.faults import steadily

ONLY_DOMAIN = "all"
"""The name of the one domain of a source without domain folders."""

_PIECE = re.compile(r"\.(tar(?!\.gz$)|tgz|parquet)[^/]+$", re.IGNORECASE)
"""1.tar.zst, 1.tar.part, 1.tar.1: a shard or table in another form."""


@dataclass(frozen=True)
class SourceImage:
    """A labelled image of the source."""

    domain: str
    label: int
    path: str
    """CLASS/FILE, the same in every layout of one dataset; unique in its domain."""
    found_at: str
    """Where it lies, for messages: a path in the source."""
    blob: Blob


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Everything that a source holds: nothing that was found is left out."""

    layout: str
    """How it was laid out, for the user to read."""
    classes: tuple[str, ...]
    """Class folders in label order."""
    names: tuple[str, ...]
    """Their readable names."""
    domains: tuple[str, ...]
    images: tuple[SourceImage, ...]
    """In the order of `domains`; within a domain in the order in which they go into shards."""
    protocol: str = "full"
    """How images were chosen when the source was made: `full` for every source but our own shards."""
    rejected: tuple[Rejected, ...] = ()
    """Files that go into no shard: no images, or images that are known to be unusable before they are read."""


def of_split(listing: Listing, split: str, where: str) -> Listing:
    """The part of a listing whose domains are one split. Raises `UserError` if it has no such split."""
    taken = [name for name in listing.domains if is_split(name, split) or is_split(name.rpartition("-")[2], split)]
    if not taken:
        raise UserError(
            f"{where} has no split {split!r}; it has {', '.join(listing.domains)}.", fix=f"--split {listing.domains[0]}"
        )
    others = [image for image in listing.images if image.domain not in taken]
    left = [Rejected(path=image.found_at, reason=f"of {image.domain}, which is not asked for") for image in others]
    kept = [row if row.domain in (None, *taken) else replace(row, domain=None, label=None) for row in listing.rejected]
    return replace(
        listing,
        domains=tuple(taken),
        images=tuple(image for image in listing.images if image.domain in taken),
        rejected=(*kept, *left),
    )


def checked(listing: Listing) -> Listing:
    """The listing itself. Raises `UserError` if it has one class in all."""
    check_classes(listing.classes)
    return listing


def check_classes(classes: Sequence[str]) -> None:
    """Raise `UserError` for one class in all, where every answer would be right, and for a class that no file holds."""
    if len(classes) < 2:
        raise UserError(
            f"The source has one class in all, {', '.join(classes)}: every backbone would score 100 %.",
            fix="Are the class folders a level deeper or higher? Give the whole set, or a card (shards/README.md).",
        )
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"The class {name!r} is no Unicode text.", fix="Correct the list of classes.") from None


def other_files(source: Path, used: Collection[Path], reason: str) -> list[Rejected]:
    """Every file below the folder `source` that is not `used`, by the rule that knows its name, or else `reason`.

    There are none if `source` is a file itself. Raises `UserError` for shards and tables in a form that is not read,
    and for folders of images, whose labels would be others.
    """
    paths = steadily(lambda: sorted(source.rglob("*")), source) if source.is_dir() else []
    others = [path for path in paths if is_file(path) and path not in used]
    names = [path.relative_to(source).as_posix() for path in others]
    found = [Rejected(path=name, reason=known_reason(name) or reason) for name in names]
    if lost := next((row.path for row in found if row.reason == reason and _PIECE.search(row.path)), None):
        raise UserError(
            f"{source} holds {lost}, which is not read: packed otherwise, not yet whole, or a copy.",
            fix="Finish its download, unpack it, or move it out of --source: images in it would be missed.",
        )
    unknown = [row.path for row in found if row.reason == reason]
    images = [path for path in unknown if posixpath.splitext(path)[1].lower() in IMAGE_SUFFIXES]
    if len({posixpath.dirname(path) for path in images}) > 1:
        raise UserError(
            f"{source} holds folders of images ({images[0]}) beside files that hold labelled images.",
            fix="Point --source at one of the two, or move the other away.",
        )
    return found


def in_order(images: Iterable[SourceImage], domains: Iterable[str]) -> tuple[SourceImage, ...]:
    """Sorted by domain, label, path: ImageFolder's order, whatever the layout was."""
    order = {domain: index for index, domain in enumerate(domains)}
    return tuple(sorted(images, key=lambda image: (order[image.domain], image.label, image.path)))


def with_distinct_paths(images: list[SourceImage]) -> list[SourceImage]:
    """Images whose CLASS/FILE is another one's too (merged splits) keep the folders they lay in."""
    uses = Counter((image.domain, image.path) for image in images)
    return [
        replace(image, path=f"{image.path.split('/')[0]}/{image.found_at}")
        if uses[image.domain, image.path] > 1
        else image
        for image in images
    ]
