"""`fastclip adapt`: from the labels of one domain to another domain whose images are there and whose labels are not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.options import (
    HEAD,
    SPLIT,
    FitDevice,
    Json,
    Predictions,
    Prompts,
    Results,
    Unreadable,
    prompt_sets,
    takes_stored_options,
)
from fastclip.cli.results import DEFAULT
from fastclip.errors import UserError

if TYPE_CHECKING:
    from fastclip.evaluate.options import EvalOptions


def adapt(
    options: EvalOptions,
    source: Annotated[
        list[str] | None, typer.Argument(metavar="DATASET[/DOMAIN]", help="With labels.", show_default=False)
    ] = None,
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="DATASET/DOMAIN", help="The target. Repeatable.", **SPLIT)
    ] = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="From every domain of the arguments to every other one.", **SPLIT)
    ] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="coral (the default), sa, tca, jda, bda, prior, prototype, ot or ot-entropic. Repeatable.",
            **HEAD,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(metavar="LAMBDA", help="λ of the classifier. Default: chosen on source images.", **HEAD),
    ] = None,
    device: FitDevice = None,
    prompts: Prompts = None,
    unreadable: Unreadable = "stop",
    results: Results = DEFAULT,
    json: Json = None,
    predictions: Predictions = None,
) -> None:
    """Adapt from labelled domains to another one, without its labels.

    Zero-shot and the source alone stand beside it. Embed all domains first, with fastclip eval.
    """
    from fastclip.cli.transfer import run_and_print
    from fastclip.transfer.folds import adapt_folds, places
    from fastclip.transfer.methods import adapt_jobs
    from fastclip.transfer.run import Plan, stored

    options = replace(options, targets=tuple(source or ()), prompts=prompt_sets(prompts), unreadable=unreadable)
    if not options.targets:
        raise UserError("No source is named.", fix="fastclip adapt DATASET/DOMAIN --to DATASET/DOMAIN -b NAME")
    setup = stored(replace(options, targets=(*options.targets, *(to or ()))))
    sources, targets = places(setup.targets, options.targets), places(setup.targets, tuple(to or ()))
    folds = adapt_folds(sources, targets, all_pairs=all_pairs)
    plan = Plan(setup=setup, folds=folds, jobs=adapt_jobs(tuple(method or ("coral",)), folds, strength))
    run_and_print(
        plan,
        command="adapt",
        results=results,
        json=json,
        predictions=predictions,
        by_pair=True,
        device=device,
    )


command = takes_stored_options(adapt)
