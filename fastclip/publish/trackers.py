"""The one interface of all trackers, as the process that holds their library sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from fastclip.publish.runs import Scalar, TrackedRun

Files: TypeAlias = Mapping[str, str]
"""Name → text."""


class Row(NamedTuple):
    """The metrics of one step of a training."""

    step: int
    metrics: Mapping[str, float]


class Begun(NamedTuple):
    """The part of a run that a tracker has already."""

    whole: bool = False
    """Whether all of it is there, so that nothing is to be added."""
    step: int = -1
    """The last step that is there."""


@runtime_checkable
class Tracker(Protocol):
    """A place for runs, each of which is begun, and then finished or left."""

    def begin(self, run: TrackedRun, *, live: bool) -> Begun:
        """Open a run. `live`: it is of a training, whose steps come one by one."""

    def log(self, rows: Sequence[Row]) -> None:
        """Add steps, in their order."""

    def finish(self, run: TrackedRun, files: Files) -> None:
        """Add metrics, the table and files, and mark the run as whole."""

    def leave(self) -> None:
        """Leave the run as it is, to be gone on with."""

    def where(self) -> str:
        """The place where a user finds the run, or runs; empty if nobody knows."""


def table_text(run: TrackedRun) -> str:
    """The notes and the table of a run as Markdown."""
    from fastclip.report.markdown import escape, row

    shown = [[_shown(value) for value in each] for each in run.rows]
    table = [row(map(escape, run.headers)), row([":---"] * len(run.headers)), *(row(map(escape, e)) for e in shown)]
    return "\n".join([*(f"- {escape(note)}" for note in run.notes), "", *(table if run.rows else ())])


def _shown(value: Scalar) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
