"""The lines under a table about prompt sets that were chosen: by which labels, and whether those are tested."""

from __future__ import annotations

from collections.abc import Iterator

from fastclip.errors import printable
from fastclip.results.cells import Evaluation, UsedPrompts
from fastclip.results.comparing.caveats import is_chosen_on

_SHOWN = 6
"""Domains that a line names."""


def prompt_notes(evaluation: Evaluation) -> list[str]:
    """A line for each prompt set that was chosen, and one for those of its tested images that chose it."""
    return [
        printable(line) for name, used in evaluation.prompts.items() if used.selection
        for line in _lines(evaluation, name, used)
    ]  # fmt: skip


def _lines(evaluation: Evaluation, name: str, used: UsedPrompts) -> Iterator[str]:
    places = used.selection.get("selected_on") if used.selection else None
    of = f" of {_listed([str(each) for each in places])}" if isinstance(places, list | tuple) and places else ""
    if not used.uses_labels:
        yield f"prompts {name}: chosen without labels, by the images{of}."
        return
    yield f"prompts {name}: chosen with labels{of}, so that its rows are not zero-shot."
    tested = [
        f"{cell.dataset}/{cell.domain}"
        for cell in evaluation.cells
        if cell.prompts == name and is_chosen_on(evaluation, cell.column, cell.dataset, cell.domain)
    ]
    if tested:
        yield (
            f"prompts {name}: its numbers on {_listed(list(dict.fromkeys(tested)))} are no measure of new images: "
            "these images chose it."
        )


def _listed(places: list[str]) -> str:
    return ", ".join(places[:_SHOWN]) + (f" and {len(places) - _SHOWN:,} more" if len(places) > _SHOWN else "")
