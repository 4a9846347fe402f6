"""`fastclip store`: the recipes of a store, listed, removed and copied."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.console import say
from fastclip.cli.help import Command, Group
from fastclip.errors import EXIT_INCOMPLETE, EXIT_INTEGRITY, FastclipError, UserError, printable

if TYPE_CHECKING:
    from fastclip.data.shards.targets import Target
    from fastclip.features.holdings import Holding
    from fastclip.store.recipes import Recipe
    from fastclip.store.store import Store

app = typer.Typer(cls=Group, no_args_is_help=False, help="List, remove and copy embeddings.")

Folder = Annotated[Path, typer.Option("--store", metavar="DIR", help="Folder of embeddings.")]
Shards = Annotated[str, typer.Option("--shards", metavar="DIR", help="Folder of all sharded datasets.")]

DEFAULT = Path("embeddings")


@app.callback(invoke_without_command=True)
def list_all(context: typer.Context, store: Folder = DEFAULT, shards: Shards = "shards") -> None:
    """List the recipes of a store and how much of each dataset is embedded under them.

    A recipe is everything that can move a bit of an embedding. fastclip eval reads the first complete one.
    """
    if context.invoked_subcommand:
        return
    from fastclip.cli.console import out
    from fastclip.features.holdings import list_holdings
    from fastclip.report.style import plain_table, titled
    from fastclip.store.store import Store

    opened = Store(store)
    opened.check_layout()
    targets, unusable = known_targets(shards)
    holdings = list_holdings(opened, targets)
    console = out()
    table = plain_table("recipe", "backbone", "dataset", "shards", "images", "MB", left=3)
    for each in holdings:
        for row in _rows(each):
            table.add_row(*map(printable, row))
    if holdings:
        console.print(titled(f"recipes in {store}", table))
    for each in holdings:
        console.print(printable(_facts(each)), style="dim")
    listed = {each.recipe.id for each in holdings}
    bare = [name for name in opened.recipe_folders() if name not in listed and opened.parts(name)]
    for line in [*unusable, *(_bare(opened, name) for name in bare)]:
        console.print(printable(line))
    if not holdings and not bare:
        console.print(f"{store} holds no embeddings. fastclip eval makes them.")


@app.command("remove", cls=Command)
def remove(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="The beginning of its name.")],
    store: Folder = DEFAULT,
) -> None:
    """Remove a recipe with all of its embeddings."""
    from fastclip.store.store import Store

    opened = Store(store)
    name = _find(opened, recipe)
    removed = opened.remove(name)
    say(f"{name[:12]}: {removed:,} parts removed.")
    if left := len(opened.parts(name)):
        say(f"{left:,} parts were embedded meanwhile and stay. Remove it again when nobody embeds.")


@app.command("copy", cls=Command)
def copy(
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The store to copy to.")],
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="RECIPE", help="Beginnings of names. Default: all.")
    ] = None,
    store: Folder = DEFAULT,
) -> None:
    """Copy recipes with their embeddings, prototypes and text vectors to another store.

    Every file is proved on the way.

    Files that are there already are compared, not copied. Exit code 5 if a file is damaged; the others are copied.
    """
    from fastclip.cli.console import err
    from fastclip.cli.progress import progress_bar
    from fastclip.store.copying import copy_recipe
    from fastclip.store.store import Store
    from fastclip.text.prototypes import copy_prototypes
    from fastclip.text.vectors import copy_vectors

    source, target = Store(store), Store(to)
    source.check_layout()
    target.check_layout()
    wanted = _wanted(source, recipes)
    if not wanted:
        raise UserError(f"{store} holds no embeddings.", fix="--store DIR")
    damaged: list[str] = []
    unread: list[str] = []
    with progress_bar(err(), "copying", sum(len(source.parts(each.id)) for each in wanted)) as advance:
        for each in wanted:
            copied, broken, lost = copy_recipe(source, target, each, lambda: advance(1))
            damaged, unread = damaged + broken, unread + lost
            prototypes = copy_prototypes(store / "prototypes", to / "prototypes", each.weights)
            texts = copy_vectors(store / "texts", to / "texts", each.weights)
            there = len(source.parts(each.id)) - copied - len(broken + lost)
            say(
                f"{each.id[:12]} ({each.backbone}): {copied:,} parts copied, {there:,} there already, "
                f"{prototypes:,} prototype files{f', {texts:,} files of text vectors' if texts else ''}."
            )
    for line in (*damaged, *unread):
        say(f"Not copied: {printable(line)}", error=True)
    if damaged or unread:
        raise typer.Exit(EXIT_INTEGRITY if damaged else EXIT_INCOMPLETE)


def _wanted(store: Store, beginnings: list[str] | None) -> list[Recipe]:
    known = {recipe.id: recipe for recipe in store.recipes()}
    names = dict.fromkeys(_find(store, beginning) for beginning in beginnings) if beginnings else known
    if bare := [name for name in names if name not in known]:
        raise UserError(
            f"{store.folder / bare[0]} has no recipe.json: a removal was stopped, or the file was lost.",
            fix=f"fastclip store remove {bare[0][:12]} --store {store.folder}, or fastclip eval --here at its machine",
        )
    return [known[name] for name in names]


def _find(store: Store, beginning: str) -> str:
    """The one recipe folder whose name begins so."""
    found = [name for name in store.recipe_folders() if name.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{len(found)} recipes begin with {beginning!r}: {', '.join(name[:12] for name in found)}.",
            fix="Give more digits.",
        )
    raise UserError(
        f"{store.folder} has no recipe that begins with {beginning!r}.", fix=f"fastclip store --store {store.folder}"
    )


def known_targets(shards: str) -> tuple[list[Target], list[str]]:
    """The datasets that can be used, and a sentence for each that cannot."""
    from fastclip.data.shards.manifest import list_datasets
    from fastclip.data.shards.targets import find_targets
    from fastclip.storage.folders import open_folder

    targets, unusable = [], []
    for name in list_datasets(open_folder(shards)):
        try:
            targets += find_targets(shards, [name])
        except FastclipError as error:
            unusable.append(f"{name} is left out: {error}")
    return targets, unusable


def _rows(holding: Holding) -> list[tuple[str, ...]]:
    """The table's rows of one recipe: one a dataset; its name and size stand in the first."""
    cells = [
        (each.name, f"{each.embedded_shards:,}/{each.shards:,}", f"{each.embedded_images:,}")
        for each in holding.datasets
    ]
    if holding.unknown_parts or not cells:
        cells.append(("other shards", f"{holding.unknown_parts:,}", ""))
    recipe, size = holding.recipe, f"{holding.size / 1e6:,.1f}"
    return [
        (recipe.id[:12], recipe.backbone, *row, size) if number == 0 else ("", "", *row, "")
        for number, row in enumerate(cells)
    ]


def _facts(holding: Holding) -> str:
    from fastclip.models.weights import describe_weights

    recipe, weights = holding.recipe, describe_weights(holding.recipe)
    switches = "".join(f", {switch}" for switch in recipe.switches)
    numerics = f"numerics {recipe.numerics}" + (" WITHDRAWN: never read" if recipe.withdrawn else "")
    where = f"on {recipe.machine}, {recipe.libraries}{switches}, {numerics}"
    return f"{recipe.id[:12]}: {weights}, {recipe.how}, {where}."


def _bare(store: Store, name: str) -> str:
    remove = f"fastclip store remove {name[:12]} --store {store.folder}"
    return (
        f"{name[:12]}: {len(store.parts(name)):,} parts without a recipe.json, which no other machine reads. If a "
        f"removal was stopped, finish it: {remove}. If the file was lost, fastclip eval --here writes it again at "
        "the machine that embedded the parts."
    )
