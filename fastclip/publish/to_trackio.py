"""Runs for trackio, in its local database, or where its own settings send them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from fastclip.publish.runs import TrackedRun
from fastclip.publish.targets import Target
from fastclip.publish.trackers import Begun, Files, Row, table_text


class Trackio:
    """A project."""

    def __init__(self, target: Target) -> None:
        self._project = target.place

    def begin(self, run: TrackedRun, *, live: bool) -> Begun:
        """Go on with the run of this name, or create it. All of a result comes in one step, or not at all."""
        import trackio

        self._run = trackio.init(
            project=self._project,
            name=f"{run.name} {run.id[:8]}",
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        last = self._run._initial_last_step  # nothing public tells it
        return Begun(whole=not live and last is not None, step=-1 if last is None else last)

    def log(self, rows: Sequence[Row]) -> None:
        """Add steps."""
        for row in rows:
            self._run.log(dict(row.metrics), step=row.step)

    def finish(self, run: TrackedRun, files: Files) -> None:
        """Add files, then metrics and the table."""
        import trackio

        with tempfile.TemporaryDirectory(prefix="fastclip-") as folder:
            if files:
                artifact = trackio.Artifact(f"result-{run.id}", type="result")
                for name, text in files.items():
                    path = Path(folder) / name
                    path.write_text(text, encoding="utf-8")
                    artifact.add_file(str(path))
                self._run.log_artifact(artifact)
            if run.metrics and run.rows:
                self._run.log({**run.metrics, "table": trackio.Markdown(table_text(run))}, step=0)
            self._run.finish()

    def leave(self) -> None:
        """Send what is waiting."""
        self._run.finish()

    def where(self) -> str:
        """The command that shows them."""
        return f"trackio show --project {self._project}"
