"""Runs that are kept: a folder each, with the result, the predictions and, beside them, when and where it was made.

results/eval-pacs-RN50-1f0c92ab/result.json           equal work gives equal bytes, and the same folder
results/eval-pacs-RN50-1f0c92ab/predictions.parquet
results/eval-pacs-RN50-1f0c92ab/run.json              time, host, command and versions

Listing them needs no NumPy, as keeping one does.
"""

from __future__ import annotations

import json
import platform
import re
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastclip.files import digest, is_copy, read_file, write_over
from fastclip.results.cells import Evaluation
from fastclip.results.files.result import RESULT, to_json

if TYPE_CHECKING:
    from fastclip.results.answers import ShardAnswers

RUN = "run.json"
RUN_SCHEMA = "fastclip.run/1"
MOST_NAMED = 2
"""Datasets, or backbones, that are named in a folder's name."""


@dataclass(frozen=True)
class Run:
    """One run of a command, as far as it is not in its result."""

    command: str
    """The name of the command: eval, probe, adapt."""
    words: Sequence[str]
    """The command line."""
    started: datetime
    seconds: float

    def to_json(self) -> bytes:
        """The file `run.json`."""
        document: Mapping[str, Any] = {
            "schema": RUN_SCHEMA,
            "command": list(self.words),
            "started": self.started.astimezone(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 3),
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "python": sys.version.split()[0],
        }
        return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def keep_run(
    folder: Path, run: Run, evaluation: Evaluation, answers: Sequence[ShardAnswers]
) -> tuple[Path, Evaluation]:
    """Keep a run in a folder below `folder`; its path, and the evaluation with the facts of its predictions."""
    from fastclip.results.files.predictions import PREDICTIONS, write_predictions

    place = folder / run_name(run.command, evaluation)
    evaluation = replace(evaluation, predictions=write_predictions(place / PREDICTIONS, answers, evaluation))
    write_over(place / RESULT, to_json(evaluation))
    write_over(place / RUN, run.to_json())
    return place, evaluation


def with_predictions(evaluation: Evaluation, answers: Iterable[ShardAnswers]) -> Evaluation:
    """The evaluation with the facts of its predictions, wherever they are written."""
    from fastclip.results.files.predictions import digest_predictions

    return replace(evaluation, predictions=digest_predictions(answers, evaluation))


@dataclass(frozen=True)
class KeptRun:
    """The folder of one run."""

    path: Path
    started: datetime | None
    """None where nothing says so."""


def find_runs(folder: Path) -> list[KeptRun]:
    """The runs in a folder, the newest first; by name where no time is known."""
    runs = [
        KeptRun(path.parent, _started(path.parent / RUN))
        for path in sorted(folder.glob(f"*/{RESULT}"))
        if not is_copy(path.parent.name)
    ]
    return sorted(runs, key=lambda run: run.started.timestamp() if run.started else 0.0, reverse=True)


def _started(path: Path) -> datetime | None:
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        started = datetime.fromisoformat(json.loads(read_file(path))["started"])
        started.astimezone().timestamp()  # which a year 1 has not
        return started
    return None


def run_name(command: str, evaluation: Evaluation) -> str:
    """The command, datasets, backbones and a digest of all counts: the same for equal work."""
    counts = to_json(replace(evaluation, predictions=None))
    datasets = _named([each.name for each in evaluation.datasets], "datasets")
    backbones = _named(list(dict.fromkeys(each.backbone for each in evaluation.recipes)), "backbones")
    words = re.sub("[^A-Za-z0-9._+-]+", "-", f"{command}-{datasets}-{backbones}")[:100]
    return f"{words}-{digest(counts)[:8]}"


def _named(names: Sequence[str], noun: str) -> str:
    return "+".join(names) if len(names) <= MOST_NAMED else f"{len(names)}-{noun}"
