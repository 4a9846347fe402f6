"""Prints what `fastclip shard` found in a source, and what it wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastclip.errors import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from fastclip.data.catalogue import DatasetCard
    from fastclip.data.shards.manifest import Manifest, Rejected
    from fastclip.data.shards.writer import Written
    from fastclip.data.sources.listing import Listing

SHOWN_CLASSES = 8
"""Classes without an image that are named."""
SHOWN_REJECTED = 5
"""Unreadable images that are named, and reasons of other files."""


def print_summary(written: Written, listing: Listing, card: DatasetCard | None, folder: str) -> None:
    """Print the dataset, its domains, how it differs from the known ones, and which files could not be used."""
    from fastclip.cli.console import out
    from fastclip.cli.datasets import classes_line

    manifest = written.manifest
    console = out()
    console.print(printable(f"{manifest.title} in {folder}"), style="bold")
    console.print(printable(f"Found as {listing.layout}; protocol {manifest.protocol}."))
    if card is None:
        console.print(classes_line(manifest.classes))
    _print_domains(console, manifest)
    for line in class_lines(manifest, written.rejected):
        console.print(line, soft_wrap=True)
    for line in variant_lines(written, card):
        _print_variant_line(console, printable(line))
    _print_duplicates(console, written)
    _print_counts(console, written, folder)


def _print_domains(console: Console, manifest: Manifest) -> None:
    from fastclip.report.style import plain_table

    table = plain_table("domain", "shards", "images", "unreadable", "fingerprint")
    for domain in manifest.domains:
        numbers = [len(manifest.shards_of(domain.name)), domain.images, domain.unreadable]
        table.add_row(domain.name, *(f"{number:,}" for number in numbers), domain.fingerprint[:16])
    console.print(table)


def class_lines(manifest: Manifest, rejected: Sequence[Rejected]) -> list[str]:
    """Which classes have no image in any domain, and which ones CLIP cannot tell apart."""
    from fastclip.data.twins import twins, twins_line

    used = {row.label for row in rejected if row.label is not None}
    used |= {label for domain in manifest.domains for label, images in enumerate(domain.class_images) if images}
    empty = [name for label, name in enumerate(manifest.names) if label not in used]
    lines = [f"No image of {_classes(empty)}."] if empty else []
    for domain in manifest.domains:
        if lacking := [manifest.names[label] for label in sorted(used) if not domain.class_images[label]]:
            lines.append(f"{printable(domain.name)} has no image of {_classes(lacking)}.")
    return [*lines, *([twins_line(manifest.names, groups)] if (groups := twins(manifest.names)) else [])]


def _classes(names: Sequence[str]) -> str:
    """How many classes, and the first of them."""
    count = "1 class" if len(names) == 1 else f"{len(names):,} classes"
    return f"{count}: {printable(', '.join(names[:SHOWN_CLASSES]))}{', …' if len(names) > SHOWN_CLASSES else ''}"


def variant_lines(written: Written, card: DatasetCard | None) -> list[str]:
    """Which known variant of the dataset this is, or how it differs from the nearest one."""
    from fastclip.data.shards.fingerprint import differences, nearest_variant
    from fastclip.data.sources.protocols import FULL

    manifest = written.manifest
    images = sum(domain.images for domain in manifest.domains)
    if manifest.variant:
        return [f"This is {manifest.title}, {images:,}, {manifest.variant}, by its counts."]
    if card is None or manifest.protocol != FULL or (nearest := nearest_variant(manifest.domains, card)) is None:
        return []
    expected = sum(nearest.images.values())
    return [
        f"No variant of {card.title} that is known: {images:,} images, the nearest ({nearest.name}) has {expected:,}.",
        *(f"  {line}" for line in differences(manifest.domains, card)),
    ]


def _print_variant_line(console: Console, line: str) -> None:
    """Print a line that names a domain. If it is long, its classes stand below it, further in."""
    from fastclip.cli.console import indented

    head, _, classes = line.partition("; ") if len(line) > console.width else (line, "", "")
    console.print(indented(head.lstrip(), 2 if head.startswith(" ") else 0, console.width))
    if classes:
        console.print(indented(classes, 6, console.width))


def _print_duplicates(console: Console, written: Written) -> None:
    from fastclip.cli.console import counted
    from fastclip.data.shards.fingerprint import duplicates

    if not (repeated := duplicates(written.images)):
        return
    elsewhere = sum(other_class for _, _, other_class in repeated)
    first, earlier, _ = next((row for row in repeated if row[2]), repeated[0])
    console.print(
        f"{counted(len(repeated), 'image')} with the bytes of another one, {elsewhere:,} of them in another class; "
        f"{printable(first)} is {printable(earlier)}.",
        soft_wrap=True,
    )


def _print_counts(console: Console, written: Written, folder: str) -> None:
    """Three counts that add up to everything in the source, and examples of what is in no shard, with the reasons."""
    from collections import Counter

    from fastclip.cli.console import counted
    from fastclip.data.shards.manifest import REJECTED

    unreadable = [row for row in written.rejected if row.domain is not None]
    left = [row for row in written.rejected if row.domain is None]
    images = counted(sum(domain.images for domain in written.manifest.domains), "image")
    console.print(f"{images} in shards, {len(unreadable):,} unreadable, {len(left):,} left over.")
    if not written.rejected:
        return
    console.print(printable(f"What is in no shard is listed in {folder}/{REJECTED}:"), soft_wrap=True)
    for row in unreadable[:SHOWN_REJECTED]:
        console.print(f"  {printable(row.path)}: {printable(row.reason)}", soft_wrap=True)
    reasons = Counter(row.reason for row in left)
    example = {row.reason: row.path for row in reversed(left)}
    for reason, count in reasons.most_common(SHOWN_REJECTED):
        console.print(
            f"  {counted(count, 'file')}: {printable(reason)}, such as {printable(example[reason])}", soft_wrap=True
        )
    if unreadable:
        console.print("fastclip eval asks what unreadable images mean for the accuracy (docs/numbers.md).")
