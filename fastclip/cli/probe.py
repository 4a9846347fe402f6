"""`fastclip probe`: heads fitted on stored embeddings of some domains, scored on others beside zero-shot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.options import (
    HEAD,
    SHOW,
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


def probe(
    options: EvalOptions,
    train: Annotated[
        list[str] | None, typer.Argument(metavar="DATASET[/DOMAIN]", help="Trained on.", show_default=False)
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option("--test", metavar="DATASET[/DOMAIN]", help="Tested. Repeatable.", **SPLIT)
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Test each domain after training on all the others.", **SPLIT)
    ] = False,
    split: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Train on this share of the images, by hash; test the rest.", **SPLIT),
    ] = None,
    shots: Annotated[
        str | None, typer.Option(metavar="K[,K…]", help="Train on K images a class, such as 1,2,4,8,16.", **SPLIT)
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Draws of the shots: seeds 1 to N. Default: 3.", **SPLIT)
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="logistic (the default), text-logistic, ridge, knn, prototype, tip or wise. Repeatable.",
            **HEAD,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(metavar="LAMBDA", help="λ = 1/C on unit vectors. Default: chosen on training images.", **HEAD),
    ] = None,
    device: FitDevice = None,
    prompts: Prompts = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the heads as files, for eval --head.", **SHOW)
    ] = None,
    unreadable: Unreadable = "stop",
    results: Results = DEFAULT,
    json: Json = None,
    predictions: Predictions = None,
) -> None:
    """Train heads on stored embeddings and test them on other domains.

    Zero-shot stands beside them. Embed all domains first, with fastclip eval. Settings are chosen on a part of the
    training images.
    """
    from fastclip.cli.transfer import run_and_print
    from fastclip.transfer.probe import plan_probe

    heads = tuple(head or ("logistic",))
    run_and_print(
        plan_probe(
            replace(options, targets=tuple(train or ()), prompts=prompt_sets(prompts), unreadable=unreadable),
            tuple(test or ()),
            heads,
            leave_one_out=leave_one_out,
            split=split,
            shots=_numbers(shots),
            seeds=seeds,
            strength=strength,
        ),
        command="probe",
        results=results,
        json=json,
        predictions=predictions,
        save=save,
        device=device,
    )


command = takes_stored_options(probe)


def _numbers(text: str | None) -> tuple[int, ...]:
    try:
        numbers = tuple(dict.fromkeys(int(each) for each in text.split(","))) if text else ()
    except ValueError:
        numbers = (0,)
    if any(each < 1 for each in numbers):
        raise UserError(f"--shots {text} is no list of whole numbers from 1 up.", fix="--shots 1,2,4,8,16")
    return numbers
