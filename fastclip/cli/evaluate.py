"""`fastclip eval`: embed what is missing, score, print the table."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastclip.cli.lean import load_lean
from fastclip.cli.options import PLACE, SHOW, Prompts, Store, Workers, prompt_sets, takes_eval_options
from fastclip.errors import EXIT_INCOMPLETE, EXIT_UNREADABLE

if TYPE_CHECKING:
    from fastclip.evaluate.options import EvalOptions
    from fastclip.evaluate.run import Run


@takes_eval_options
def command(
    options: EvalOptions,
    prompts: Prompts = None,
    workers: Workers = None,
    store: Store = Path("embeddings"),
    share: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Share I of N, for workers or launchers that do not know of each other.", **PLACE
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is left to do, and how long it will take.", **PLACE)
    ] = False,
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
    options = replace(
        options, prompts=prompt_sets(prompts), workers=workers, store=store, share=share, unreadable=unreadable
    )
    if dry_run:
        from fastclip.cli.forecast import print_forecast
        from fastclip.evaluate.run import Run

        if (run := Run(options)).process.reports:
            print_forecast(run)
    elif code := evaluate_and_print(options, json=json, predictions=predictions):
        raise typer.Exit(code)


def evaluate_and_print(options: EvalOptions, *, json: Path | None = None, predictions: Path | None = None) -> int:
    """Evaluate, print the table if this is the process that does, and return the exit code."""
    from rich.console import Console

    class _Output(Console):
        def on_broken_pipe(self) -> None:
            """`| head` has what it wanted: the files that were asked for are written all the same."""
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    from fastclip.evaluate.run import Run
    from fastclip.evaluate.scoring import score
    from fastclip.files import write_whole
    from fastclip.report.terminal import footnotes, tables
    from fastclip.results.predictions import write_predictions

    run = Run(options)
    errors = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if not run.process.reports:
        return _embed_share(run, errors)
    _embed(run, errors)
    evaluation, answers = score(run, keep_predictions=predictions is not None)
    if not evaluation.complete and not run.failures:  # a part was damaged and is now moved aside
        _embed(run, errors)
        evaluation, answers = score(run, keep_predictions=predictions is not None)
    console = _Output(highlight=False, markup=False, emoji=False)
    for table in tables(evaluation):
        console.print(table)
    for line in footnotes(evaluation, can_go_on=bool(run.missing_units()) and not run.failures):
        console.print(line, style="dim")
    _print_given_up(run, errors)
    if json:
        write_whole(json, evaluation.to_json())
    if predictions:
        write_predictions(predictions, answers)
    if run.failures and not evaluation.complete:
        raise run.failures[0]
    return EXIT_INCOMPLETE if not evaluation.complete else EXIT_UNREADABLE if evaluation.undecided else 0


def _embed_share(run: Run, errors: Any) -> int:
    """What a process does that prints no table. One that leads a share says whether everything is there now."""
    if not run.process.leads_share:
        if run.share_images():
            load_lean()
        run.embed()  # what it cannot read, the first process cannot either, or has embedded
        return 0
    _embed(run, errors)
    _print_given_up(run, errors)
    if run.failures and any(map(run.is_missing, run.units())):
        raise run.failures[0]
    if any(map(run.is_missing, run.units())):
        errors.print("Not everything is embedded. Run the same command again.")
        return EXIT_INCOMPLETE
    errors.print("Everything is embedded, by all workers together. The same command without --share prints the table.")
    return 0


def _print_given_up(run: Run, errors: Any) -> None:
    from fastclip.errors import printable

    given_up = run.attempts.all_given_up()
    for unit in run.units():
        if unit.id in given_up and run.is_missing(unit):
            path = run.attempts.given_up(unit)
            name = printable(f"{unit.folder.name}/{unit.shard.name}")
            errors.print(f"{name} kills the process that embeds it. To try it again, delete {path}", soft_wrap=True)


def _embed(run: Run, errors: Any) -> None:
    """Embed under a progress bar, then say how fast each stage was and which one bounds."""
    from fastclip.cli.progress import progress_bar

    missing, batch_size = run.share_images(), run.batch_size
    if not missing:
        run.embed()  # nothing of its own, but others may need help
        return
    load_lean()
    if line := _memory(run):
        errors.print(line)
    started = time.perf_counter()
    process = run.process
    others = f", process {process.rank + 1} of {process.world_size}" if process.world_size > 1 else ""
    with progress_bar(errors, f"embedding ({run.precision}, {run.device.type}{others})", missing) as advance:
        run.embed(advance)
    if run.batch_size != batch_size:
        errors.print(f"The GPU's memory does not hold batches of {batch_size}: these are of {run.batch_size}.")
    seconds = run.seconds
    if seconds.images:
        elapsed = time.perf_counter() - started
        stages = {name: getattr(seconds, name) for name in ("read", "decode", "embed", "write")}
        spent = ", ".join(f"{name} {stage_s:.1f}" for name, stage_s in stages.items())
        rate = f"{seconds.images / elapsed:.0f} images/s"
        who = f"Process {process.rank + 1} of {process.world_size} embedded" if others else "Embedded"
        errors.print(f"{who} {seconds.images:,} images in {elapsed:.1f} s, models loaded: {rate}.")
        if run.device.type == "cuda":
            stages["decode"] /= run.workers  # the GPU embeds, and says how long, one batch after the other
        errors.print(f"Thread seconds: {spent}; bounded by {max(stages, key=stages.__getitem__)}.")


def _memory(run: Run) -> str:
    """What several towers at once take of the memory; nothing for a single one."""
    passes = run.passes(run.missing_units())
    if sum(map(len, passes)) < 2:
        return ""
    free = f"{run.free_memory / 1e9:.1f} GB of memory are free"
    if len(passes) == 1:
        needed = run.needed_memory(passes[0]) / 1e9
        return f"{len(passes[0])} backbones at once take about {needed:.1f} GB; {free}."
    groups = " | ".join(", ".join(candidate.backbone.name for candidate in each) for each in passes)
    return f"{free}, so the images are decoded {len(passes)} times: {groups}"
