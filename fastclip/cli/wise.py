"""`fastclip wise`: weights between zero-shot and fine-tuned ones, and the curve of their accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.options import (
    MODEL,
    SHOW,
    SPLIT,
    BatchSize,
    Compile,
    Decoder,
    Device,
    Json,
    Precision,
    Predictions,
    Prompts,
    Results,
    Shards,
    Store,
    Unreadable,
    Workers,
    prompt_sets,
    takes,
)
from fastclip.cli.results import DEFAULT, find_places
from fastclip.errors import UserError
from fastclip.temporary import temporary_folder

if TYPE_CHECKING:
    from fastclip.evaluate.options import EvalOptions
    from fastclip.finetune.ends import Line


def wise_options(
    precision: Precision = None,
    decoder: Decoder = None,
    batch_size: BatchSize = None,
    compile_towers: Compile = None,
    device: Device = None,
    shards: Shards = "shards",
    store: Store = Path("embeddings"),
    workers: Workers = None,
) -> EvalOptions:
    """The options that say how images are embedded. Raises `UserError`. Backbone and weights are the command's own."""
    from fastclip.cli.options import eval_options

    options = eval_options(
        precision=precision,
        decoder=decoder,
        batch_size=batch_size,
        compile_towers=compile_towers,
        device=device,
        shards=shards,
    )
    return replace(options, store=store, workers=workers)


def wise(
    options: EvalOptions,
    start: Annotated[
        str | None,
        typer.Argument(
            metavar="A",
            help="A weights file, or the folder of a fine-tuning. Left out, or zero-shot: the weights that B was "
            "fine-tuned from.",
            show_default=False,
        ),
    ] = None,
    fine_tuned: Annotated[
        str | None,
        typer.Argument(metavar="B", help="Fine-tuned weights, as a file or a folder.", show_default=False),
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option("--test", metavar="DATASET[/DOMAIN]", help="Tested. Repeatable.", **SPLIT)
    ] = None,
    alpha: Annotated[
        str, typer.Option(metavar="ALPHA", help="Shares of B: FIRST:LAST:STEP, or a list such as 0.3,0.5.", **MODEL)
    ] = "0:1:0.1",
    backbone: Annotated[
        str | None, typer.Option("-b", "--backbone", metavar="NAME", help="Default: as B says.", **MODEL)
    ] = None,
    prompts: Prompts = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the weights between A and B, for eval --weights.", **SHOW)
    ] = None,
    unreadable: Unreadable = "stop",
    results: Results = DEFAULT,
    json: Json = None,
    predictions: Predictions = None,
) -> None:
    """Test the weights between zero-shot and fine-tuned ones (WiSE-FT).

    Fine-tuned weights often lose on other domains what they gain on their own. Weights in between often lose less.
    """
    from fastclip.cli.beside import embed_with_bar, print_beside
    from fastclip.cli.console import err
    from fastclip.cli.evaluate import end
    from fastclip.cli.lean import load_lean
    from fastclip.destinations import check_place
    from fastclip.errors import needs_torch
    from fastclip.finetune.wise import alphas

    messages = err()
    shares = alphas(alpha)
    if not start:
        raise UserError("No weights are named.", fix="fastclip wise FOLDER --test DATASET/DOMAIN")
    if not test:
        raise UserError("No domain is tested.", fix="--test DATASET/DOMAIN")
    places = find_places("wise", messages, results, json, predictions)
    if save:
        check_place(save / "alpha.safetensors")
    with needs_torch():
        load_lean()
        # All of it before weights are written: a stop signal that comes within an import ends without cleaning up.
        import fastclip.evaluate.embedding
        import fastclip.evaluate.score
        import fastclip.pixels.torchvision  # noqa: F401
        from fastclip.data.shards.targets import find_targets
        from fastclip.finetune.ends import find_line, weights_on
        from fastclip.finetune.scoring import beside, spelling
        from fastclip.transfer import folds

    tested = folds.places(find_targets(options.shards, test), test)
    line = find_line(start if fine_tuned else None, fine_tuned or start, backbone)
    names = (spelling(line.backbone),)
    options = replace(options, backbones=names, prompts=prompt_sets(prompts), unreadable=unreadable)
    with temporary_folder("wise") as folder:
        tuned = weights_on(line, shares, tested, folder, save)
        base = line.zero_shot
        found = beside(options, base.path, base.digest, tuned, tested, lambda setup: embed_with_bar(setup, messages))
    if found is None:
        return
    evaluation, answers = found
    print_beside(evaluation, _line_notes(line, begins=not shares[0]))
    places.keep(evaluation, answers, messages)
    if save:
        messages.print(f"Weights kept: {save}", soft_wrap=True)
    end(evaluation)


command = takes(wise_options, wise)


def _line_notes(line: Line, *, begins: bool) -> Sequence[str]:
    """Where the line begins: if it has its beginning, or if the fine-tuning did not begin there."""
    from fastclip.errors import printable

    where = "zero-shot" if line.start.training is None else f"{line.start.weights.path}, which was fine-tuned too"
    other = f" The weights at α 1 were fine-tuned from others, {line.training.base[:12]}." * line.begins_elsewhere
    return [printable(f"α 0 is {where}.{other}")] if begins or other else []
