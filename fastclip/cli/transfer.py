"""The run of `probe` and `adapt`: a forecast, a bar, tables with their notes, and files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fastclip.cli.console import counted, err, out
from fastclip.cli.results import find_places
from fastclip.destinations import check_place
from fastclip.errors import EXIT_UNREADABLE, UserError, needs_torch
from fastclip.files import digest, read_file, write_whole

if TYPE_CHECKING:
    from fastclip.transfer.fitting import FittedHead
    from fastclip.transfer.run import Outcome, Plan

LONGEST_NAME = 150
"""Letters of a head's file name: file systems take 255 bytes, and temporary files add some."""
SAID_FROM_S = 10
"""A run that is forecast to take longer says so before it begins."""


def run_and_print(
    plan: Plan,
    *,
    command: str,
    results: Path,
    json: Path | None,
    predictions: Path | None,
    save: Path | None = None,
    by_pair: bool = False,
    device: str | None = None,
) -> None:
    """Fit, score and print; write what is asked for. Raises `typer.Exit` if unreadable images await a decision.

    Of several processes the first one does all of it: fitting is not shared, and takes seconds.
    """
    if not plan.setup.process.reports:
        return
    from fastclip.cli.progress import progress_bar
    from fastclip.transfer.forecast import forecast_s
    from fastclip.transfer.run import run

    messages = err()
    places = find_places(command, messages, results, json, predictions)
    if save:
        check_place(save / "head")
    fits = len(plan.jobs) * len(plan.setup.backbones)
    seconds = forecast_s(plan)
    if device == "cuda" and not plan.may_use_gpu:
        raise UserError("None of these heads is fitted on a GPU.", fix="Leave out --device, or add --head logistic.")
    if plan.may_use_gpu:
        plan = replace(plan, device=_device(device, seconds))
    if plan.device:
        messages.print(f"{counted(fits, 'head')} to fit, the logistic ones on {plan.device}.")
    elif seconds > SAID_FROM_S:
        messages.print(f"{counted(fits, 'head')} to fit: about {_duration(seconds)} on this machine.")
    with progress_bar(messages, "fitting heads", plan.steps, unit="") as advance:
        outcome = run(plan, lambda: advance(1))
    _print(outcome, by_pair)
    places.keep(outcome.evaluation, outcome.answers, messages)
    if save:
        for path in _save(save, [each for of_backbone in outcome.heads.values() for each in of_backbone]):
            messages.print(str(path), soft_wrap=True)
    if outcome.evaluation.undecided:
        raise typer.Exit(EXIT_UNREADABLE)


def _device(asked: str | None, seconds: float) -> str | None:
    """The GPU to fit on: if it is asked for, or is there and the fits are long enough to load PyTorch."""
    if asked == "cpu" or (asked is None and seconds <= SAID_FROM_S):
        return None
    try:
        with needs_torch():
            from fastclip.models.numerics import find_device
    except UserError:
        if asked:
            raise
        return None
    found = find_device(asked, 0)
    return None if found.type == "cpu" else str(found)


def _print(outcome: Outcome, by_pair: bool) -> None:
    from fastclip.report.head_notes import head_notes
    from fastclip.report.heads import fit_table, head_tables, pair_tables
    from fastclip.report.prompt_notes import prompt_notes
    from fastclip.report.terminal import footnotes
    from fastclip.report.training_notes import training_notes

    console = out()
    for each in (pair_tables if by_pair else head_tables)(outcome.evaluation):
        console.print(each)
    if table := fit_table(outcome.evaluation):
        console.print(table)
    evaluation = outcome.evaluation
    notes = [*head_notes(evaluation), *prompt_notes(evaluation), *training_notes(evaluation), *footnotes(evaluation)]
    for line in notes:
        console.print(line, style="dim")


def _save(folder: Path, heads: Sequence[FittedHead]) -> list[Path]:
    """Keep heads as files; their paths. Raises `UserError`, and writes none, where another head would be lost."""
    from fastclip.heads.head_files import seal_head

    files = {folder / f"{_file_name(each)}.safetensors": seal_head(each.head, each.facts) for each in heads}
    for path, data in files.items():
        if path.exists() and read_file(path) != data:
            raise UserError(f"{path} holds another head.", fix="--save DIR with another folder, or move that file away")
    for path, data in files.items():
        write_whole(path, data)
    return list(files)


def _file_name(fitted: FittedHead) -> str:
    """The backbone, the head and its training domains; with a digest where letters alone could mean two heads."""
    words = " ".join((fitted.facts.recipe.backbone, fitted.name, "from", fitted.job.fold.name))
    name = re.sub("[^A-Za-z0-9._-]+", "-", words).strip("-")
    domains = [place.domain for place in fitted.job.fold.train]
    if len(name) <= LONGEST_NAME and all(re.fullmatch("[A-Za-z0-9._]+", each) for each in domains):
        return name
    return f"{name[:LONGEST_NAME]}-{digest(words.encode())[:8]}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else counted(minutes, "minute")
