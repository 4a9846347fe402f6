"""Weights scored beside those that they come from, one after the other: embedding under a bar, and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from fastclip.evaluate.setup import Setup
    from fastclip.results.cells import Evaluation


def embed_with_bar(setup: Setup, messages: Console) -> None:
    """Embed all that is missing. Raises the error of the first shard that cannot be embedded."""
    from fastclip.cli.progress import progress_bar
    from fastclip.evaluate.embedding import embed, missing_units, share_images

    missing = missing_units(setup)
    if not missing:
        return
    weights = "".join(f", {each.path.name}" for each in setup.weights.values() if each.path)
    with progress_bar(messages, f"embedding{weights}", share_images(setup, missing)) as advance:
        done = embed(setup, advance)
    if done.failures:
        raise done.failures[0]


def print_beside(evaluation: Evaluation, notes: Sequence[str] = ()) -> None:
    """The tables, and under them `notes` and those that the numbers need."""
    from fastclip.cli.console import out
    from fastclip.report.document import average_notes
    from fastclip.report.head_notes import head_notes
    from fastclip.report.heads import fit_table, head_tables
    from fastclip.report.prompt_notes import prompt_notes
    from fastclip.report.tables import accuracy_tables
    from fastclip.report.terminal import footnotes
    from fastclip.report.training_notes import training_notes

    console = out()
    for each in head_tables(evaluation):
        console.print(each)
    if table := fit_table(evaluation):
        console.print(table)
    selected = [*prompt_notes(evaluation), *training_notes(evaluation)]
    below = [*average_notes(accuracy_tables(evaluation)), *notes, *selected, *head_notes(evaluation)]
    for text in [*below, *footnotes(evaluation)]:
        console.print(text, style="dim")
