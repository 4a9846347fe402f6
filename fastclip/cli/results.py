"""The files of a run: where its result and predictions are kept, and how the user is told."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastclip.destinations import check_place
from fastclip.errors import UserError
from fastclip.files import write_whole

if TYPE_CHECKING:
    from rich.console import Console

    from fastclip.results.answers import ShardAnswers
    from fastclip.results.cells import Evaluation

DEFAULT = Path("results")


@dataclass(frozen=True)
class Places:
    """Where a run's files go. Made before the work begins, so that what cannot be written is known at once."""

    command: str
    folder: Path | None
    """Of all runs; None where nothing can be written."""
    json: Path | None
    predictions: Path | None
    started: float
    more: Callable[[Evaluation], Mapping[str, Any]] = lambda evaluation: {}
    """Further entries of the file `json`."""

    def keep(self, evaluation: Evaluation, answers: Sequence[ShardAnswers], messages: Console) -> None:
        """Write the files of a run. One that is not complete is in no folder: the next run will be."""
        from fastclip.results.files.predictions import write_predictions
        from fastclip.results.files.result import to_json
        from fastclip.results.files.runs import Run, keep_run, with_predictions

        if self.folder and evaluation.complete:
            seconds = time.time() - self.started
            run = Run(self.command, sys.argv, datetime.fromtimestamp(self.started, timezone.utc), seconds)
            place, evaluation = keep_run(self.folder, run, evaluation, answers)
            messages.print(f"Result kept: fastclip report {shlex.quote(str(place))}", soft_wrap=True)
        elif self.json:
            evaluation = with_predictions(evaluation, answers)
        if self.predictions:
            write_predictions(self.predictions, answers, evaluation)
        if self.json:
            write_whole(self.json, to_json(evaluation, **self.more(evaluation)))

    def place_of(self, evaluation: Evaluation) -> Path:
        """The folder in which a run is kept."""
        from fastclip.results.files.runs import run_name

        assert self.folder, "nothing is kept"
        return self.folder / run_name(self.command, evaluation)


def find_places(command: str, messages: Console, folder: Path, json: Path | None, predictions: Path | None) -> Places:
    """The places of a run's files. Raises `UserError` for one that cannot be written; only the default may be."""
    json, predictions = (Path("/dev/stdout") if str(path) == "-" else path for path in (json, predictions))
    for path in filter(None, (json, predictions)):
        check_place(path)
    found: Path | None = folder
    try:
        check_place(folder / "run" / "result.json")
    except UserError:
        if folder != DEFAULT:
            raise
        messages.print("This folder cannot be written to, so the result is only printed. --results DIR keeps it.")
        found = None
    return Places(command, found, json, predictions, time.time())
