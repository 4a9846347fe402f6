"""Protocols choose the images of a source that are evaluated."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastclip.data.catalogue import DatasetCard
from fastclip.data.sources.listing import Listing, SourceImage
from fastclip.errors import UserError
from fastclip.files import digest

FULL = "full"
"""Every image, as in the published table."""

HOLDOUT = 0.2
"""DomainBed's share of each domain for model selection; the rest is its in-split."""


def apply_protocol(listing: Listing, protocol: str, card: DatasetCard | None) -> tuple[Listing, str]:
    """The part of `listing` that `protocol` takes, and the protocol's name for the manifest.

    `full` takes every image, `domainbed` or `domainbed:SEED` the 80 % in-split of DomainBed's trial SEED (0 unless
    given), and a file's path the images that the file lists, one DOMAIN/CLASS/FILE a line. Raises `UserError`.
    """
    if protocol == FULL:
        return listing, listing.protocol
    if listing.protocol != FULL:
        raise UserError(
            f"The source holds only the images of the protocol {listing.protocol}.", fix="Give the whole dataset."
        )
    if match := re.fullmatch(r"domainbed(?::(\d+))?", protocol):
        seed = int(match[1] or 0)
        if unusable := [row for row in listing.rejected if row.label is not None]:
            raise UserError(
                f"{unusable[0].path}: {unusable[0].reason}. DomainBed's split depends on the place of every image.",
                fix="Get the whole dataset, or use --protocol full.",
            )
        return replace(listing, images=_in_split(listing, seed, card)), f"domainbed:{seed}"
    path = Path(protocol)
    if not path.is_file():
        raise UserError(
            f"There is no protocol {protocol!r} and no such file.",
            fix="--protocol full | domainbed | domainbed:SEED | FILE with DOMAIN/CLASS/IMAGE lines",
        )
    return _listed(listing, path)


def _in_split(listing: Listing, seed: int, card: DatasetCard | None) -> tuple[SourceImage, ...]:
    """The images that DomainBed's `split_dataset` takes. Its environments are its domain folders in sorted order."""
    domains = card.domains if card else ()
    folders = {domain.name: domain.folders[0] if domain.folders else domain.name for domain in domains}
    environments = sorted(folders or listing.domains, key=lambda name: folders.get(name, name))
    taken: set[tuple[str, str, int]] = set()
    for domain in listing.domains:
        # By class and file name, as ImageFolder lists a folder, whatever the order of the source.
        images = sorted(
            (image for image in listing.images if image.domain == domain), key=lambda image: (image.label, image.path)
        )
        text = str((seed, environments.index(domain)))
        hashed = int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(), 16) % 2**31
        order = list(range(len(images)))
        np.random.RandomState(hashed).shuffle(order)  # DomainBed's generator
        taken |= {(domain, images[row].found_at, images[row].label) for row in order[int(len(images) * HOLDOUT) :]}
    return tuple(image for image in listing.images if (image.domain, image.found_at, image.label) in taken)


def _listed(listing: Listing, path: Path) -> tuple[Listing, str]:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}.", fix="Save it as UTF-8, an image a line.") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wanted = set(lines)
    if len(wanted) != len(lines):
        repeated = next(line for line in wanted if lines.count(line) > 1)
        raise UserError(f"{path} lists {repeated!r} twice.", fix="Remove one: every image is counted once.")
    images = [image for image in listing.images if f"{image.domain}/{image.path}" in wanted]
    rejected = [row for row in listing.rejected if row.label is None]
    if unknown := sorted(wanted - {f"{image.domain}/{image.path}" for image in images}):
        raise UserError(
            f"{path} lists {len(unknown):,} images that the source does not hold; the first: {unknown[0]!r}.",
            fix="Give lines as DOMAIN/CLASS/FILE, spelt as in the dataset's index files.",
        )
    name = f"list {path.name} sha256 {digest(text.encode())[:16]}"
    present = {image.domain for image in images}
    domains = tuple(domain for domain in listing.domains if domain in present)
    return replace(listing, images=tuple(images), domains=domains, rejected=tuple(rejected)), name
