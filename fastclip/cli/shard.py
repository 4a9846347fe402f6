"""`fastclip shard`: a folder of labelled images becomes tar shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.errors import EXIT_UNREADABLE

if TYPE_CHECKING:
    from fastclip.data.catalogue import DatasetCard
    from fastclip.data.manifest import Manifest, Rejected


def command(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="What to call the dataset. A known name, such as pacs, takes its card."),
    ],
    source: Annotated[Path, typer.Option(metavar="DIR", help="Folder with DOMAIN/CLASS/IMAGE or CLASS/IMAGE.")],
    shards: Annotated[Path, typer.Option(metavar="DIR", help="Folder of all sharded datasets.")] = Path("shards"),
    shard_images: Annotated[int, typer.Option(metavar="N", min=1, help="Images a shard.")] = 1000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the dataset's shards.")] = False,
) -> None:
    """Turn a folder of labelled images into tar shards that any WebDataset tool reads.

    Bytes stay as they are. Every image is decoded once; what cannot be used is listed with its reason.
    """
    from fastclip.data.manifest import check_dataset_name

    check_dataset_name(name)
    if write_and_print(name, source, shards / name, shard_images=shard_images, overwrite=overwrite):
        typer.echo(f"Next: fastclip eval {name} -b ViT-B/32")
    else:
        raise typer.Exit(EXIT_UNREADABLE)


def write_and_print(name: str, source: Path, folder: Path, *, shard_images: int, overwrite: bool = False) -> bool:
    """Shard `source` into `folder` under a progress bar, print what was found; whether every image could be used."""
    from rich.console import Console

    from fastclip.cli.progress import progress_bar
    from fastclip.data.catalogue import find_card
    from fastclip.data.folders import list_folder
    from fastclip.data.manifest import remove_dataset
    from fastclip.data.writer import write_shards
    from fastclip.embed.processes import available_cores

    card = find_card(name)
    listing = list_folder(source, card)
    remove_dataset(folder, overwrite=overwrite)
    with progress_bar(Console(stderr=True), f"sharding {name}", len(listing.images)) as advance:
        manifest, rejected = write_shards(
            source,
            listing,
            folder,
            dataset=name,
            card=card,
            shard_images=shard_images,
            workers=available_cores(),
            on_image=lambda: advance(1),
        )
    _print_summary(manifest, rejected, card, folder)
    return not any(domain.unreadable for domain in manifest.domains)


def _print_summary(manifest: Manifest, rejected: list[Rejected], card: DatasetCard | None, folder: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from fastclip.data.manifest import REJECTED
    from fastclip.errors import printable

    console = Console(highlight=False, markup=False, emoji=False)
    expected = {domain.name: domain.images for domain in card.domains} if card else {}
    console.print(f"{manifest.title} in {folder}", style="bold", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("domain")
    for column in ("shards", "images", "unreadable", *(["published"] if card else [])):
        table.add_column(column, justify="right")
    for domain in manifest.domains:
        numbers = [len(manifest.shards_of(domain.name)), domain.images, domain.unreadable, expected.get(domain.name)]
        table.add_row(printable(domain.name), *(f"{number:,}" for number in numbers if number is not None))
    console.print(table)
    for absent in [name for name in expected if name not in [domain.name for domain in manifest.domains]]:
        console.print(f"Not in this copy: {absent}.")
    if rejected:
        console.print(f"{len(rejected):,} files are in no shard; {folder / REJECTED} has all. The first:")
        for row in rejected[:5]:
            console.print(f"  {printable(row.path)}: {printable(row.reason)}", soft_wrap=True)
