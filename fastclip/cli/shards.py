"""`fastclip shards`: check shards against their manifest, and index shards that others wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.errors import EXIT_INTEGRITY, EXIT_UNREADABLE

if TYPE_CHECKING:
    from fastclip.storage.folders import Folder

app = typer.Typer(no_args_is_help=True, help="Check shards, or index those that others wrote.")


@app.command("check")
def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Default: all that is sharded.")] = None,
    shards: Annotated[str, typer.Option(metavar="DIR", help="Folder of all sharded datasets.")] = "shards",
) -> None:
    """Read every byte of sharded datasets again, and name each difference from what was written."""
    from fastclip.data.shards.manifest import check_dataset_name, list_datasets
    from fastclip.errors import UserError, printable
    from fastclip.storage.folders import open_folder

    folder = open_folder(shards)
    wanted = list(dict.fromkeys(names or list_datasets(folder)))
    if not wanted:
        raise UserError(f"{folder} holds no sharded dataset.", fix="fastclip shard NAME --source DIR, or --shards DIR")
    found = 0
    for name in wanted:
        check_dataset_name(name)
        lines = _check(folder.child(name))
        found += len(lines)
        for line in lines:
            typer.echo(printable(line))
    if found:
        typer.echo(f"{found:,} differences. Copy the files again from where they were made, or write them again.")
        raise typer.Exit(EXIT_INTEGRITY)


def _check(folder: Folder) -> list[str]:
    """A dataset's differences; without any, say so."""
    from rich.console import Console

    from fastclip.cli.progress import progress_bar
    from fastclip.data.shards.check import check_dataset
    from fastclip.data.shards.manifest import read_manifest
    from fastclip.errors import IntegrityError
    from fastclip.machine import available_cores

    try:
        manifest = read_manifest(folder)
    except IntegrityError as error:
        return [str(error)]
    images = sum(shard.images for shard in manifest.shards)
    with progress_bar(Console(stderr=True), f"checking {folder.name}", images) as advance:
        lines = check_dataset(folder, manifest, workers=available_cores(), on_images=advance)
    if not lines:
        size = sum(shard.bytes for shard in manifest.shards) / 1e6
        typer.echo(f"{folder.name}: {len(manifest.shards):,} shards, {images:,} images, {size:,.1f} MB, as written.")
    return lines


@app.command("index")
def index(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Folder of the dataset in --shards.")],
    shards: Annotated[Path, typer.Option(metavar="DIR", help="Folder of all sharded datasets.")] = Path("shards"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write indexes and manifest again.")] = False,
) -> None:
    """Make WebDataset shards of other programs evaluable where they lie; the tars stay as they are.

    Expected: NAME/classnames.txt and NAME/SPLIT/0.tar …, as CLIP_benchmark exports.
    """
    from rich.console import Console

    from fastclip.cli.progress import progress_bar
    from fastclip.data.catalogue import find_card
    from fastclip.data.shards.index import plan_index, write_index
    from fastclip.data.shards.manifest import REJECTED, check_dataset_name
    from fastclip.errors import printable
    from fastclip.machine import available_cores

    check_dataset_name(name)
    card = find_card(name, shards)
    console = Console(stderr=True)
    with console.status(f"looking at {shards / name}"):
        plan = plan_index(shards / name, card, overwrite=overwrite)
    with progress_bar(console, f"indexing {name}", plan.images) as advance:
        manifest, rejected = write_index(plan, card, workers=available_cores(), on_image=lambda: advance(1))
    unreadable = sum(domain.unreadable for domain in manifest.domains)
    images = sum(domain.images for domain in manifest.domains)
    typer.echo(
        f"{name}: {len(manifest.shards):,} shards, {images:,} images in {len(manifest.domains)} domains, "
        f"{unreadable:,} unreadable."
    )
    for row in rejected[:5]:
        typer.echo(f"  {printable(row.path)}: {printable(row.reason)}")
    if len(rejected) > 5:
        typer.echo(f"  … {len(rejected):,} in all: {shards / name / REJECTED}")
    typer.echo(f"Next: fastclip eval {name} -b ViT-B/32")
    if unreadable:
        raise typer.Exit(EXIT_UNREADABLE)
