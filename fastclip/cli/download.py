"""`fastclip download`: fetch a known dataset's files from the addresses that its card names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from fastclip.data.catalogue import DatasetCard, Download
    from fastclip.data.download.fetch import RemoteFile
    from fastclip.errors import UserError

DOWNLOADS = Path("downloads")
"""Default folder of downloaded datasets, each in a folder of its name. `download` writes there, `shard` reads there."""


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A known dataset, such as pacs.")],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to put the files. Default: downloads/NAME.")
    ] = None,
    shards: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder that holds descriptions of your own datasets, NAME.toml.")
    ] = Path("shards"),
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="How long a server may stay silent.", envvar="FASTCLIP_TIMEOUT_S"),
    ] = 60.0,
    retries: Annotated[
        int, typer.Option(metavar="N", help="Retries in a row before giving up.", envvar="FASTCLIP_RETRIES")
    ] = 5,
) -> None:
    """Download a known dataset.

    Each file is checked and kept as it is: fastclip shard reads archives in place.

    If a download stops, run the same command again. It goes on where it was and fetches nothing twice.
    """
    from fastclip.cli.console import counted, err, out
    from fastclip.cli.progress import bytes_bar
    from fastclip.data.download.fetch import FetchOptions
    from fastclip.data.download.files import DOWNLOADED, bytes_here, download, list_remote_files

    options = FetchOptions(timeout_s=timeout, retries=retries)
    card = _known_card(name, shards)
    folder = to if to is not None else DOWNLOADS / name
    found = list_remote_files(card, options)
    _print_card(card, found, folder)
    files = [file for files in found.values() for file in files if not file.by_hand or (folder / file.name).exists()]
    if files:
        sizes = [file.bytes for file in files]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        with bytes_bar(err(), f"downloading {name}", total, bytes_here(files, folder)) as advance:
            new = download(files, folder, options, advance)
        out().print(
            f"{counted(len(new), 'file')} fetched, {len(files) - len(new):,} there already; "
            f"{folder / DOWNLOADED} has their SHA-256.",
            soft_wrap=True,
        )
    got = {file.name for file in files}
    for row in card.downloads:
        if row.by_hand and row.file not in got:
            raise _by_hand(card, row, folder)
    if not card.downloads:
        raise _no_source(card, folder)
    out().print(f"Next: {_next(name, folder)}", soft_wrap=True)


def _known_card(name: str, shards: Path) -> DatasetCard:
    from fastclip.data.catalogue import find_card, list_cards
    from fastclip.data.shards.manifest import check_dataset_name
    from fastclip.errors import UserError

    check_dataset_name(name)
    if card := find_card(name, shards):
        return card
    known = ", ".join(card.name for card in list_cards(shards))
    raise UserError(
        f"There is no known dataset {name!r}.",
        fix=f"Choose one of {known}, or describe your own in {shards / name}.toml.",
    )


def _print_card(card: DatasetCard, found: Mapping[Download, tuple[RemoteFile, ...]], folder: Path) -> None:
    from fastclip.cli.console import out
    from fastclip.errors import printable

    console = out()
    console.print(printable(f"{card.title} into {folder}"), style="bold")
    for row, files in found.items():
        _print_row(console, row, files)
    for what, text in (("Licence", card.licence), ("Please cite", card.citation), ("Homepage", card.homepage)):
        console.print(printable(f"{what}: {text or 'not known'}"))


def _print_row(console: Console, row: Download, files: tuple[RemoteFile, ...]) -> None:
    from rich.filesize import decimal

    from fastclip.cli.console import counted
    from fastclip.data.download.files import shown
    from fastclip.errors import printable

    sizes = [file.bytes for file in files] or [row.bytes]
    size = "size unknown" if None in sizes else decimal(sum(size or 0 for size in sizes))
    many = f", {counted(len(files), 'file')}" if row.url.startswith("hf://") else ""
    how = "  by hand: " if row.by_hand else "  "
    console.print(printable(f"{how}{shown(row.url)} ({size}{many})"), soft_wrap=True)
    if row.note:
        console.print(f"    {printable(row.note)}", soft_wrap=True)


def _no_source(card: DatasetCard, folder: Path) -> UserError:
    from fastclip.errors import UserError

    place = card.homepage or "its authors"
    return UserError(
        f"No stable source of {card.title} is known.",
        fix=f"Get it from {place}, put its archives or folders into {folder}, then: {_next(card.name, folder)}",
    )


def _by_hand(card: DatasetCard, row: Download, folder: Path) -> UserError:
    from fastclip.errors import UserError

    note = f": {row.note.rstrip('.')}" if row.note else ""
    what = row.file or "the files there"
    return UserError(
        f"{row.file or 'A part'} of {card.title} must be downloaded by hand{note}.",
        fix=f"Open {row.url}, put {what} unchanged into {folder}, then: {_next(card.name, folder)}",
    )


def _next(name: str, folder: Path) -> str:
    return f"fastclip shard {name}" + (f" --source {folder}" if folder != DOWNLOADS / name else "")
