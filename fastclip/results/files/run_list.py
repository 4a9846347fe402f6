"""Runs that were kept in a folder: which there are, and when they were made. Needs no NumPy, as writing one does."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fastclip.results.files.result import RESULT

RUN = "run.json"


@dataclass(frozen=True)
class KeptRun:
    """The folder of one run."""

    path: Path
    started: datetime | None
    """None where nothing says so."""


def find_runs(folder: Path) -> list[KeptRun]:
    """The runs in a folder, the newest first; by name where no time is known."""
    runs = [KeptRun(path.parent, _started(path.parent / RUN)) for path in sorted(folder.glob(f"*/{RESULT}"))]
    return sorted(runs, key=lambda run: run.started.timestamp() if run.started else 0.0, reverse=True)


def _started(path: Path) -> datetime | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return datetime.fromisoformat(json.loads(path.read_bytes())["started"])
    return None
