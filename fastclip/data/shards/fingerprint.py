"""Tells variants of a dataset apart: sets of images that bear one name, and their differences in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from fastclip.data.catalogue import DatasetCard, Variant
from fastclip.data.shards.manifest import Domain
from fastclip.files import digest

SHOWN_CLASSES = 12
"""How many classes with another number of images are named for a domain."""


def fingerprint(image_digests: Iterable[bytes]) -> str:
    """SHA-256 over the sorted SHA-256 digests (32 bytes each) of a domain's images. Order and names play no part."""
    return digest(b"".join(sorted(image_digests)))


def find_variant(domains: Sequence[Domain], card: DatasetCard | None) -> str | None:
    """The name of the card's variant whose domains these are, whole and in full; None if there is none."""
    for variant in card.variants if card else ():
        whole = {domain.name for domain in domains} == set(variant.images)
        if whole and not any(_domain_differences(variant, domain, card.classes if card else ()) for domain in domains):
            return variant.name
    return None


def differences(domains: Sequence[Domain], card: DatasetCard) -> list[str]:
    """The differences between these domains and the nearest variant of the card, in words.

    Each line names a domain, and the classes with other numbers where the card knows them.
    """
    if not card.variants:
        return []
    variant = min(card.variants, key=lambda each: _distance(each.images, domains))
    found = {domain.name: domain for domain in domains}
    lines = []
    for name, images in variant.images.items():
        if name not in found:
            lines.append(f"{name}: {images:,} expected, none found")
        else:
            lines += _domain_differences(variant, found[name], card.classes)
    return lines + [f"{name}: not in that variant" for name in found if name not in variant.images]


def nearest_variant(domains: Sequence[Domain], card: DatasetCard) -> Variant | None:
    """The variant whose numbers of images differ least."""
    return min(card.variants, key=lambda each: _distance(each.images, domains), default=None)


def duplicates(images: Iterable[tuple[str, int, str, bytes]]) -> list[tuple[str, str, bool]]:
    """Images with the bytes of an earlier one: (its place, the earlier one's place, whether their classes differ).

    `images` are (domain, label, path, SHA-256).
    """
    first: dict[bytes, tuple[str, int]] = {}
    found = []
    for domain, label, path, sha256 in images:
        place, earlier_label = first.setdefault(sha256, (f"{domain}/{path}", label))
        if place != f"{domain}/{path}":
            found.append((f"{domain}/{path}", place, label != earlier_label))
    return found


def _distance(expected: Mapping[str, int], domains: Sequence[Domain]) -> int:
    found = {domain.name: domain.images for domain in domains}
    return sum(abs(images - found.get(name, 0)) for name, images in expected.items())


def _domain_differences(variant: Variant, domain: Domain, classes: Sequence[str]) -> list[str]:
    expected = variant.images.get(domain.name)
    known = variant.fingerprints.get(domain.name)
    per_class = list(_class_differences(variant.class_images.get(domain.name, ()), domain.class_images, classes))
    if expected == domain.images and not per_class:
        if known in (None, domain.fingerprint):
            return []
        return [f"{domain.name}: {domain.images:,} images as expected, but not the same ones (other fingerprint)"]
    found = f"{domain.images:,} found" + (f", {domain.unreadable:,} unreadable" if domain.unreadable else "")
    line = f"{domain.name}: {expected or 0:,} expected, {found}"
    if len(per_class) > SHOWN_CLASSES:
        per_class[SHOWN_CLASSES:] = [f"and {len(per_class) - SHOWN_CLASSES:,} more classes differ"]
    return ["; ".join([line, ", ".join(per_class)]) if per_class else line]


def _class_differences(expected: Sequence[int], found: Sequence[int], classes: Sequence[str]) -> Iterator[str]:
    for name, wanted, images in zip(classes, expected, found, strict=False):
        if wanted != images:
            yield f"{name} {abs(wanted - images):,} {'fewer' if images < wanted else 'more'}"
