"""`fastclip shard`: any copy of a labelled image set becomes tar shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.download import DOWNLOADS
from fastclip.errors import EXIT_UNREADABLE

if TYPE_CHECKING:
    from fastclip.data.catalogue import DatasetCard
    from fastclip.data.shards.writer import WriteOptions, Written
    from fastclip.data.sources.listing import Listing


def command(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="What to call the dataset. A known name, such as pacs, takes its card."),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A folder or archive (zip, tar, tgz) of images, Parquet files, or WebDataset shards.",
            show_default="downloads/NAME",
        ),
    ] = None,
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Folder of all sharded datasets; may be s3:// or gs://.")
    ] = "shards",
    protocol: Annotated[
        str,
        typer.Option(metavar="NAME", help="full, domainbed[:SEED] (its 80 % in-split), or a file that lists images."),
    ] = "full",
    shard_images: Annotated[int, typer.Option(metavar="N", min=1, help="Images a shard.")] = 1000,
    shard_mb: Annotated[int, typer.Option("--shard-mb", metavar="N", min=1, help="Megabytes a shard.")] = 1000,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Read headers only; eval finds what does not decode.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes that read and write. Default: one a core.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the dataset's shards.")] = False,
) -> None:
    """Turn labelled images into tar shards that any WebDataset tool reads.

    Bytes stay as they are, nothing is unpacked. What does not decode is listed with its reason.

    The same command again goes on where an interrupted one was.
    """
    from fastclip.data.shards.manifest import check_dataset_name
    from fastclip.data.shards.writer import WriteOptions

    check_dataset_name(name)
    source = source if source is not None else _downloaded(name, out)
    options = WriteOptions(
        shard_images=shard_images, shard_bytes=shard_mb * 10**6, verify=not no_verify, processes=processes
    )
    if write_and_print(name, source, out, options, protocol=protocol, overwrite=overwrite):
        typer.echo(f"Next: fastclip eval {name} -b ViT-B/32" + (f" --shards {out}" if out != "shards" else ""))
    else:
        raise typer.Exit(EXIT_UNREADABLE)


def _downloaded(name: str, out: str) -> Path:
    """Where `fastclip download NAME` puts a dataset. Raises `UserError` if nothing is there."""
    from fastclip.data.catalogue import find_card
    from fastclip.errors import UserError

    folder = DOWNLOADS / name
    if folder.is_dir():
        return folder
    get = f"fastclip download {name}, or " if find_card(name, out) else ""
    raise UserError(
        f"There is no {folder}, and no --source says where the images are.",
        fix=f"{get}fastclip shard {name} --source PATH",
    )


def write_and_print(
    name: str, source: Path, out: str, options: WriteOptions, *, protocol: str = "full", overwrite: bool = False
) -> bool:
    """Shard `source` into `out`/`name` under a progress bar, print what was found; whether every image can be used."""
    from rich.console import Console

    from fastclip.cli.progress import progress_bar
    from fastclip.data.catalogue import find_card
    from fastclip.data.shards.manifest import check_folder_is_free
    from fastclip.data.shards.writer import write_shards
    from fastclip.data.sources.layouts import list_source
    from fastclip.data.sources.protocols import apply_protocol
    from fastclip.errors import UserError
    from fastclip.storage.folders import LocalFolder, open_folder

    card = find_card(name, out)
    folder = open_folder(out).child(name)
    check_folder_is_free(folder, overwrite=overwrite)
    if isinstance(folder, LocalFolder):
        here, there = folder.path.resolve(), source.resolve()
        if here == there or here in there.parents or there in here.parents:
            raise UserError(
                f"{source} and {folder}, where the shards would go, lie in each other.", fix="Choose another --out DIR."
            )
    console = Console(stderr=True)
    with console.status(f"looking at {source}"):
        listing, protocol_name = apply_protocol(list_source(source, card), protocol, card)
    with progress_bar(console, f"sharding {name}", len(listing.images)) as advance:
        written = write_shards(
            listing,
            folder,
            dataset=name,
            card=card,
            protocol=protocol_name,
            options=options,
            on_progress=advance,
        )
    _print_summary(written, listing, card, str(folder))
    return not any(domain.unreadable for domain in written.manifest.domains)


def _print_summary(written: Written, listing: Listing, card: DatasetCard | None, folder: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table

    from fastclip.data.shards.fingerprint import duplicates
    from fastclip.data.shards.manifest import REJECTED
    from fastclip.errors import printable

    manifest = written.manifest
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(f"{manifest.title} in {folder}", style="bold", soft_wrap=True)
    console.print(f"Found as {printable(listing.layout)}; protocol {manifest.protocol}.", soft_wrap=True)
    if card is None:
        more = ", …" if len(manifest.classes) > 8 else ""
        console.print(f"{len(manifest.classes)} classes: {printable(', '.join(manifest.classes[:8]))}{more}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("domain")
    for column in ("shards", "images", "unreadable", "fingerprint"):
        table.add_column(column, justify="right" if column != "fingerprint" else "left")
    for domain in manifest.domains:
        numbers = [len(manifest.shards_of(domain.name)), domain.images, domain.unreadable]
        table.add_row(printable(domain.name), *(f"{number:,}" for number in numbers), domain.fingerprint[:16])
    console.print(table)
    for line in variant_lines(written, card):
        # Of a long line the classes stand below, further in.
        head, _, classes = line.partition("; ") if len(line) > console.width else (line, "", "")
        for text, indent in ((head.lstrip(), 2 if head.startswith(" ") else 0), (classes, 6)):
            if text:
                console.print(Padding(printable(text), (0, 0, 0, indent)))
    if repeated := duplicates(written.images):
        elsewhere = sum(other_class for _, _, other_class in repeated)
        first, earlier, _ = next((row for row in repeated if row[2]), repeated[0])
        console.print(
            f"{len(repeated):,} images have the bytes of another one, {elsewhere:,} of them in another class; "
            f"{printable(first)} is {printable(earlier)}.",
            soft_wrap=True,
        )
    if written.rejected:
        console.print(f"{len(written.rejected):,} files are in no shard; {folder}/{REJECTED} has all. The first:")
        unusable = sorted(written.rejected, key=lambda row: row.label is None)
        for row in unusable[:5]:
            console.print(f"  {printable(row.path)}: {printable(row.reason)}", soft_wrap=True)


def variant_lines(written: Written, card: DatasetCard | None) -> list[str]:
    """Which known set of images this is, or how it differs from the nearest one."""
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
