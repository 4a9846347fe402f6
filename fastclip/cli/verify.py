"""`fastclip verify`: the promises about numbers, proved on this machine and these images, as a certificate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.options import PLACE, SHOW, Prompts, Workers, prompt_sets, takes_eval_options
from fastclip.errors import EXIT_INTEGRITY

if TYPE_CHECKING:
    from rich.table import Table

    from fastclip.evaluate.options import EvalOptions
    from fastclip.verify import Certificate, Check


MOST_DETAILS = 5
"""Lines printed of what does not hold in one check."""


@takes_eval_options
def command(
    options: EvalOptions,
    prompts: Prompts = None,
    workers: Workers = None,
    images: Annotated[int, typer.Option(metavar="N", min=8, help="Images that are tried.", **PLACE)] = 64,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the certificate to this file.", **SHOW)
    ] = None,
) -> None:
    """Prove on this machine and some of these images what the numbers rest on, and print a certificate.

    One, two and three processes and a killed one write the same bytes; decoders give CLIP's pixels; precisions agree.

    Exit code 5 if anything does not hold.
    """
    from rich.console import Console

    from fastclip.files import write_whole
    from fastclip.verify import verify

    options = replace(options, prompts=prompt_sets(prompts), workers=workers)
    with Console(stderr=True).status("looking at what there is") as status:
        certificate = verify(options, images, status.update)
    print_certificate(certificate)
    if json:
        write_whole(json, certificate.to_json())
    if certificate.failed:
        raise typer.Exit(EXIT_INTEGRITY)


def print_certificate(certificate: Certificate) -> None:
    """What was checked, what was found and whether it holds; below it what exactly does not, and what it is true of."""
    from rich.console import Console
    from rich.text import Text

    from fastclip.errors import printable

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(Text("fastclip verify", style="bold"))
    console.print(_table(certificate.checks))
    for check in certificate.failed:
        for line in check.details[:MOST_DETAILS]:
            console.print(printable(line))
        if (more := len(check.details) - MOST_DETAILS) > 0:
            console.print(f"{check.name}: and {more} more; --json FILE has all.")
    for line in _facts(certificate):
        console.print(printable(line), style="dim")
    count = len(certificate.failed)
    verdict = f"{count} of {len(certificate.checks)} checks: DOES NOT HOLD." if count else "Everything holds."
    console.print(Text(verdict, style="bold"))


def _table(checks: tuple[Check, ...]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from fastclip.errors import printable

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("checked", overflow="fold", min_width=17)
    table.add_column("figure", overflow="fold")
    table.add_column("", no_wrap=True)
    verdicts = {True: "holds", False: "DOES NOT HOLD", None: "—"}
    for topic in dict.fromkeys(check.topic for check in checks):
        table.add_section()
        table.add_row(Text(f"{topic}:", style="dim"))
        for check in checks:
            if check.topic == topic:
                row = (check.name, check.figure, verdicts[check.holds])
                table.add_row(*(Text(printable(cell)) for cell in row), style="bold" if check.holds is False else "")
    return table


def _facts(certificate: Certificate) -> list[str]:
    """What the certificate is true of, a sentence a line."""
    names = ", ".join(dataset.name for dataset in certificate.datasets)
    unusable = f"; unreadable: {certificate.unusable}" if certificate.unusable else ""
    lines = [f"{certificate.images} images of {names} in {certificate.shards} shards{unusable}."]
    for facts in certificate.backbones:
        how = f"{facts.precision}, decoded by {facts.decoder.split(',')[0]}, batches of {facts.batch_size}"
        weights = "RANDOM WEIGHTS" if facts.random_weights else f"weights {facts.weights[:8]}"
        lines.append(f"{facts.name}, {weights}: {how}.")
    lines.append(f"Prompts: {', '.join(certificate.prompts)}. Took {certificate.seconds:.0f} s.")
    return [*lines, certificate.machine]
