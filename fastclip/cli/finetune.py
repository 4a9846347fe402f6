"""`fastclip finetune`: weights trained on some domains, tested on others beside zero-shot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.console import counted, err, out
from fastclip.cli.options import (
    MODEL,
    PLACE,
    SHOW,
    SPLIT,
    Decoder,
    Device,
    Json,
    Predictions,
    Results,
    Shards,
    Store,
    eval_options,
    prompt_sets,
)
from fastclip.cli.results import DEFAULT, Places, find_places
from fastclip.errors import EXIT_UNREADABLE, GO_ON, FastclipError, LostProcessError

if TYPE_CHECKING:
    from rich.console import Console

    from fastclip.evaluate.options import EvalOptions
    from fastclip.finetune.job import Watch
    from fastclip.finetune.material import Material
    from fastclip.finetune.options import FinetuneOptions
    from fastclip.finetune.plan import Plan
    from fastclip.finetune.scoring import Tuned
    from fastclip.finetune.team import Team
    from fastclip.results.cells import Epoch

TRAIN = {"rich_help_panel": "How the weights are trained"}
GRACE_S = 25.0
"""Seconds from a stop signal to the end. A checkpoint is written in them; Slurm and Kubernetes give 30."""


def command(
    train: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATASET[/DOMAIN[,DOMAIN]]", help="Trained on.", show_default=False),
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option("--test", metavar="DATASET[/DOMAIN]", help="Tested. Repeatable.", **SPLIT)
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Test each domain after training on all the others.", **SPLIT)
    ] = False,
    recipe: Annotated[
        str,
        typer.Option(metavar="NAME", help="ce, contrastive, flyp, clipood or transferlearning.", **TRAIN),
    ] = "ce",
    lr: Annotated[float | None, typer.Option(metavar="RATE", help="Default: the recipe's.", **TRAIN)] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Default: the recipe's, 10.", **TRAIN)] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Images a step, of all processes together. Default: the recipe's.", **TRAIN),
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(metavar="W", help="Default: the recipe's.", **TRAIN)] = None,
    warmup_steps: Annotated[
        int | None, typer.Option(metavar="N", help="At most a tenth of all. Default: the recipe's.", **TRAIN)
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of the batches, crops and templates.", **TRAIN)] = None,
    select: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="The epoch: held-out (a tenth of the training images; default), last, or, for transferlearning "
            "alone, test: the result says so.",
            **TRAIN,
        ),
    ] = None,
    fp16_round_trip: Annotated[
        bool,
        typer.Option(
            "--fp16-round-trip",
            help="For transferlearning: round weights to fp16 after each step, as it does.",
            **TRAIN,
        ),
    ] = False,
    prompts: Annotated[
        list[str] | None,
        typer.Option(metavar="SET", help="transferlearning (default), photo, openai80, or a file.", **MODEL),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option("-b", "--backbone", metavar="NAME", help="ViT-B/32, tiny, or ARCH/PRETRAINED.", **MODEL),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="To start from. Default: the backbone's own.", **MODEL)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="fp32, or bf16 for products (default on a GPU). Weights are fp32.", **MODEL),
    ] = None,
    decoder: Decoder = None,
    accumulate: Annotated[int, typer.Option(metavar="K", help="Passes a step, for less memory.", **PLACE)] = 1,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Less memory, a third more time.", **PLACE)
    ] = False,
    save_every: Annotated[
        float, typer.Option(metavar="S", help="Seconds between checkpoints within an epoch.", **PLACE)
    ] = 600,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of all fine-tunings.", **PLACE)] = Path(
        "finetuned"
    ),
    device: Device = None,
    shards: Shards = "shards",
    store: Store = Path("embeddings"),
    unreadable: Annotated[
        str,
        typer.Option(
            metavar="POLICY",
            help="A tested image that is unreadable counts as: stop, wrong or exclude. A training image ends the run; "
            "with exclude it is left out.",
            **SHOW,
        ),
    ] = "stop",
    results: Results = DEFAULT,
    json: Json = None,
    predictions: Predictions = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be trained, and the memory that it needs.", **PLACE)
    ] = False,
) -> None:
    """Fine-tune a backbone on some domains and test it on others.

    Zero-shot stands beside it. Held-out training images choose the epoch. Tested ones are scored once, at the end.
    After a stop or a crash the same command goes on.

    Several processes: accelerate launch --config_file FILE -m fastclip finetune …
    """
    from fastclip.finetune.options import FinetuneOptions, find_precision
    from fastclip.finetune.training_recipes import find_training_recipe

    changes = {
        "learning_rate": lr, "epochs": epochs, "batch_size": batch_size, "weight_decay": weight_decay,
        "warmup_steps": warmup_steps, "seed": seed, "select": select, "fp16_round_trip": fp16_round_trip or None,
    }  # fmt: skip
    chosen = find_training_recipe(recipe).changed(**{name: each for name, each in changes.items() if each is not None})
    options = FinetuneOptions(
        recipe=chosen,
        precision=find_precision(precision),
        accumulate=accumulate,
        checkpointing=checkpointing,
        save_every_s=save_every,
        out=folder,
    )
    names = [backbone] if backbone else None
    evaluation = replace(
        eval_options(None, names, False, weights, decoder=decoder, device=device, shards=shards),
        prompts=prompt_sets(prompts),
        store=store,
        unreadable=unreadable,
    )
    kept = find_places("finetune", err(), results, json, predictions)
    train_and_score(evaluation, options, train or (), test or (), kept, one_out=leave_one_out, dry_run=dry_run)


def train_and_score(
    evaluation: EvalOptions,
    options: FinetuneOptions,
    train: Sequence[str],
    test: Sequence[str],
    kept: Places,
    *,
    one_out: bool = False,
    dry_run: bool = False,
) -> list[Tuned]:
    """Train every fold, score the weights beside the backbone as it was, print and keep the run.

    Returns the weights; none for a dry run.
    """
    from fastclip.cli.lean import load_lean

    load_lean()
    from fastclip.finetune.material import find_material
    from fastclip.finetune.plan import make_plan, separate

    messages = err()
    plan = make_plan(
        evaluation,
        options,
        separate(evaluation.shards, train),
        separate(evaluation.shards, test),
        one_out=one_out,
    )
    materials = [find_material(plan, fold) for fold in plan.folds]
    if plan.process.reports:
        for line in _forecast(plan, materials):
            messages.print(line)
    if dry_run:
        return []
    tuned = _train(plan, materials, messages)
    score_and_print(plan, tuned, kept, messages)
    return tuned


def _train(plan: Plan, materials: list[Material], messages: Console) -> list[Tuned]:
    """Train every fold. Raises `Stopped` after a stop signal, once a checkpoint is there."""
    from fastclip.cli.signals import deferred_signals
    from fastclip.finetune.run import train_fold
    from fastclip.finetune.team import Team

    team = Team(plan.process, plan.engine.device)
    tuned = []
    for material in materials:
        with deferred_signals(GRACE_S) as stopping, _watched(plan, material, team, messages, stopping) as watch:
            found = train_fold(plan, material, team, watch)
        if found is None:  # this process was not asked itself: then the block ends by `Stopped`
            raise LostProcessError("Another process of this training was stopped; a checkpoint is there.", fix=GO_ON)
        tuned.append(found)
        if team.leads:
            messages.print(f"Weights: {found.weights}", soft_wrap=True)
    team.leave()
    return tuned


def score_and_print(plan: Plan, tuned: list[Tuned], kept: Places, messages: Console) -> None:
    """Score the tuned weights beside the backbone as it was; print, and keep the run."""
    from fastclip.cli.beside import embed_with_bar, print_beside
    from fastclip.finetune.scoring import beside
    from fastclip.report.finetuning import epoch_table
    from fastclip.report.terminal import grid_table

    tested = tuple(dict.fromkeys(place for each in tuned for place in each.places))
    given = next(iter(plan.evaluation.weights.values()), None)
    base = plan.candidate.weights.digest
    scored = beside(plan.evaluation, given, base, tuned, tested, lambda setup: embed_with_bar(setup, messages))
    if scored is None:
        return
    evaluation, answers = scored
    console = out()
    for grid in epoch_table(evaluation):
        console.print(grid_table(grid))
    print_beside(evaluation)
    kept.keep(evaluation, answers, messages)
    if evaluation.undecided:
        raise typer.Exit(EXIT_UNREADABLE)


def _forecast(plan: Plan, materials: list[Material]) -> Iterator[str]:
    """The images and steps of each fold, a line each, and the memory that training takes."""
    recipe, engine = plan.options.recipe, plan.engine
    for each in materials:
        images = counted(len(each.samples), "image")
        judged = f", {len(each.judges):,} choose the epoch" if each.judges is not None else ""
        steps = -(-len(each.samples) // recipe.batch_size)
        yield (
            f"{each.fold.name}: {images} train{judged}. {counted(recipe.epochs, 'epoch')} of {counted(steps, 'step')}, "
            f"{counted(min(recipe.batch_size, len(each.samples)), 'image')} a step, in {plan.precision} on "
            f"{engine.device.type}."
        )
        if each.unreadable:
            yield f"{counted(len(each.unreadable), 'training image')} cannot be read: finetune.json lists them."
        if each.rejected:
            yield f"{counted(each.rejected, 'more image')} of these domains could not be used when they were sharded."
    yield f"Training takes about {_size(plan.needed_memory)} of memory a process; {_size(engine.free_memory)} are free."


def _size(memory: int) -> str:
    return f"{memory / 2**30:.1f} GiB" if memory >= 2**30 else f"{memory / 2**20:.0f} MiB"


@contextmanager
def _watched(
    plan: Plan, material: Material, team: Team, messages: Console, stopping: Callable[[], bool]
) -> Iterator[Watch]:
    """A bar for the block, and a line for each epoch."""
    from fastclip.cli.progress import training_bar
    from fastclip.finetune.job import Progress, Watch

    if not team.leads:
        yield Watch(stopping=stopping)
        return
    images, recipe = len(material.samples), plan.options.recipe
    others = f", {team.size} processes" if team.size > 1 else ""
    with training_bar(messages, f"training{others}", images * recipe.epochs) as advance:

        def on_start(step: int) -> None:
            if step:
                messages.print(f"Going on after step {step:,}.")
                per_epoch = -(-images // recipe.batch_size)
                advance(step // per_epoch * images + step % per_epoch * recipe.batch_size, None, gone_on=True)

        def on_step(progress: Progress) -> None:
            advance(progress.images, progress.loss)

        def on_epoch(epoch: Epoch) -> None:
            messages.print(_epoch_line(epoch))

        def on_damaged(error: FastclipError) -> None:
            messages.print(f"{error} Going on without it.")

        yield Watch(on_start=on_start, on_step=on_step, on_epoch=on_epoch, on_damaged=on_damaged, stopping=stopping)


def _epoch_line(epoch: Epoch) -> str:
    """`epoch 3: loss 0.541, 98 of 120 held out right (81.67 %)`."""
    from fractions import Fraction

    from fastclip.report.numbers import percent

    name = "epoch 0, zero-shot" if not epoch.number else f"epoch {epoch.number}"
    loss = "" if epoch.loss is None else f"loss {epoch.loss:.4f}"
    right = ""
    if epoch.images:
        share = percent(Fraction(epoch.right, epoch.images), 2)
        right = f"{epoch.right:,} of {epoch.images:,} that choose the epoch right ({share} %)"
    return f"{name}: {', '.join(filter(None, (loss, right))) or 'no image is held out'}"
