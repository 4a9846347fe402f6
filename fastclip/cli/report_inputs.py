"""All that `fastclip report` reads and works out before it prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastclip.errors import UserError, printable

if TYPE_CHECKING:
    from fastclip.results.answers import PredictionRows
    from fastclip.results.cells import Evaluation
    from fastclip.results.files.kept import KeptResult
    from fastclip.results.published.verdicts import Against


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """One result, or several as one."""

    names: Sequence[str]
    """As the user called them."""
    evaluation: Evaluation
    """Of several results with the patterns of all their columns, where answers were read."""
    merged: Evaluation
    """Of files of results alone: the same, whether answers were read or not."""
    answers: PredictionRows | None


def read_inputs(results: Sequence[Path], predictions: Path | None, *, answers: bool, patterns: bool) -> Inputs:
    """The results at `results`. Answers are read if they are asked for, or for patterns across several results."""
    from fastclip.results.files.together import needed_for_patterns, together

    kept = _kept(results, predictions)
    reading = kept if answers else needed_for_patterns(kept) if patterns and len(kept) > 1 else []
    found = together(kept, reading)
    return Inputs(
        names=[each.name for each in kept], evaluation=found.evaluation, merged=found.merged, answers=found.answers
    )


def _kept(results: Sequence[Path], predictions: Path | None) -> list[KeptResult]:
    """The results that are named, with their predictions; or with those that are given."""
    from fastclip.results.files.kept import find_results

    kept = find_results(results)
    if alone := next((each for each in kept if each.result is None), None):
        raise UserError(f"{alone.name} holds predictions, and no result.", fix="Name the folder of the run.")
    if predictions and len(kept) > 1:
        raise UserError("--predictions is for one result.", fix="Leave it out: those beside the results are read.")
    return [replace(each, predictions=predictions) for each in kept] if predictions else kept


def against(inputs: Inputs, name: str, epsilon: float | None) -> Against:
    """The verdicts against the published table, or against that in a file."""
    from fastclip.results.published.against import against
    from fastclip.results.published.files import find_table

    answers = inputs.answers.domains if inputs.answers else None
    return against(inputs.merged, find_table(name), epsilon=epsilon, answers=answers)


def find_epsilon(text: str) -> float:
    """A lead below which answers are near ties: a number, or the largest that a certificate of verify saw flip.

    Where it saw none, the usual one. Raises `UserError` for anything else.
    """
    from fastclip.faults import named
    from fastclip.files import read_file
    from fastclip.results.cells import NEAR_TIE

    with suppress(ValueError):
        if 0 <= float(text) < 1:
            return float(text)
    try:
        with named(text):
            checks = json.loads(read_file(Path(text)))["checks"]
        leads = [float(each["flipped_lead"]) for each in checks if each.get("flipped_lead") is not None]
        if not all(0 <= each < 1 for each in leads):
            raise ValueError("no two cosines are so far apart")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"--epsilon {printable(text)} is neither a number from 0 to 1 nor a certificate.",
            fix="--epsilon 0.001, or fastclip verify … --json CERTIFICATE",
        ) from None
    return max(leads, default=NEAR_TIE)
