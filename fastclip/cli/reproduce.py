"""`fastclip reproduce`: evaluate as the published table did, and say for each cell whether its count is the same."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.options import SHOW, DryRun, Predictions, Results, Share, Store, Unreadable, Workers, takes
from fastclip.cli.published_options import as_published, published_options
from fastclip.cli.results import DEFAULT, find_places
from fastclip.errors import FastclipError, IncompleteError, IntegrityError, UserError, printable

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
    share: Share = None,
    dry_run: DryRun = False,
    unreadable: Unreadable = "stop",
    require: Annotated[
        str | None,
        typer.Option(
            metavar="same|near-ties", help="End with 5 unless every cell is same, or at least within near ties.", **SHOW
        ),
    ] = None,
    results: Results = DEFAULT,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the result with its verdicts to this file too.", **SHOW),
    ] = None,
    predictions: Predictions = None,
) -> None:
    """Evaluate as the published table did, and compare right answers with it.

    The table is jindongwang/transferlearning's: zero-shot, eight datasets.

    OpenAI's own archives are read from ~/.cache/clip, and downloaded if they are not there.
    """
    from fastclip.cli.console import err, out
    from fastclip.cli.evaluate import embed_and_score, end
    from fastclip.report.against import verdict_parts
    from fastclip.results.published.against import against
    from fastclip.results.published.document import against_document
    from fastclip.results.published.embedded import published_table

    if require not in (None, *REQUIREMENTS):
        raise UserError(f"--require does not know {require!r}.", fix=f"--require {' | '.join(REQUIREMENTS)}")
    table, messages = published_table(), err()
    options = replace(options, workers=workers, store=store, share=share, unreadable=unreadable)
    options = as_published(options, table)
    places = replace(
        find_places("eval", messages, results, json, predictions),
        more=lambda evaluation: {"published": against_document(against(evaluation, table))},
    )
    _check_targets(options, table, messages)  # before gigabytes of archives are fetched
    evaluation = embed_and_score(_with_archives(options), places, messages, dry_run=dry_run, check=_check_weights)
    if not evaluation:
        return
    found = against(evaluation, table)
    for part in verdict_parts(found):
        out().print(part)
    end(evaluation)
    if require:
        _demand(found, require)


command = takes(published_options, reproduce)


def _with_archives(options: EvalOptions) -> EvalOptions:
    """The options with OpenAI's own archives as weights, where none are given and not all is stored by them.

    They are fetched if need be: what `eval` would download instead holds the same tensors, but no digest says so.
    Raises `UserError` for one that cannot be had.
    """
    from fastclip.evaluate.setup import resolve
    from fastclip.models.archives import openai_archive
    from fastclip.models.backbones import OPENAI_BACKBONES, known_backbone

    given = {backbone.name for name in options.weights if (backbone := known_backbone(name))}
    if options.weights:
        some = tuple(name for name in options.backbones if name in given)
        with suppress(IncompleteError):  # a file that is not there is an error before others are fetched
            resolve(replace(options, backbones=some or options.backbones), only_stored=True)
    archives = {}
    for name in options.backbones:
        if name in given or options.recipes or _is_stored(options, name):
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


def _check_targets(options: EvalOptions, table: PublishedTable, messages: Console) -> None:
    """Raise an error for targets that cannot be evaluated; say which images are not the published ones."""
    from fastclip.data.shards.targets import find_targets
    from fastclip.embed.processes import find_process
    from fastclip.text.prompt_sets import check_names

    targets = find_targets(options.shards, options.targets)
    for name, manifest in ((each.name, each.manifest) for each in targets):
        check_names(name, manifest.classes, manifest.names, f"{options.shards}/{name}.toml")
        known = table.datasets[name]
        is_published = manifest.variant is not None and known.variant in (None, manifest.variant)
        if not is_published and find_process(os.environ, options.share).reports:
            wanted = f"the variant {known.variant}" if known.variant else "any known variant"
            line = f"{name}: these images are not {wanted} of {known.title}: there will be no verdict on them."
            messages.print(printable(line), soft_wrap=True)


def _check_weights(setup: Setup) -> None:
    """Raise `UserError` for weights that no published number is of."""
    from fastclip.models.backbones import OPENAI_BACKBONES
    from fastclip.results.published.comparable import why_not_weights

    for (_, name), recipe in setup.recipes.items():
        if any(why_not_weights(recipe, name)):
            raise UserError(
                f"{name}: its weights are {recipe.weights[:12]}, not those of OpenAI's "
                f"{OPENAI_BACKBONES[name].archive}, so that no number would be comparable.",
                fix=f"--weights {name}=FILE with that archive, or fastclip eval, which gives no verdicts",
            )


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
