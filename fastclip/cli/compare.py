"""`fastclip compare`: is A better than B, on the same images?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastclip.cli.options import SHOW
from fastclip.errors import UserError

OF = ("backbones", "prompts", "heads", "runs")
TESTS = {"rich_help_panel": "Tests"}


def command(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT", help="A run that was kept: its folder, its result.json, or its predictions."),
    ],
    of: Annotated[str | None, typer.Option(metavar="|".join(OF), help="Default: whichever differ.", **TESTS)] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Compare all with this one. Default: zero-shot, or the best.", **TESTS),
    ] = None,
    prompts: Annotated[str | None, typer.Option(metavar="SET", help="Only this prompt set.", **TESTS)] = None,
    correct: Annotated[
        str, typer.Option(metavar="holm|bh|none", help="For many tests. bh: the false discovery rate.", **TESTS)
    ] = "holm",
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all tests to this file too.", **SHOW)] = None,
) -> None:
    """Tell whether one backbone, prompt set, head or run is better.

    Better, or only lucky: all of them answered the same images, so only those count that one has right and the other
    wrong.

    Several results are compared with each other, and as runs if they have the same columns.
    """
    from fastclip.cli.console import out
    from fastclip.destinations import check_place
    from fastclip.files import write_whole
    from fastclip.report.comparisons import family_tables, legend
    from fastclip.results.averages import averages
    from fastclip.results.comparing.file import to_json
    from fastclip.results.files.kept import find_results
    from fastclip.results.files.together import compare_kept

    if of is not None and of not in OF:
        raise UserError(f"--of does not know {of!r}.", fix=f"--of {' | '.join(OF)}")
    if json:
        check_place(json)
    families, evaluation = compare_kept(find_results(results), of, to=to, correction=correct, prompts=prompts)
    means = {(each.dataset, each.column): each.macro for each in averages(evaluation)}
    console = out()
    for family in families:
        for part in family_tables(family, means):
            console.print(part)
    for line in legend(families):
        console.print(line, style="dim")
    if json:
        write_whole(json, to_json(families))
