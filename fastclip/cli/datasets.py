"""`fastclip datasets`: the known datasets, the sharded ones, and the facts about one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.help import Command, Group

if TYPE_CHECKING:
    from fastclip.data.catalogue import DatasetCard
    from fastclip.data.shards.manifest import Manifest

app = typer.Typer(cls=Group, no_args_is_help=False, help="List the known and the sharded datasets, or describe one.")

Shards = Annotated[str, typer.Option("--shards", metavar="DIR", help="Folder of all sharded datasets.")]

SHOWN_CLASSES = 8
"""Classes that are named; of the others only the number is given."""


@app.callback(invoke_without_command=True)
def list_all(context: typer.Context, shards: Shards = "shards") -> None:
    """List the known and the sharded datasets. `fastclip datasets show NAME` describes one."""
    if context.invoked_subcommand:
        return
    from fastclip.cli.console import out
    from fastclip.data.catalogue import list_cards
    from fastclip.data.shards.manifest import list_datasets, read_manifest
    from fastclip.errors import FastclipError, printable
    from fastclip.report.style import plain_table, titled
    from fastclip.storage.folders import open_folder

    folder = open_folder(shards)
    cards = {card.name: card for card in list_cards(shards)}
    manifests: dict[str, Manifest | None] = {}
    for name in list_datasets(folder):
        try:
            manifests[name] = read_manifest(folder.child(name))
        except FastclipError:
            manifests[name] = None
    table = plain_table("name", "title", "domains", "classes", "images", "sharded", left=2)
    for name in sorted(cards.keys() | manifests.keys()):
        table.add_row(name, *_facts(cards.get(name), manifests.get(name)), _sharded(name, manifests))
    console = out()
    console.print(titled("known and sharded datasets", table))
    for name in (name for name, manifest in manifests.items() if manifest is None):
        console.print(f"{printable(name)} cannot be used. To see why: fastclip shards check {printable(name)}")
    console.print(
        printable(f"Sharded datasets are in {folder}. A file NAME.toml there describes a dataset of your own."),
        style="dim",
    )
    console.print("More about one dataset: fastclip datasets show NAME")


def _facts(card: DatasetCard | None, manifest: Manifest | None) -> list[str]:
    """Title, domains and classes, of the shards if there are any; and the images of the card's first variant."""
    known = f"{sum(card.variants[0].images.values()):,}" if card and card.variants else ""
    title = card.title if card else manifest.title if manifest else ""
    if (source := manifest or card) is None:
        return [title, "", "", known]
    return [title, f"{len(source.domains):,}", f"{len(source.classes):,}", known]


def _sharded(name: str, manifests: dict[str, Manifest | None]) -> str:
    """How many images are sharded, and which variant of the dataset they are."""
    if name not in manifests:
        return ""
    if (manifest := manifests[name]) is None:
        return "unusable"
    images = f"{sum(domain.images for domain in manifest.domains):,}"
    return f"{images}, {manifest.variant}" if manifest.variant else images


@app.command(cls=Command)
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A known or sharded dataset, such as pacs.")],
    shards: Shards = "shards",
) -> None:
    """Describe one dataset: its classes and domains, where it comes from, and its shards."""
    from fastclip.cli.console import out
    from fastclip.data.catalogue import find_card
    from fastclip.data.shards.manifest import list_datasets, read_manifest
    from fastclip.errors import UserError, printable
    from fastclip.storage.folders import open_folder

    folder = open_folder(shards)
    card = find_card(name, shards)
    sharded = name in list_datasets(folder)
    if card is None and not sharded:
        raise UserError(f"The dataset {name!r} is neither known nor sharded in {folder}.", fix="fastclip datasets")
    if card:
        _print_card(card)
    if sharded:
        _print_shards(read_manifest(folder.child(name)), str(folder.child(name)))
    else:
        out().print(printable(f"Not sharded in {folder}: fastclip shard {name} --source PATH"), soft_wrap=True)


def _print_card(card: DatasetCard) -> None:
    from fastclip.cli.console import indented, out
    from fastclip.errors import printable

    console = out()
    console.print(printable(card.title), style="bold")
    for label, text in (("Homepage", card.homepage), ("Licence", card.licence), ("Citation", card.citation)):
        if text:
            console.print(printable(f"{label}: {text}"))
    console.print(classes_line(card.names))
    console.print("Domains and other names of their folders (capitals, blanks, _ and - do not matter):")
    for domain in card.domains:
        names = dict.fromkeys((domain.name, *domain.folders))
        console.print(indented(printable(", ".join(names)), 2, console.width))
    for variant in card.variants:
        counts = ", ".join(f"{domain} {images:,}" for domain, images in variant.images.items())
        console.print(printable(f"Variant {variant.name}: {sum(variant.images.values()):,} images"))
        console.print(indented(printable(counts), 2, console.width))
    console.print(
        "Expected layout: DOMAIN/CLASS/IMAGE, below any folders. Folders called images, train, val, crossval, test or "
        "full may stand in between. The images may lie in folders, zip, tar or tar.gz archives, Parquet files or "
        "WebDataset shards."
    )
    if card.split_lists:
        console.print(printable(f"Lists of images, used where they are found: {', '.join(card.split_lists)}."))


def classes_line(classes: tuple[str, ...]) -> str:
    """How many classes there are, and the names of the first ones."""
    from fastclip.errors import printable

    more = ", …" if len(classes) > SHOWN_CLASSES else ""
    count = "1 class" if len(classes) == 1 else f"{len(classes):,} classes"
    return f"{count}: {printable(', '.join(classes[:SHOWN_CLASSES]))}{more}"


def _print_shards(manifest: Manifest, folder: str) -> None:
    from fastclip.cli.console import counted, indented, out
    from fastclip.errors import printable

    console = out()
    which = f"variant {manifest.variant}" if manifest.variant else "no known variant"
    console.print(printable(f"Sharded in {folder}: {which}, protocol {manifest.protocol}."))
    for domain in manifest.domains:
        line = (
            f"{domain.name}: {counted(domain.images, 'image')}, {domain.unreadable:,} unreadable, "
            f"{counted(len(manifest.shards_of(domain.name)), 'shard')}, fingerprint {domain.fingerprint[:16]}"
        )
        console.print(indented(printable(line), 2, console.width))
