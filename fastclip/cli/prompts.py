"""`fastclip prompts`: candidates ranked, an ensemble selected, a prompt set checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.help import Command, Group
from fastclip.cli.options import MODEL, PLACE, SHOW, Shards, Store, Targets, takes_stored_options
from fastclip.errors import UserError

if TYPE_CHECKING:
    from fastclip.evaluate.options import EvalOptions

app = typer.Typer(cls=Group, no_args_is_help=True, help="Rank prompts, select an ensemble of them, check a prompt set.")

CANDIDATES = {"rich_help_panel": "Candidates"}
CHOICE = {"rich_help_panel": "How the ensemble is chosen"}

Templates = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SET",
        help="Each template of a file, or of openai80, is a candidate. Repeatable.",
        **CANDIDATES,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--texts",
        metavar="SET",
        help="A whole set is a candidate: texts of each class, or templates together. Repeatable.",
        **CANDIDATES,
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of what is drawn.", **CANDIDATES)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how long it would take.", **PLACE)]


def rank(
    options: EvalOptions,
    targets: Targets = None,
    templates: Templates = None,
    texts: Sets = None,
    control: Annotated[
        int, typer.Option(metavar="N", help="Rank N templates of random words beside them.", **CANDIDATES)
    ] = 0,
    seed: Seed = 0,
    top: Annotated[int, typer.Option(metavar="N", help="Candidates that are shown.", **SHOW)] = 10,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all counts to this file.", **SHOW)] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write them as CSV.", **SHOW)] = None,
    dry_run: DryRun = False,
) -> None:
    """Rank hundreds of prompts by the accuracy of each on stored embeddings.

    Text vectors are computed once and kept. The order uses labels: the best one's accuracy is no zero-shot result.
    """
    from fastclip.cli.prompts_rank import rank_and_print
    from fastclip.prompts.candidates import find_candidates

    if top < 1:
        raise UserError(f"--top must be at least 1, not {top}.", fix="--top 10")
    candidates = find_candidates(templates or (), texts or (), control, seed)
    options = replace(options, targets=tuple(targets or ()))
    rank_and_print(options, candidates, top=top, json=json, csv=csv, dry_run=dry_run)


app.command("rank", cls=Command)(takes_stored_options(rank))


def select(
    options: EvalOptions,
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATASET[/DOMAIN]", help="One dataset, or some of its domains.", show_default=False),
    ] = None,
    templates: Templates = None,
    texts: Sets = None,
    hold_out: Annotated[
        str,
        typer.Option(
            metavar="WAY",
            help="domains: each is reported by what the others chose. folds: each fifth of the images. half: one half.",
            **CHOICE,
        ),
    ] = "domains",
    most: Annotated[int, typer.Option(metavar="K", help="Candidates in the ensemble at most.", **CHOICE)] = 7,
    without_labels: Annotated[
        bool, typer.Option("--without-labels", help="Choose by a score that needs none.", **CHOICE)
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of folds and halves.", **CHOICE)] = 0,
    reference: Annotated[
        list[str] | None,
        typer.Option(metavar="SET", help="A prompt set to stand beside it. Default: photo. Repeatable.", **SHOW),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.json", help="Write the chosen set, for eval --prompts.", **SHOW),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Select an ensemble of prompts, and show how much of its gain is luck.

    It grows by the candidate that helps most, and is judged on images that did not choose it.
    """
    from fastclip.cli.prompts_select import select_and_print
    from fastclip.prompts.candidates import find_candidates
    from fastclip.prompts.hold_out import HOLD_OUTS
    from fastclip.prompts.selection import SelectOptions

    if most < 1:
        raise UserError(f"--most must be at least 1, not {most}.", fix="--most 7")
    if hold_out not in HOLD_OUTS:
        raise UserError(f"--hold-out does not know {hold_out!r}.", fix=f"--hold-out {' | '.join(HOLD_OUTS)}")
    select_and_print(
        replace(options, targets=tuple(targets or ())),
        find_candidates(templates or (), texts or ()),
        find_candidates((), reference or ("photo",)),
        SelectOptions(hold_out=hold_out, most=most, seed=seed, labels=not without_labels),
        output=output,
        dry_run=dry_run,
    )


app.command("select", cls=Command)(takes_stored_options(select))


@app.command("check", cls=Command)
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Templates or texts, or a built-in set.")],
    dataset: Annotated[
        str | None, typer.Argument(metavar="DATASET", help="Check it against these classes.", show_default=False)
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option("-b", "--backbone", metavar="NAME", help="Also look for classes of equal prototypes.", **MODEL),
    ] = None,
    shards: Shards = "shards",
    store: Store = Path("embeddings"),
) -> None:
    """Check a prompt set: duplicates, ids, cut texts, missing classes, equal prototypes.

    Exit code 2 if eval would refuse it.
    """
    from fastclip.cli.prompts_check import check_and_print, check_one

    check_one(dataset)
    check_and_print(file, dataset, backbone, shards, store)
