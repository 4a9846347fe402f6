"""`fastclip download`: a known dataset's files, from where its card says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from fastclip.data.catalogue import DatasetCard, Download
    from fastclip.data.download.fetch import RemoteFile
    from fastclip.errors import UserError

DOWNLOADS = Path("downloads")
"""Where datasets are put, each in a folder of its name, and looked for, unless a command says otherwise."""


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A known dataset, such as pacs.")],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to put the files.", show_default="downloads/NAME")
    ] = None,
    shards: Annotated[Path, typer.Option(metavar="DIR", help="Folder where cards of your own are.")] = Path("shards"),
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long a server may be silent.", envvar="FASTCLIP_TIMEOUT_S")
    ] = 60.0,
    retries: Annotated[
        int, typer.Option(metavar="N", help="Failures in a row to bear.", envvar="FASTCLIP_RETRIES")
    ] = 5,
) -> None:
    """Fetch a known dataset's files, checked, as they are: fastclip shard reads archives in place.

    Run it again after whatever stopped it: it goes on where it was, and fetches nothing twice.
    """
    from rich.console import Console

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
        with _progress_bar(Console(stderr=True), f"downloading {name}", total, bytes_here(files, folder)) as advance:
            new = download(files, folder, options, advance)
        typer.echo(
            f"{_count(len(new), 'file')} fetched, {len(files) - len(new):,} there already; "
            f"{folder / DOWNLOADED} has their SHA-256."
        )
    got = {file.name for file in files}
    for row in card.downloads:
        if row.by_hand and row.file not in got:
            raise _by_hand(card, row, folder)
    if not card.downloads:
        raise _no_source(card, folder)
    typer.echo(f"Next: {_next(name, folder)}")


def _known_card(name: str, shards: Path) -> DatasetCard:
    from fastclip.data.catalogue import find_card, list_cards
    from fastclip.data.shards.manifest import check_dataset_name
    from fastclip.errors import UserError

    check_dataset_name(name)
    if card := find_card(name, shards):
        return card
    known = ", ".join(card.name for card in list_cards(shards))
    raise UserError(f"No dataset is known as {name!r}.", fix=f"One of {known}; or write {shards / name}.toml, a card.")


def _print_card(card: DatasetCard, found: Mapping[Download, tuple[RemoteFile, ...]], folder: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(f"{card.title} into {folder}", style="bold", soft_wrap=True)
    for row, files in found.items():
        _print_row(console, row, files)
    for what, text in (("Licence", card.licence), ("Please cite", card.citation), ("Homepage", card.homepage)):
        console.print(f"{what}: {text or 'not known'}", soft_wrap=True)


def _print_row(console: Console, row: Download, files: tuple[RemoteFile, ...]) -> None:
    from rich.filesize import decimal

    from fastclip.data.download.files import shown
    from fastclip.errors import printable

    sizes = [file.bytes for file in files] or [row.bytes]
    size = "size unknown" if None in sizes else decimal(sum(size or 0 for size in sizes))
    many = f", {_count(len(files), 'file')}" if row.url.startswith("hf://") else ""
    how = "  by hand: " if row.by_hand else "  "
    console.print(f"{how}{shown(row.url)} ({size}{many})", soft_wrap=True)
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
    what = row.file or "what is there"
    return UserError(
        f"{row.file or 'A part'} of {card.title} must be fetched by hand{note}.",
        fix=f"Open {row.url}, put {what}, as it is, into {folder}, then: {_next(card.name, folder)}",
    )


def _next(name: str, folder: Path) -> str:
    return f"fastclip shard {name}" + (f" --source {folder}" if folder != DOWNLOADS / name else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@contextmanager
def _progress_bar(console: Console, title: str, total: int | None, here: int) -> Iterator[Callable[[str, int], None]]:
    """A bar of `total` bytes, of which `here` are here, with their rate and the time left.

    What is yielded says what happens now, and moves the bar by some bytes, back too.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from fastclip.errors import printable

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total, completed=here)

        def advance(now: str, count: int) -> None:
            progress.update(task, description=printable(now), advance=count)

        yield advance
