"""`fastclip shard`: turn any copy of a labelled image set into tar shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.download import DOWNLOADS

if TYPE_CHECKING:
    from fastclip.data.shards.writer import WriteOptions

HUB = "hf://"


def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Name for the dataset. A known one, such as pacs, is compared with what is published."
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Folder or archive (zip, tar, tgz) of images, Parquet files or WebDataset shards; or "
            "hf://datasets/ORG/NAME/CONFIGURATION. Default: downloads/NAME.",
        ),
    ] = None,
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Folder of all sharded datasets; may be s3:// or gs://.")
    ] = "shards",
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Which images to take: full (all), domainbed[:SEED] (DomainBed's 80 % in-split), or a file that "
            "lists them.",
        ),
    ] = "full",
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="ROLES",
            help="What folders mean, where they can be read in two ways: domain/class, class, split/class, path …",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The one split to take. Default: each is a domain of its own."),
    ] = None,
    shard_images: Annotated[int, typer.Option(metavar="N", min=1, help="Most images in one shard.")] = 1000,
    shard_mb: Annotated[
        int, typer.Option("--shard-mb", metavar="N", min=1, help="Most megabytes in one shard.")
    ] = 1000,
    no_verify: Annotated[
        bool,
        typer.Option("--no-verify", help="Do not decode the images. Then eval finds those that cannot be decoded."),
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Processes that read and write. Default: one for each core."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the shards of this dataset.")] = False,
) -> None:
    """Pack labelled images into tar shards that WebDataset tools read.

    Images keep their bytes, and archives are read in place. Files that cannot be used are listed with the reason.

    If the command is interrupted, run it again. It goes on where it was.
    """
    from fastclip.cli import console
    from fastclip.data.shards.manifest import check_dataset_name
    from fastclip.data.shards.writer import WriteOptions

    check_dataset_name(name)
    folder = _downloaded(name, out) if source is None else _fetched(source, split)
    split = None if source and source.startswith(HUB) else split
    options = WriteOptions(
        shard_images=shard_images, shard_bytes=shard_mb * 10**6, verify=not no_verify, processes=processes
    )
    write_and_print(name, folder, out, options, protocol=protocol, overwrite=overwrite, layout=layout, split=split)
    elsewhere = f" --shards {out}" if out != "shards" else ""
    console.out().print(f"Next: fastclip eval {name} -b ViT-B/32{elsewhere}", soft_wrap=True)


def _downloaded(name: str, out: str) -> Path:
    """The folder into which `fastclip download NAME` puts a dataset. Raises `UserError` if there is none."""
    from fastclip.data.catalogue import find_card
    from fastclip.errors import UserError

    folder = DOWNLOADS / name
    if folder.is_dir():
        return folder
    get = f"fastclip download {name}, or " if find_card(name, out) else ""
    raise UserError(
        f"There is no {folder}, and no --source was given.",
        fix=f"{get}fastclip shard {name} --source PATH",
    )


def _fetched(source: str, split: str | None) -> Path:
    """The path `source`, or the folder into which a dataset of Hugging Face is fetched, or its `split` alone."""
    if not source.startswith(HUB):
        return Path(source)
    from fastclip.cli.console import err
    from fastclip.cli.progress import bytes_bar
    from fastclip.data.sources.hub import fetch_hub_source

    with bytes_bar(err(), f"looking at {source}", None, 0) as advance:
        folder = fetch_hub_source(source, split, DOWNLOADS, watch=advance)
    err().print(f"{source} is in {folder}", soft_wrap=True)
    return folder


def write_and_print(
    name: str,
    source: Path,
    out: str,
    options: WriteOptions,
    *,
    protocol: str = "full",
    overwrite: bool = False,
    layout: str | None = None,
    split: str | None = None,
) -> None:
    """Shard `source` into `out`/`name` under a progress bar and print a summary."""
    from fastclip.cli.console import err
    from fastclip.cli.progress import progress_bar, waiting
    from fastclip.cli.shard_summary import print_summary
    from fastclip.data.catalogue import find_card
    from fastclip.data.shards.manifest import check_folder_is_free
    from fastclip.data.shards.writer import write_shards
    from fastclip.data.sources.layouts import list_source
    from fastclip.data.sources.protocols import apply_protocol
    from fastclip.errors import UserError
    from fastclip.storage.alone import alone_in
    from fastclip.storage.folders import LocalFolder, open_folder

    card = find_card(name, out)
    folder = open_folder(out).child(name)
    if isinstance(folder, LocalFolder):
        here, there = folder.path.resolve(), source.resolve()
        if here == there or here in there.parents or there in here.parents:
            raise UserError(
                f"The images ({source}) and the shards ({folder}) must not lie inside one another.",
                fix="Choose another --out DIR.",
            )
    with alone_in(folder):  # a second writer is told now, not when it has looked through the source
        check_folder_is_free(folder, overwrite=overwrite)
    console = err()
    with waiting(console, f"looking at {source}"):
        listing = list_source(source, card, layout=layout, split=split)
        listing, protocol_name = apply_protocol(listing, protocol, card)
    with progress_bar(console, f"sharding {name}", len(listing.images)) as advance:
        written = write_shards(
            listing,
            folder,
            dataset=name,
            card=card,
            protocol=protocol_name,
            options=options,
            overwrite=overwrite,
            on_progress=advance,
        )
    print_summary(written, listing, card, str(folder))
