"""`fastclip bench`: the speed of every stage on this machine, and which one bounds."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.options import PLACE, SHOW, Workers, takes_eval_options

if TYPE_CHECKING:
    from rich.table import Table

    from fastclip.bench.stages import Bench
    from fastclip.evaluate.options import EvalOptions


@takes_eval_options
def command(
    options: EvalOptions,
    workers: Workers = None,
    images: Annotated[
        int, typer.Option(metavar="N", min=1, help="At least so many images, in whole shards.", **PLACE)
    ] = 512,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Repetitions; the median counts.", **PLACE)] = 3,
    finetune: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Measure fine-tuning instead: decoding and the step side by side."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add the records to this file, a line each.", **SHOW)
    ] = None,
) -> None:
    """Measure the speed of every stage on images that are sharded.

    Stages are decoding, each tower, both together, writing and scoring. --random-weights will do: a tower's speed does
    not depend on them. fastclip eval --dry-run uses these measurements for its estimates. Run bench with and without
    --compile on; eval --dry-run then shows the break-even image count.
    """
    from fastclip.temporary import temporary_folder

    if finetune:
        _bench_finetune(options, finetune, rounds, json)
        return
    from fastclip.bench.records import append_records, kept_records_path
    from fastclip.bench.stages import bench
    from fastclip.cli.console import err, out
    from fastclip.cli.progress import waiting
    from fastclip.report.style import titled

    with (
        temporary_folder("bench") as scratch,
        waiting(err(), "looking at what there is") as say,
    ):
        options = replace(options, workers=workers)
        found = bench(options, images, rounds, scratch, lambda stage: say(f"measuring: {stage}"))
    with suppress(OSError):  # a home that cannot be written to
        append_records(kept_records_path(), found.records)
    if json:
        append_records(json, found.records)
    console = out()
    console.print(titled("the speed of every stage", _table(found)))
    bounds, *facts = _sentences(found)
    console.print(bounds)
    for line in facts:
        console.print(line, style="dim")


def _bench_finetune(options: EvalOptions, recipe: str, rounds: int, json: Path | None) -> None:
    from fastclip.bench.records import append_records
    from fastclip.cli.console import err, out
    from fastclip.cli.progress import waiting
    from fastclip.finetune.options import FinetuneOptions, find_precision
    from fastclip.finetune.training_recipes import find_training_recipe
    from fastclip.report.style import plain_table, titled
    from fastclip.temporary import temporary_folder

    chosen = find_training_recipe(recipe)
    if options.batch_size:
        chosen = chosen.changed(batch_size=options.batch_size)
    precision = find_precision(options.precision)
    training = FinetuneOptions(recipe=chosen, precision=precision)
    evaluation = replace(options, precision=None, batch_size=None, workers=None)
    with (
        temporary_folder("bench") as scratch,
        waiting(err(), "looking at what there is") as say,
    ):
        from fastclip.bench.training import STEPS, bench_training

        found = bench_training(evaluation, training, STEPS, rounds, scratch, lambda stage: say(f"measuring: {stage}"))
    if json:
        append_records(json, found.records)
    table = plain_table("stage", "images/s")
    for name in ("decode", "step", "together"):
        rate = getattr(found, name)
        table.add_row(name, f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}")
    console = out()
    console.print(titled("the speed of fine-tuning", table))
    bound = "decoding" if found.decode < found.step else "the step"
    console.print(f"Bounded by {bound}. Together {found.together / found.limit:.0%} of what the two allow.")
    settings = found.settings
    console.print(
        f"{settings['backbone']}, recipe {settings['recipe']}, {settings['precision']} on {settings['device']}, "
        f"batches of {settings['batch']}, {settings['threads']} threads, decoded by {settings['decoder']}.",
        style="dim",
    )


def _table(found: Bench) -> Table:
    from fastclip.report.style import plain_table

    table = plain_table("stage", "images/s", "MB/s", "GFLOP/s", "of products", "of peak")
    for each in found.records:
        stage = f"tower {each.settings['backbone']}" if each.what == "tower" else each.what
        row = [f"{each.rate:,.0f}" if each.rate >= 100 else f"{each.rate:.1f}"]
        row.append(f"{int(each.settings['bytes']) / each.seconds / 1e6:,.0f}" if "bytes" in each.settings else "")
        if each.what == "tower":
            done = int(each.settings["flops per image"]) * each.rate
            row += [f"{done / 1e9:,.0f}", f"{done / found.product_flops:.0%}"]
            row += [f"{done / found.peak_flops:.0%}" if found.peak_flops else "—"]
        table.add_row(stage, *row)
    return table


def _sentences(found: Bench) -> list[str]:
    settings = found.records[0].settings
    together = next(each for each in found.records if each.what == "together")
    embed = 1 / sum(1 / rate for rate in found.towers.values())
    lines = [
        f"Bounded by {found.bounded_by}: decoding alone {found.decode:,.0f} images/s, embedding alone {embed:,.1f}.",
        f"Together {found.together:,.1f} images/s, {found.together / found.limit:.0%} of what the two allow.",
    ]
    if not found.peak_flops:
        lines.append("No data sheet of this device is known, so no share of its peak is shown.")
    lines.append(
        f"{found.images:,} images; {settings['precision']} on {settings['device']}, decoded by {settings['decoder']}, "
        f"batches of {settings['batch']}, {settings['workers']} threads, {together.peak_gib:.1f} GiB at most; "
        f"matrix products reach {found.product_flops / 1e9:,.0f} GFLOP/s."
    )
    return lines
