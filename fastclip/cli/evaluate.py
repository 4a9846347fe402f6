"""`fastclip eval`: embed what is missing, score, print the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from fastclip.cli.lean import load_lean
from fastclip.cli.options import (
    MODEL,
    DryRun,
    Json,
    Predictions,
    Prompts,
    Results,
    Share,
    Store,
    Unreadable,
    Workers,
    prompt_sets,
    takes_eval_options,
)
from fastclip.cli.results import DEFAULT, Places, find_places
from fastclip.errors import EXIT_INCOMPLETE, EXIT_UNREADABLE, FastclipError

MOST_NAMED = 5
"""Shards that could not be embedded and are named beside the first."""

if TYPE_CHECKING:
    from rich.console import Console

    from fastclip.embed.loop import StageSeconds
    from fastclip.evaluate.embedding import Embedding
    from fastclip.evaluate.engine import Candidate, Engine
    from fastclip.evaluate.given_heads import GivenHead
    from fastclip.evaluate.options import EvalOptions
    from fastclip.evaluate.setup import Setup
    from fastclip.results.answers import ShardAnswers
    from fastclip.results.cells import Evaluation
    from fastclip.text.prompt_sets import PromptSet


def evaluate(
    options: EvalOptions,
    prompts: Prompts = None,
    head: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A head that fastclip probe --save kept, beside zero-shot. Repeatable.", **MODEL
        ),
    ] = None,
    workers: Workers = None,
    store: Store = Path("embeddings"),
    share: Share = None,
    dry_run: DryRun = False,
    unreadable: Unreadable = "stop",
    results: Results = DEFAULT,
    json: Json = None,
    predictions: Predictions = None,
) -> None:
    """Score backbones on sharded datasets, zero-shot and by given heads. Embeds what is missing, once.

    Embeddings of any machine count: where a store is complete, neither weights nor a GPU are needed.

    Any number of processes: accelerate launch --config_file FILE -m fastclip eval …
    """
    from fastclip.cli.console import err

    options = replace(
        options, prompts=prompt_sets(prompts), workers=workers, store=store, share=share, unreadable=unreadable
    )
    messages = err()
    places = find_places("eval", messages, results, json, predictions)
    heads = []
    if head:
        from fastclip.evaluate.given_heads import load_heads, options_with

        heads = load_heads(head)
        options = options_with(options, heads)
    evaluation = embed_and_score(options, places, messages, heads, dry_run=dry_run)
    if evaluation:
        end(evaluation)


command = takes_eval_options(evaluate)


def embed_and_score(
    options: EvalOptions,
    places: Places,
    messages: Console,
    heads: Sequence[GivenHead] = (),
    *,
    dry_run: bool = False,
    check: Callable[[Setup], None] = lambda setup: None,
) -> Evaluation | None:
    """Embed what is missing, print the table and keep the run. None for a dry run and a process that prints no table.

    `check` may refuse the setup by an error before any work is done.
    """
    from fastclip.cli.progress import silence, stages
    from fastclip.evaluate.setup import resolve

    with silence.at("reading manifests, store and weights"):
        setup = resolve(options)
    check(setup)
    if heads:
        from fastclip.evaluate.given_heads import heads_by_domain

        heads_by_domain(setup, heads)  # a head that does not fit is refused before hours of embedding, not after
    if dry_run:
        _print_forecast(setup)
        return None
    if setup.process.reports:
        for line in [*_twins(setup), *_other_prompts(setup)]:
            messages.print(line, soft_wrap=True)
    _print_weights(setup, messages)

    def embed_missing(setup: Setup) -> list[FastclipError]:
        load_lean()
        from fastclip.evaluate.embedding import embed

        with _reported(setup, messages) as report, stages() as say:
            report.done = embed(setup, report.advance, say)
        return report.done.failures

    def score(setup: Setup) -> tuple[Evaluation, list[ShardAnswers]]:
        from fastclip.evaluate.run import score_all

        with silence.at("scoring"):
            return score_all(setup, heads)

    if not setup.process.reports:
        _end_share(setup, embed_missing(setup) if setup.units else [], messages)
        return None
    from fastclip.evaluate import run

    scored = run.embed_and_score(setup, embed_missing, score, lambda: resolve(options))
    evaluation = scored.evaluation
    _print_results(scored.setup, evaluation, scored.failures, messages)
    places.keep(evaluation, scored.answers, messages)
    if not evaluation.complete and scored.failures:
        _raise_first(scored.failures, messages)
    return evaluation


def end(evaluation: Evaluation) -> None:
    """Leave with the exit code of an evaluation that is not complete, or whose unreadable images need a decision."""
    if not evaluation.complete or evaluation.undecided:
        raise typer.Exit(EXIT_UNREADABLE if evaluation.complete else EXIT_INCOMPLETE)


def _twins(setup: Setup) -> list[str]:
    """For each dataset, the classes that prompts cannot tell apart, by any of the prompt sets."""
    from fastclip.data.twins import twins, twins_line

    lines = []
    for manifest in (target.manifest for target in setup.targets):
        groups = {
            group
            for prompts in setup.prompts
            for classes in [prompts.classes(manifest.classes, manifest.names)]
            for group in twins([_told_apart(prompts, *each) for each in classes])
        }
        if groups:
            lines.append(f"{manifest.dataset}: {twins_line(manifest.names, sorted(groups))}")
    return lines


def _told_apart(prompts: PromptSet, folder: str, readable: str) -> str:
    """A text that two classes share if CLIP cannot tell them apart."""
    of_class = prompts.prompts(folder, readable)
    # The first prompt is enough: templates differ around the name, which is the same or not in all of them.
    return of_class[0] if prompts.templates else " ".join(of_class)


def _other_prompts(setup: Setup) -> list[str]:
    """For each backbone whose weights were fine-tuned, the prompt sets that are not those of its training."""
    from fastclip.errors import printable
    from fastclip.report.training_notes import other_prompts

    prompts = {each.name: each.identity for each in setup.prompts}
    tuned = dict.fromkeys((each.backbone, each.training) for each in setup.recipes.values() if each.training)
    return [printable(line) for backbone, training in tuned for line in other_prompts(backbone, training, prompts)]


def _print_weights(setup: Setup, messages: Console) -> None:
    """The files that this machine embeds with. The table, which every machine prints alike, has their digests only."""
    from fastclip.errors import printable
    from fastclip.models.backbones import TINY
    from fastclip.models.weights import describe_weights

    for each in setup.engine.candidates.values() if setup.engine and setup.process.reports else ():
        if each.backbone != TINY or each.name in setup.weights:
            weights = describe_weights(each.recipe, each.weights.path)
            messages.print(printable(f"{each.name}: {weights}."), soft_wrap=True)


def _print_forecast(setup: Setup) -> None:
    from fastclip.cli.forecast import print_forecast

    if setup.process.reports:
        print_forecast(setup)


def _print_results(setup: Setup, evaluation: Evaluation, failures: Sequence[FastclipError], messages: Console) -> None:
    """The table, its footnotes, and the shards that were given up."""
    from fastclip.cli.console import out
    from fastclip.report.document import average_notes
    from fastclip.report.head_notes import given_head_notes
    from fastclip.report.heads import head_tables
    from fastclip.report.prompt_notes import prompt_notes
    from fastclip.report.tables import accuracy_tables
    from fastclip.report.terminal import footnotes, tables
    from fastclip.report.training_notes import training_notes

    console = out()
    for table in head_tables(evaluation) if evaluation.heads else tables(evaluation):
        console.print(table)
    chosen = (*prompt_notes(evaluation), *training_notes(evaluation))
    notes = (*average_notes(accuracy_tables(evaluation)), *given_head_notes(evaluation), *chosen)
    for line in notes:
        console.print(line, style="dim")
    can_go_on = not evaluation.complete and not failures and _is_anything_left(setup)
    for line in footnotes(evaluation, can_go_on=can_go_on):
        console.print(line, style="dim")
    _print_given_up(setup, messages)


def _end_share(setup: Setup, failures: list[FastclipError], messages: Console) -> None:
    """The end of a process that prints no table. One that leads a share says whether everything is there now."""
    if not setup.process.leads_share:
        return  # a shard that it cannot read, the first process cannot read either, or has embedded
    _print_given_up(setup, messages)
    if not _is_complete(setup):
        if failures:
            _raise_first(failures, messages)
        messages.print("Not everything is embedded. Run the same command again.")
        raise typer.Exit(EXIT_INCOMPLETE)
    messages.print(
        "Everything is embedded, by all workers together. The same command without --share prints the table."
    )


def _raise_first(failures: Sequence[FastclipError], messages: Console) -> NoReturn:
    """Raise the first of why shards could not be embedded, after the others are named."""
    from fastclip.errors import printable

    for failure in failures[1 : MOST_NAMED + 1]:
        messages.print(f"Also: {printable(str(failure))}", soft_wrap=True)
    if len(failures) > MOST_NAMED + 1:
        messages.print(f"… and {len(failures) - MOST_NAMED - 1:,} more shards.", soft_wrap=True)
    raise failures[0]


@dataclass
class _Report:
    """Progress of embedding for `_reported`."""

    advance: Callable[[int], None]
    done: Embedding


@contextmanager
def _reported(setup: Setup, messages: Console) -> Iterator[_Report]:
    """A progress bar for the block; afterwards how fast each stage was and which one bounds."""
    from fastclip.cli.progress import progress_bar
    from fastclip.evaluate.embedding import Embedding, missing_units, owed_passes, share_images

    engine, process = setup.engine, setup.process
    assert engine
    missing = missing_units(setup)
    images = share_images(setup, missing)
    if not images or not (process.reports or process.leads_share):
        yield _Report(lambda images: None, Embedding())  # nothing of its own, but others may need help
        return
    for line in _of_other_shards(setup):
        messages.print(line, soft_wrap=True)
    if line := _memory(engine, owed_passes(setup, missing)):
        messages.print(line)
    started = time.perf_counter()
    others = f", process {process.rank + 1} of {process.world_size}" if process.world_size > 1 else ""
    with progress_bar(messages, f"embedding ({engine.precision}, {engine.device.type}{others})", images) as advance:
        report = _Report(advance, Embedding())
        yield report
    if report.done.seconds.images:
        _print_speed(setup, report.done.seconds, time.perf_counter() - started, messages)


def _of_other_shards(setup: Setup) -> Iterator[str]:
    """A line for each recipe that has parts which no dataset in the shards folder asks for."""
    wanted = {unit.part for unit in setup.units}
    recipes = {recipe.id for unit in setup.units for recipe in unit.recipes.values()}
    if all(setup.store.listed(recipe) <= wanted for recipe in recipes):
        return
    from fastclip.cli.console import counted
    from fastclip.cli.store import known_targets
    from fastclip.features.holdings import list_holdings

    for each in list_holdings(setup.store, known_targets(str(setup.shards))[0]):
        if each.recipe.id in recipes and each.unknown_parts:
            parts = counted(each.unknown_parts, "part")
            yield (
                f"{setup.store.folder} holds {parts} of {each.recipe.backbone} for no shards in {setup.shards}. If "
                "shards were written anew, their images are embedded again."
            )


def _is_complete(setup: Setup) -> bool:
    listed = cache(setup.store.parts)
    return all(unit.part in listed(recipe.id) for unit in setup.units for recipe in unit.recipes.values())


def _is_anything_left(setup: Setup) -> bool:
    if not setup.units:
        return True  # somebody removed parts; the same command looks again
    from fastclip.evaluate.embedding import missing_units

    return bool(missing_units(setup))


def _print_given_up(setup: Setup, messages: Console) -> None:
    if not setup.units:
        return
    from fastclip.embed.attempts import Attempts
    from fastclip.errors import printable

    attempts = Attempts(setup.store.folder)
    given_up = attempts.all_given_up()
    for unit in setup.units if given_up else ():
        if (path := attempts.given_up(unit)) and any(
            not setup.store.has(recipe.id, unit.part) for recipe in unit.recipes.values()
        ):
            name = printable(f"{unit.folder.name}/{unit.shard.name}")
            messages.print(f"{name} kills the process that embeds it. To try it again, delete {path}", soft_wrap=True)


def _print_speed(setup: Setup, seconds: StageSeconds, elapsed: float, messages: Console) -> None:
    process, engine = setup.process, setup.engine
    assert engine
    stages = {name: getattr(seconds, name) for name in ("read", "decode", "embed", "write")}
    spent = ", ".join(f"{name} {stage_s:.1f}" for name, stage_s in stages.items())
    rate = f"{seconds.images / elapsed:.0f} images/s"
    many = process.world_size > 1
    subject = f"Process {process.rank + 1} of {process.world_size} embedded" if many else "Embedded"
    messages.print(f"{subject} {seconds.images:,} images in {elapsed:.1f} s, models loaded: {rate}.")
    if engine.on_gpu:
        stages["decode"] /= engine.workers  # the GPU embeds one batch after the other
    messages.print(f"Thread seconds: {spent}; bounded by {max(stages, key=stages.__getitem__)}.")


def _memory(engine: Engine, passes: list[list[Candidate]]) -> str:
    """The memory that several towers at once take; nothing for a single one."""
    if sum(map(len, passes)) < 2:
        return ""
    free = f"{engine.free_memory / 1e9:.1f} GB of memory are free"
    if len(passes) == 1:
        needed = engine.needed_memory(passes[0]) / 1e9
        return f"{len(passes[0])} backbones at once take about {needed:.1f} GB; {free}."
    groups = " | ".join(", ".join(candidate.name for candidate in each) for each in passes)
    return f"{free}, so the images are decoded {len(passes)} times: {groups}"
