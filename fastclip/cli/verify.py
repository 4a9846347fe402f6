"""`fastclip verify`: the promises about numbers, proved on this machine and these images, as a certificate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.lean import load_lean
from fastclip.cli.options import PLACE, SHOW, Prompts, Workers, prompt_sets, takes_eval_options
from fastclip.errors import EXIT_INTEGRITY
from fastclip.files import write_whole

if TYPE_CHECKING:
    from rich.table import Table

    from fastclip.evaluate.options import EvalOptions
    from fastclip.store.recipes import Recipe
    from fastclip.verify.certificate import Certificate
    from fastclip.verify.check import Check


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
    """Prove what the numbers rest on, on this machine and your images.

    One, two and three processes and a killed one write the same bytes; decoders give CLIP's pixels; precisions agree.
    The certificate says so.

    Exit code 5 if anything does not hold.
    """
    from fastclip.cli.console import err
    from fastclip.cli.progress import waiting

    load_lean()
    from fastclip.verify.certificate import verify

    options = replace(options, prompts=prompt_sets(prompts), workers=workers)
    with waiting(err(), "looking at what there is") as say:
        certificate = verify(options, images, say, _evaluate)
    print_certificate(certificate)
    if json:
        write_whole(json, certificate.to_json())
    if certificate.failed:
        raise typer.Exit(EXIT_INTEGRITY)


def _evaluate(options: EvalOptions) -> None:
    """The work of a worker, which starts in half the time when it does not load what it does not use."""
    load_lean()
    from fastclip.verify.workers import evaluate

    evaluate(options)


def print_certificate(certificate: Certificate) -> None:
    """Print the checks, below them everything that does not hold, and last the facts that they are true of."""
    from rich.text import Text

    from fastclip.cli.console import out
    from fastclip.errors import printable
    from fastclip.report.style import titled

    console = out()
    console.print(titled("fastclip verify", _table(certificate.checks)))
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
    from rich.text import Text

    from fastclip.errors import printable
    from fastclip.report.style import plain_table

    table = plain_table("checked", "figure", "", left=2)
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
    """The images, recipes, prompts and machine of the certificate, a sentence a line."""
    from fastclip.models.weights import describe_weights

    names = ", ".join(dataset.name for dataset in certificate.datasets)
    unusable = f"; unreadable: {certificate.unusable}" if certificate.unusable else ""
    lines = [f"{certificate.images} images of {names} in {certificate.shards} shards{unusable}."]
    for recipe in certificate.recipes:
        lines.append(f"{recipe.backbone}, {describe_weights(recipe)}, recipe {recipe.id[:12]}: {recipe.how}.")
    lines.append(f"Prompts: {', '.join(certificate.prompts)}. Took {certificate.seconds:.0f} s.")
    return [*lines, *dict.fromkeys(map(_machine, certificate.recipes))]


def _machine(recipe: Recipe) -> str:
    """The machine of a recipe, with everything on it that computes."""
    compiler = [recipe.engine] if recipe.compiled else []
    return ", ".join([recipe.machine, recipe.libraries, f"numerics {recipe.numerics}", *compiler, *recipe.switches])
