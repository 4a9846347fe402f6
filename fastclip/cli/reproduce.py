"""`fastclip reproduce`: evaluate as the published table did, and say for each cell whether its count is the same."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.options import (
    PLACE,
    SHOW,
    Json,
    Predictions,
    Results,
    Store,
    Unreadable,
    Workers,
    takes_eval_options,
)
from fastclip.cli.results import DEFAULT, find_places
from fastclip.errors import FastclipError, IntegrityError, UserError, printable

if TYPE_CHECKING:
    from rich.console import Console

    from fastclip.evaluate.options import EvalOptions
    from fastclip.evaluate.setup import Setup
    from fastclip.models.backbones import Backbone
    from fastclip.results.published.table import PublishedTable
    from fastclip.results.published.verdicts import Against

REQUIREMENTS = ("same", "near-ties")


def reproduce(
    options: EvalOptions,
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
    unreadable: Unreadable = "stop",
    require: Annotated[
        str | None,
        typer.Option(metavar="VERDICT", help="End with 5 unless every cell is same, or at least near-ties.", **SHOW),
    ] = None,
    results: Results = DEFAULT,
    json: Json = None,
    predictions: Predictions = None,
) -> None:
    """Evaluate as the published table did, and compare right answers with it.

    The table is jindongwang/transferlearning's: zero-shot, eight datasets.

    OpenAI's nine backbones, unless -b names some, with their own archives.
    """
    from fastclip.cli.console import err, out
    from fastclip.cli.evaluate import embed_and_score, end
    from fastclip.report.against import verdict_parts
    from fastclip.results.published.against import against
    from fastclip.results.published.embedded import published_table

    if require not in (None, *REQUIREMENTS):
        raise UserError(f"--require does not know {require!r}.", fix=f"--require {' | '.join(REQUIREMENTS)}")
    table, messages = published_table(), err()
    options = replace(options, workers=workers, store=store, share=share, unreadable=unreadable)
    options = _with_archives(_published(options, table))
    places = find_places("eval", messages, results, json, predictions)
    evaluation = embed_and_score(
        options, places, messages, dry_run=dry_run, check=lambda setup: _check(setup, table, messages)
    )
    if not evaluation:
        return
    found = against(evaluation, table)
    for part in ("", *verdict_parts(found)):
        out().print(part)
    end(evaluation)
    if require:
        _demand(found, require)


command = takes_eval_options(reproduce)


def _published(options: EvalOptions, table: PublishedTable) -> EvalOptions:
    """The options with the published datasets, backbones and prompts. Raises `UserError` for others."""
    from fastclip.models.backbones import OPENAI_BACKBONES, known_backbone

    names = []
    for name in options.backbones or OPENAI_BACKBONES:
        backbone = known_backbone(name)
        if backbone is None or backbone.name not in OPENAI_BACKBONES:
            raise UserError(
                f"The published table has no {printable(name)}.", fix=f"Choose from {', '.join(OPENAI_BACKBONES)}."
            )
        names.append(backbone.name)
    return replace(options, targets=_targets(options, table), backbones=tuple(names), prompts=("transferlearning",))


def _with_archives(options: EvalOptions) -> EvalOptions:
    """The options with OpenAI's own archives as weights, where none are given and not all is stored by them.

    They are fetched if need be: what `eval` would download instead holds the same tensors, but no digest says so.
    Raises `UserError` for one that cannot be had.
    """
    from fastclip.models.archives import openai_archive
    from fastclip.models.backbones import OPENAI_BACKBONES, known_backbone

    given = {backbone.name for name in options.weights if (backbone := known_backbone(name))}
    archives = {}
    for name in options.backbones:
        if name in given or options.random_weights or options.recipes or _is_stored(options, name):
            continue
        backbone = OPENAI_BACKBONES[name]
        archives[name] = openai_archive(backbone) or _fetched(backbone, options)
    return replace(options, weights={**archives, **options.weights})


def _fetched(backbone: Backbone, options: EvalOptions) -> Path:
    """OpenAI's archive of a backbone, fetched by a single process. Raises `UserError` if it cannot be had."""
    from fastclip.cli.console import err
    from fastclip.cli.progress import bytes_bar
    from fastclip.embed.processes import find_process
    from fastclip.models.archives import ADDRESS, fetch_archive
    from fastclip.models.weights import is_near

    problem = (
        f"Not everything is embedded by OpenAI's archive of {backbone.name}, {backbone.archive}, and it is not in "
        "~/.cache/clip."
    )
    by_hand = f"--weights {backbone.name}={backbone.archive}"
    if find_process(os.environ, options.share).world_size > 1:
        raise UserError(
            problem, fix=f"Run this once with --dry-run and without a launcher, which gets it; or {by_hand}"
        )
    if not is_near(ADDRESS):
        raise UserError(
            f"{problem} {ADDRESS} cannot be reached.", fix=f"Run this where there is a network; or {by_hand}"
        )
    with bytes_bar(err(), f"downloading {backbone.archive}", None, 0) as advance:
        return fetch_archive(backbone, advance)


