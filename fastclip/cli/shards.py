"""`fastclip shards`: check shards against their manifest, or index shards that another program wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.help import Command, Group
from fastclip.errors import EXIT_INCOMPLETE, EXIT_INTEGRITY

if TYPE_CHECKING:
    from fastclip.data.shards.check import Checked
    from fastclip.storage.folders import Folder

app = typer.Typer(cls=Group, no_args_is_help=True, help="Check shards, or index shards that another program wrote.")


@app.command("check", cls=Command)
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Datasets. Default: all sharded ones.")
    ] = None,
    shards: Annotated[str, typer.Option(metavar="DIR", help="Folder of all sharded datasets.")] = "shards",
) -> None:
    """Read every byte of the shards again and name each difference from what was written.

    If there is a difference, the exit code is 5; else 4 if a file cannot be read.
    """
    from fastclip.cli.console import counted, out
    from fastclip.data.shards.manifest import check_dataset_name, list_datasets, unfinished_datasets
    from fastclip.errors import UserError, printable
    from fastclip.storage.folders import open_folder

    folder = open_folder(shards)
    wanted = list(dict.fromkeys(names or [*list_datasets(folder), *unfinished_datasets(folder)]))
    if not wanted:
        raise UserError(f"{folder} holds no sharded dataset.", fix="fastclip shard NAME --source DIR, or --shards DIR")
    found = unread = 0
    for name in wanted:
        check_dataset_name(name)
        checked = _check(folder.child(name))
        found, unread = found + len(checked.differences), unread + len(checked.unread)
        for line in (*checked.differences, *checked.unread):
            out().print(printable(line), soft_wrap=True)
    if found:
        cure = "Copy these files again from where they were written, or shard the dataset again."
        out().print(f"{counted(found, 'difference')}. {cure}", soft_wrap=True)
    if unread:
        cure = "See that the disk or the server gives them, then check again: nothing is known about them."
        out().print(f"{counted(unread, 'file')} not read. {cure}", soft_wrap=True)
    if found or unread:
        raise typer.Exit(EXIT_INTEGRITY if found else EXIT_INCOMPLETE)


def _check(folder: Folder) -> Checked:
    """The faults of one dataset. If there are none, this is printed, with its size."""
    from fastclip.cli.console import counted, err, out
    from fastclip.cli.progress import progress_bar
    from fastclip.data.shards.check import Checked, check_dataset
    from fastclip.data.shards.manifest import read_manifest
    from fastclip.errors import IncompleteError, IntegrityError, printable
    from fastclip.faults import named
    from fastclip.machine import available_cores

    try:
        with named(f"{folder}/manifest.json"):
            manifest = read_manifest(folder)
    except IntegrityError as error:
        return Checked([str(error)], [])
    except IncompleteError as error:
        return Checked([], [str(error)])
    images = sum(shard.images for shard in manifest.shards)
    with progress_bar(err(), f"checking {folder.name}", images) as advance:
        checked = check_dataset(folder, manifest, workers=available_cores(), on_images=advance)
    if not checked.differences and not checked.unread:
        size = sum(shard.bytes for shard in manifest.shards) / 1e6
        counts = f"{counted(len(manifest.shards), 'shard')}, {counted(images, 'image')}, {size:,.1f} MB"
        out().print(printable(f"{folder.name}: {counts}, as written."), soft_wrap=True)
    return checked


@app.command("index", cls=Command)
def index(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Folder of the dataset, in the folder of --shards.")],
    shards: Annotated[Path, typer.Option(metavar="DIR", help="Folder of all sharded datasets.")] = Path("shards"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace indexes and manifest.")] = False,
) -> None:
    """Index WebDataset shards that another program wrote, so that eval can read them.

    The tars are not changed. Expected files: NAME/classnames.txt and NAME/SPLIT/0.tar …, as CLIP_benchmark exports.
    """
    from fastclip.cli.console import err, out
    from fastclip.cli.progress import progress_bar, waiting
    from fastclip.data.catalogue import find_card
    from fastclip.data.shards.index import plan_index, write_index
    from fastclip.data.shards.manifest import REJECTED, check_dataset_name
    from fastclip.errors import printable
    from fastclip.machine import available_cores

    check_dataset_name(name)
    card = find_card(name, shards)
    with waiting(err(), f"looking at {shards / name}"):
        plan = plan_index(shards / name, card, overwrite=overwrite)
    with progress_bar(err(), f"indexing {name}", plan.images) as advance:
        manifest, rejected = write_index(plan, card, workers=available_cores(), on_image=lambda: advance(1))
    unreadable = sum(domain.unreadable for domain in manifest.domains)
    images = sum(domain.images for domain in manifest.domains)
    console = out()
    console.print(
        f"{name}: {len(manifest.shards):,} shards, {images:,} images in {len(manifest.domains)} domains, "
        f"{unreadable:,} unreadable.",
    )
    for row in rejected[:5]:
        console.print(f"  {printable(row.path)}: {printable(row.reason)}", soft_wrap=True)
    if len(rejected) > 5:
        console.print(printable(f"  … {len(rejected):,} in all: {shards / name / REJECTED}"), soft_wrap=True)
    console.print(f"Next: fastclip eval {name} -b ViT-B/32", soft_wrap=True)
