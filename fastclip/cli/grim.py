"""`fastclip grim`: which printed accuracies are possible, and with how many right answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.errors import EXIT_INTEGRITY, UserError, printable

if TYPE_CHECKING:
    from rich.table import Table

    from fastclip.data.catalogue import DatasetCard
    from fastclip.results.published.csv_file import PrintedRow


@dataclass(frozen=True)
class Tried:
    """A printed accuracy, and the numbers of right answers that are printed so."""

    row: PrintedRow
    images: int
    counts: tuple[int, int] | None
    if_cut: tuple[int, int] | None
    """If further digits were cut off, not rounded."""


def command(
    table: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="A table of accuracies, wide or long.")],
    images: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Images that each accuracy is of.", show_default=False)
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="A known dataset: its domains have known numbers of images.")
    ] = None,
    percent: Annotated[
        bool | None,
        typer.Option("--percent/--fraction", help="How accuracies are written. Default: their size tells."),
    ] = None,
) -> None:
    """Say which printed accuracies are possible, and as what counts.

    An accuracy is right answers divided by images, so not every number is one.

    A column `images` or `dataset` may give it row by row.

    Ends with 5 if a number is impossible.
    """
    from fastclip.cli.console import out
    from fastclip.report.style import titled
    from fastclip.results.published.csv_file import read_printed
    from fastclip.results.published.printed import candidates_if_cut

    if images and dataset:
        raise UserError("--images and --dataset both say how many images there are.", fix="Leave out one of them.")
    rows = read_printed(table, percent)
    tried = []
    for row in rows:
        number = row.counted or images or _of_card(row, dataset, table)
        tried.append(Tried(row, number, row.candidates(number), candidates_if_cut(row.printed, number)))
    console = out()
    console.print(titled(f"{table.name}: right answers behind each accuracy", _table(tried)))
    for line in _lines(tried):
        console.print(printable(line))
    if not all(each.counts for each in tried):
        raise typer.Exit(EXIT_INTEGRITY)


def _of_card(row: PrintedRow, given: str | None, table: Path) -> int:
    """The images of a row's domain in the dataset's published variant. Raises `UserError`."""
    from fastclip.data.catalogue import find_card, list_cards, same_name

    name = given or row.names.get("dataset", "")
    place = printable(", ".join(filter(None, (row.names.get("dataset"), row.names.get("domain")))))
    if not name:
        raise UserError(
            f"{table} does not say how many images its accuracies are of.",
            fix="--images N, --dataset NAME, or a column images",
        )
    card = find_card(name) if name.isprintable() and "/" not in name else None
    if not card:
        raise UserError(
            f"There is no known dataset {printable(name)!r}.",
            fix=f"--images N, or --dataset {' | '.join(each.name for each in list_cards())}",
        )
    number = _domain_images(card).get(same_name(row.names.get("domain", "")))
    if number is None:
        domains = ", ".join(domain.name for domain in card.domains)
        raise UserError(f"{table}, line {row.line}: {name} has no domain {place!r}.", fix=f"It has {domains}.")
    return number


def _domain_images(card: DatasetCard) -> dict[str, int]:
    """By every name of a domain, and by its first letter where that is its own: `P` of PACS is photo."""
    from fastclip.data.catalogue import same_name

    images = card.variants[0].images if card.variants else {}
    found = {name: images[domain] for name, domain in card.domain_of.items() if domain in images}
    letters = [domain[0] for domain in images]
    return found | {same_name(domain[0]): images[domain] for domain in images if letters.count(domain[0]) == 1}


def _table(tried: Sequence[Tried]) -> Table:
    from fastclip.report.style import plain_table

    names = [name for name in ("dataset", "backbone", "prompts", "domain")
             if any(each.row.names.get(name) for each in tried)]  # fmt: skip
    headers = [tried[0].row.label if name == "backbone" else name for name in names]
    table = plain_table(*headers, "printed", "images", "right answers", left=len(names))
    for each in tried:
        cells = [each.row.names.get(name, "") for name in names]
        table.add_row(*cells, each.row.text, f"{each.images:,}", _counts(each.counts))
    return table


def _counts(counts: tuple[int, int] | None) -> str:
    if counts is None:
        return "impossible"
    least, greatest = counts
    return f"{least:,}" if least == greatest else f"{least:,} to {greatest:,}"


def _lines(tried: Sequence[Tried]) -> Iterator[str]:
    impossible = [each for each in tried if not each.counts]
    numbers = "number" if len(tried) == 1 else "numbers"
    one = sum(each.counts is not None and each.counts[0] == each.counts[1] for each in tried)
    yield f"{len(tried):,} {numbers}: {len(impossible):,} impossible, {one:,} with exactly one count."
    if cut := sum(each.if_cut is not None for each in impossible):
        yield f"{cut:,} of the impossible ones {'is' if cut == 1 else 'are'} possible if digits were cut, not rounded."
    if weak := sum(each.images >= 10**each.row.printed.decimals for each in tried):
        yield (
            f"{weak:,} {'is' if weak == 1 else 'are'} of so many images that every number is possible: for those the "
            "test says nothing."
        )
