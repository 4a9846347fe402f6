"""`fastclip eval`: embed what is missing, score, print the table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastclip.errors import EXIT_INCOMPLETE, EXIT_UNREADABLE, UserError

if TYPE_CHECKING:
    from fastclip.evaluate import EvalOptions, Run

MODEL = {"rich_help_panel": "What the numbers depend on"}
PLACE = {"rich_help_panel": "Where and how fast"}
SHOW = {"rich_help_panel": "Results"}


def command(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[DATASET[/DOMAIN]]…", help="Default: all that is sharded.")
    ] = None,
    backbones: Annotated[
        list[str] | None,
        typer.Option(
            "-b", "--backbone", metavar="NAME", help="ViT-B/32, tiny, or ARCH/PRETRAINED. Repeatable.", **MODEL
        ),
    ] = None,
    all_backbones: Annotated[bool, typer.Option("--all-backbones", help="OpenAI's nine.", **MODEL)] = False,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SET",
            help="transferlearning (the default), photo, openai80, or a file of templates. Repeatable.",
            **MODEL,
        ),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(metavar="[BACKBONE=]FILE", help="Weights from a file. Repeatable.", **MODEL)
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Benchmarks only: the speed of a model, not its answers.", **MODEL)
    ] = False,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="fp32, bf16 or fp16. Default: this machine's fast one.", **MODEL)
    ] = None,
    decoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="torchvision (default on a CPU) or dali (on a GPU).", **MODEL)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images a forward pass. Default: 32, on a GPU 256.", **MODEL)
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="cpu or cuda. Default: the GPU where there is one.", **PLACE)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Threads that decode and embed. Default: the cores.", **PLACE)
    ] = None,
    shards: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Folder of all sharded datasets; may be https://, s3://, gs:// or hf://.", **PLACE
        ),
    ] = "shards",
    store: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of embeddings, shared by all runs.", **PLACE)
    ] = Path("embeddings"),
    unreadable: Annotated[
        str, typer.Option(metavar="POLICY", help="An unreadable image counts as: stop, wrong or exclude.", **SHOW)
    ] = "stop",
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write counts and settings to this file.", **SHOW)
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every answer to this Parquet file.", **SHOW)
    ] = None,
) -> None:
    """Score backbones on sharded datasets, zero-shot. Embeds what is missing; a second run only scores.

    Any number of processes: accelerate launch --config_file FILE -m fastclip eval …
    """
    from fastclip.evaluate import EvalOptions
    from fastclip.models.backbones import OPENAI_BACKBONES

    names = (*(OPENAI_BACKBONES if all_backbones else ()), *(backbones or ()))
    options = EvalOptions(
        targets=tuple(targets or ()),
        backbones=names,
        prompts=tuple(prompts or ("transferlearning",)),
        weights=_weights_by_backbone(weights or [], names),
        random_weights=random_weights,
        precision=precision,
        decoder=decoder,
        batch_size=batch_size,
        device=device,
        workers=workers,
        shards=shards,
        store=store,
        unreadable=unreadable,
    )
    if code := evaluate_and_print(options, json=json, predictions=predictions):
        raise typer.Exit(code)


def evaluate_and_print(options: EvalOptions, *, json: Path | None = None, predictions: Path | None = None) -> int:
    """Evaluate, print the table if this is the process that does, and return the exit code."""
    from rich.console import Console

    from fastclip.evaluate import Run
    from fastclip.files import write_whole
    from fastclip.report.table import footnotes, tables
    from fastclip.score.predictions import write_predictions

    run = Run(options)
    if not run.process.reports:
        run.embed()
        return 0
    errors = Console(stderr=True, highlight=False, markup=False, emoji=False)
    _embed(run, errors)
    evaluation, answers = run.score(keep_predictions=predictions is not None)
    if not evaluation.complete:  # a part was damaged and is now moved aside
        _embed(run, errors)
        evaluation, answers = run.score(keep_predictions=predictions is not None)
    console = Console(highlight=False, markup=False, emoji=False)
    for table in tables(evaluation):
        console.print(table)
    for line in footnotes(evaluation):
        console.print(line, style="dim")
    if json:
        write_whole(json, evaluation.to_json())
    if predictions:
        write_predictions(predictions, answers)
    return EXIT_INCOMPLETE if not evaluation.complete else EXIT_UNREADABLE if evaluation.undecided else 0


def _embed(run: Run, errors: Any) -> None:
    """Embed under a progress bar, then say how fast each stage was and which one bounds."""
    from fastclip.cli.progress import progress_bar

    missing = run.share_images()
    if not missing:
        run.embed()  # nothing of its own, but others may need help
        return
    started = time.perf_counter()
    others = f", process 1 of {run.process.world_size}" if run.process.world_size > 1 else ""
    with progress_bar(errors, f"embedding ({run.precision}, {run.device.type}{others})", missing) as advance:
        run.embed(advance)
    seconds = run.seconds
    if seconds.images:
        elapsed = time.perf_counter() - started
        stages = {name: getattr(seconds, name) for name in ("read", "decode", "embed", "write")}
        spent = ", ".join(f"{name} {stage_s:.1f}" for name, stage_s in stages.items())
        rate = f"{seconds.images / elapsed:.0f} images/s"
        who = f"Process 1 of {run.process.world_size} embedded" if others else "Embedded"
        errors.print(f"{who} {seconds.images:,} images in {elapsed:.1f} s, models loaded: {rate}.")
        errors.print(f"Thread seconds: {spent}; bounded by {max(stages, key=stages.__getitem__)}.")


def _weights_by_backbone(given: list[str], backbones: tuple[str, ...]) -> dict[str, Path]:
    """`BACKBONE=FILE` pairs; a bare FILE belongs to the only backbone."""
    weights = {}
    for text in given:
        name, equals, file = text.partition("=")
        if equals and not Path(text).exists():
            weights[name] = Path(file)
        elif len(backbones) == 1:
            weights[backbones[0]] = Path(text)
        else:
            fix = f"--weights ViT-B/32={text}"
            raise UserError(f"--weights {text} does not say which backbone it is for.", fix=fix)
    return weights
