"""`fastclip datasets`: what is known, and what is sharded where."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=False, help="List the datasets that are known or sharded.")

Shards = Annotated[str, typer.Option("--shards", metavar="DIR", help="Folder of all sharded datasets.")]


@app.callback(invoke_without_command=True)
def list_all(context: typer.Context, shards: Shards = "shards") -> None:
    """List the datasets that are known or sharded; `show NAME` says what one of them expects."""
    if context.invoked_subcommand:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from fastclip.data.catalogue import list_cards
    from fastclip.data.shards.manifest import list_datasets, read_manifest
    from fastclip.errors import FastclipError, printable
    from fastclip.storage.folders import open_folder

    folder = open_folder(shards)
    sharded = list_datasets(folder)
    cards = {card.name: card for card in list_cards(shards)}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("name", "title", "domains", "classes", "images", "sharded"):
        table.add_column(column, justify="right" if column in ("domains", "classes", "images") else "left")
    for name in sorted(cards.keys() | set(sharded)):
        card = cards.get(name)
        facts = [card.title, str(len(card.domains)), str(len(card.classes)), ""] if card else ["", "", "", ""]
        if card and card.variants:
            facts[3] = f"{sum(card.variants[0].images.values()):,}"
        state = ""
        if name in sharded:
            try:
                manifest = read_manifest(folder.child(name))
                images = sum(domain.images for domain in manifest.domains)
                state = f"{images:,}" + (f", {manifest.variant}" if manifest.variant else "")
                facts = [
                    card.title if card else manifest.title,
                    str(len(manifest.domains)),
                    str(len(manifest.classes)),
                    facts[3],
                ]
            except FastclipError:
                state = f"cannot be used (fastclip shards check {name})"
        table.add_row(name, printable(facts[0]), *facts[1:], printable(state))
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(table)
    console.print(f"Sharded ones lie in {folder}, where NAME.toml may be a card of your own.", soft_wrap=True)
    console.print("More about one: fastclip datasets show NAME")


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME")], shards: Shards = "shards") -> None:
    """Say what a dataset expects, where it comes from, and what of it is sharded."""
    from rich.console import Console
    from rich.padding import Padding

    from fastclip.data.catalogue import find_card
    from fastclip.data.shards.manifest import list_datasets, read_manifest
    from fastclip.errors import UserError, printable
    from fastclip.storage.folders import open_folder

    folder = open_folder(shards)
    card = find_card(name, shards)
    sharded = name in list_datasets(folder)
    if card is None and not sharded:
        raise UserError(
            f"There is no dataset {name!r}, neither a card nor shards in {folder}.", fix="fastclip datasets"
        )
    console = Console(highlight=False, markup=False, emoji=False)

    def indented(text: str) -> None:
        console.print(Padding(printable(text), (0, 0, 0, 2)))

    if card:
        console.print(card.title, style="bold")
        for label, text in (("Homepage", card.homepage), ("Licence", card.licence), ("Citation", card.citation)):
            if text:
                console.print(f"{label}: {text}")
        console.print(
            f"{len(card.classes)} classes: {', '.join(card.names[:8])}" + (", …" if len(card.classes) > 8 else "")
        )
        console.print("Domains, and the names their folders go by (case, blanks, _ and - do not matter):")
        for domain in card.domains:
            indented(", ".join(dict.fromkeys((domain.name, *domain.folders))))
        for variant in card.variants:
            counts = ", ".join(f"{domain} {images:,}" for domain, images in variant.images.items())
            console.print(f"Variant {variant.name}: {sum(variant.images.values()):,} images")
            indented(counts)
        console.print(
            "Layouts: DOMAIN/CLASS/IMAGE below any folders; images/, train/, val/, crossval/, test/ and full/ may "
            "stand between; as folders, zip, tar, tar.gz, Parquet files or WebDataset shards."
            + (f" Lists that are obeyed: {', '.join(card.split_lists)}." if card.split_lists else "")
        )
    if sharded:
        manifest = read_manifest(folder.child(name))
        which = manifest.variant or "no known variant"
        console.print(f"Sharded in {folder.child(name)}: {which}, protocol {manifest.protocol}.")
        for each in manifest.domains:
            indented(
                f"{each.name}: {each.images:,} images, {each.unreadable:,} unreadable, "
                f"{len(manifest.shards_of(each.name)):,} shards, fingerprint {each.fingerprint[:16]}"
            )
    else:
        console.print(f"Not sharded in {folder}: fastclip shard {name} --source PATH")
