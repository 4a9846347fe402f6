"""Trackers as users name them: wandb:PROJECT, mlflow:EXPERIMENT@URI, tensorboard:DIR, trackio:PROJECT."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fastclip.errors import UserError
from fastclip.publish.secrets import without_secrets

TRACKERS = {
    "wandb": "wandb:PROJECT",
    "mlflow": "mlflow:EXPERIMENT",
    "tensorboard": "tensorboard:DIR",
    "trackio": "trackio:PROJECT",
}
"""Trackers, which are called as their libraries are, and how one is written."""


@dataclass(frozen=True)
class Target:
    """A tracker, and the place in it."""

    tracker: str
    place: str
    """The project, experiment or folder."""
    server: str = ""
    """Of MLflow, a URI or a folder; empty for the one that MLflow's own settings name."""

    @property
    def uri(self) -> str | None:
        """The server as MLflow takes it. In a folder, that is its database; None for MLflow's own settings."""
        if not self.server or re.match(r"[a-z][a-z0-9+.-]*:|databricks$", self.server):
            return self.server or None
        return f"sqlite:///{Path(self.server).absolute() / 'mlflow.db'}"

    def __str__(self) -> str:
        """The target as it is printed: without a password."""
        return without_secrets(f"{self.tracker}:{self.place}{self.server and '@'}{self.server}")


def find_targets(texts: Sequence[str]) -> list[Target]:
    """The targets that are named. Raises `UserError` for an unknown one, and where the library of one is missing."""
    if not texts:
        raise UserError("No tracker is named.", fix=f"--to {' | '.join(TRACKERS.values())}")
    targets = list(dict.fromkeys(map(_target, texts)))
    missing = list(dict.fromkeys(each.tracker for each in targets if not _is_installed(each.tracker)))
    if missing:
        raise UserError(f"Not installed: {' and '.join(missing)}.", fix=f"pip install {' '.join(missing)}")
    return targets


def _target(text: str) -> Target:
    tracker, _, place = text.partition(":")
    server = ""
    if tracker == "mlflow":
        place, _, server = place.partition("@")
    if tracker not in TRACKERS or not place:
        raise UserError(f"--to {without_secrets(text)} names no tracker.", fix=f"--to {' | '.join(TRACKERS.values())}")
    return Target(tracker, place, server)


def _is_installed(library: str) -> bool:
    """Whether a library can be imported. A folder of its name, which wandb makes where it runs, is none."""
    spec = find_spec(library)
    return spec is not None and spec.origin is not None
