"""The beginning of `prompts rank` and `select`: stored embeddings, a forecast, and texts embedded under a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fastclip.cli.console import counted
from fastclip.errors import UserError, needs_torch, printable

if TYPE_CHECKING:
    from rich.console import Console

    from fastclip.evaluate.options import EvalOptions
    from fastclip.evaluate.setup import Setup
    from fastclip.prompts.candidates import Candidates
    from fastclip.prompts.scoring import Source
    from fastclip.prompts.selection import SelectOptions
    from fastclip.prompts.texts import OpenTower
    from fastclip.store.recipes import Recipe
    from fastclip.text.vectors import TextVectors


def open_sources(options: EvalOptions, candidates: Candidates) -> tuple[Setup, Mapping[str, Sequence[Source]]]:
    """The setup and, by backbone, the datasets' embeddings. Raises before any work for all that can be wrong."""
    from fastclip.cli.progress import silence
    from fastclip.evaluate.setup import resolve
    from fastclip.prompts.candidates import check_candidates
    from fastclip.prompts.scoring import Source

    with silence.at("reading manifests and store"):
        setup = resolve(replace(options, prompts=()), only_stored=True)  # the candidates are checked below
    for target in setup.targets:
        check_candidates(candidates, target, f"{options.shards}/{target.name}.toml")
        if not any(each.images for each in target.shards):
            raise UserError(f"{target.name} has no image in these domains.", fix="Leave it out.")
    return setup, {
        backbone: [Source(each, setup.recipes[each.name, backbone], setup.store) for each in setup.targets]
        for backbone in setup.backbones
    }


def embed_texts(
    setup: Setup,
    backbone: str,
    candidates: Candidates,
    sources: Sequence[Source],
    messages: Console,
    *,
    select: SelectOptions | None = None,
    dry_run: bool,
) -> TextVectors:
    """Say how long the work of a backbone will take, and embed the texts that have no vector yet.

    With `dry_run` nothing is embedded, and the vectors are those that were there.
    """
    from fastclip.cli.lean import load_lean
    from fastclip.cli.progress import silence
    from fastclip.prompts.texts import find_texts, open_tower

    with silence.at("reading text vectors"):
        texts = find_texts(setup, backbone, candidates)
    scoring = _scoring(setup, candidates, sources, select)
    if not texts.missing:
        messages.print(f"{backbone}: all text vectors are there; {scoring}.")
        return texts.known
    with needs_torch(), silence.at("loading PyTorch"):
        load_lean()
    with open_tower(setup, backbone) as tower:
        seconds = tower.seconds(texts.missing)
        rate = len(texts.missing) / seconds
        to_embed = f"{counted(len(texts.missing), 'text')} to embed at {rate:,.0f} texts/s: {_about(seconds)}"
        messages.print(f"{backbone}: {to_embed}; {scoring}.")
        return texts.known if dry_run else _embedded(tower, texts.known, texts.missing, messages)


def _embedded(tower: OpenTower, known: TextVectors, missing: Sequence[str], messages: Console) -> TextVectors:
    from fastclip.cli.progress import progress_bar
    from fastclip.text.vectors import joined

    with progress_bar(messages, "embedding texts", len(missing), unit="texts") as advance:
        return joined([known, *tower.embed(missing, advance)])


def _scoring(setup: Setup, candidates: Candidates, sources: Sequence[Source], select: SelectOptions | None) -> str:
    from fastclip.prompts.forecast import measure, ranking_s, selecting_s

    seconds, images, many = 0.0, 0, len(candidates)
    for source in sources:
        rates = measure(source, many, setup.process.cores)
        images += rates.images
        if select:
            seconds += selecting_s(source, rates, many, select, setup.process.cores)
        else:
            seconds += ranking_s(source, rates, many)
    most = "at most " if select and select.labels else ""
    return f"{counted(images, 'image')} under {counted(many, 'candidate')}: {most}{_about(seconds)}"


def describe(recipe: Recipe) -> str:
    """The embeddings behind the numbers in a sentence."""
    from fastclip.models.weights import describe_weights

    return printable(f"{recipe.backbone}: {describe_weights(recipe)}; {recipe.how}, on {recipe.machine}.")


def title(source: Source, rest: str) -> str:
    """The title of a table, which says so where weights were drawn."""
    from fastclip.report.numbers import RANDOM

    warning = f" — {RANDOM}" if source.recipe.random_weights else ""
    return f"{source.target.name} by {source.recipe.backbone}: accuracy, %, {rest}{warning}"


def _about(seconds: float) -> str:
    from fastclip.cli.forecast import duration

    return duration(seconds)