def _is_stored(options: EvalOptions, name: str) -> bool:
    """Whether the store has all embeddings of a backbone by OpenAI's archive."""
    from fastclip.evaluate.setup import resolve
    from fastclip.results.published.comparable import why_not_weights

    try:
        setup = resolve(replace(options, backbones=(name,), weights={}), only_stored=True)
    except FastclipError:  # it is not whole, or is there by several weights
        return False
    return not any(any(why_not_weights(recipe, name)) for recipe in setup.recipes.values())


def _targets(options: EvalOptions, table: PublishedTable) -> tuple[str, ...]:
    """The targets that are asked for, or all sharded datasets of the table. Raises `UserError` for others."""
    from fastclip.data.shards.manifest import list_datasets
    from fastclip.storage.folders import open_folder

    for target in options.targets:
        if target.partition("/")[0] not in table.datasets:
            raise UserError(
                f"The published table has no {printable(target)}.", fix=f"Choose from {', '.join(table.datasets)}."
            )
    if options.targets:
        return options.targets
    found = tuple(name for name in list_datasets(open_folder(options.shards)) if name in table.datasets)
    if not found:
        raise UserError(
            f"{options.shards} holds none of the published datasets ({', '.join(table.datasets)}).",
            fix="fastclip download NAME, then fastclip shard NAME --source DIR",
        )
    return found


def _check(setup: Setup, table: PublishedTable, messages: Console) -> None:
    """Raise `UserError` for weights that nothing could be said of; say which images are not the published ones."""
    from fastclip.models.backbones import OPENAI_BACKBONES
    from fastclip.results.published.comparable import why_not_weights

    for (_, name), recipe in setup.recipes.items():
        if recipe.random_weights or any(why_not_weights(recipe, name)):
            archive = OPENAI_BACKBONES[name].archive
            weights = "random ones" if recipe.random_weights else recipe.weights[:12]
            raise UserError(
                f"{name}: its weights are {weights}, not those of OpenAI's {archive}, so that no number would be "
                "comparable.",
                fix=f"--weights {name}=FILE with that archive, or fastclip eval, which gives no verdicts",
            )
    for target in setup.targets if setup.process.reports else ():
        known, manifest = table.datasets[target.name], target.manifest
        if manifest.variant is None or (known.variant and manifest.variant != known.variant):
            wanted = f"the variant {known.variant}" if known.variant else "any known variant"
            line = f"{target.name}: these images are not {wanted} of {known.title}: there will be no verdict on them."
            messages.print(printable(line), soft_wrap=True)


def _demand(found: Against, require: str) -> None:
    """Raise `IntegrityError` unless every cell has the verdict that is required, or a better one."""
    from fastclip.results.published.verdicts import NEAR_TIES, SAME

    good = (SAME,) if require == "same" else (SAME, NEAR_TIES)
    if missed := [cell for cell in found.cells if cell.verdict not in good]:
        first = missed[0]
        others = f", and {len(missed) - 1:,} more" if len(missed) > 1 else ""
        raise IntegrityError(
            f"{first.dataset}/{first.domain}, {first.column.backbone}: {first.words}{others}. --require {require} asks "
            "for another verdict.",
            fix="fastclip verify shows whether this machine computes as it should.",
        )
