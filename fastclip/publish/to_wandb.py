"""Runs for Weights & Biases: to its server, or with WANDB_MODE=offline into a folder that `wandb sync` sends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastclip.publish.runs import TrackedRun
from fastclip.publish.targets import Target
from fastclip.publish.trackers import Begun, Files, Row

WHOLE = "fastclip/whole"
"""In the summary of a run: that all of it is there."""
MARK = "fastclip.whole"
"""The empty file that says the same of an offline run, which has no summary that can be asked."""


class Wandb:
    """A project of a user or team."""

    def __init__(self, target: Target) -> None:
        import wandb

        entity, _, self._project = target.place.rpartition("/")
        self._entity = entity or None
        # Nothing of this machine is sent: no code, no packages, no host, no measurements of the processor.
        self._settings = wandb.Settings(
            console="off", silent=True, disable_code=True, disable_git=True, disable_job_creation=True, save_code=False,
            program="fastclip", host="", x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
            x_save_requirements=False,
        )  # fmt: skip
        self._run: Any = None
        self._place = ""

    def begin(self, run: TrackedRun, *, live: bool) -> Begun:
        """Go on with the run of this id, or create it, unless all of it is there."""
        import wandb

        offline = wandb.setup().settings.mode in ("offline", "dryrun")
        if self._is_whole(run.id, offline):
            return Begun(whole=True)
        self._run = wandb.init(
            project=self._project,
            entity=self._entity,
            id=run.id,
            name=run.name,
            config=dict(run.config),
            notes="\n".join(run.notes),
            resume=None if offline else "allow",
            settings=self._settings,
        )
        folder = os.path.relpath(Path(self._run.settings.sync_dir).parent)
        self._place = f"wandb sync {folder}/offline-run-*" if offline else self._run.url
        return Begun(step=self._run.step - 1)

    def _is_whole(self, name: str, offline: bool) -> bool:
        import wandb

        if offline:
            folder = Path(wandb.setup().settings.wandb_dir)
            return any(folder.glob(f"offline-run-*-{name}/{MARK}"))
        with suppress(wandb.errors.CommError, ValueError):  # there is no such run
            path = "/".join(filter(None, (self._entity, self._project, name)))
            found = wandb.Api().run(path)
            self._place = found.url
            return bool(found.summary.get(WHOLE))
        return False

    def log(self, rows: Sequence[Row]) -> None:
        """Add steps. Those before the last one that is there would be dropped by wandb."""
        for row in rows:
            self._run.log(dict(row.metrics), step=row.step)

    def finish(self, run: TrackedRun, files: Files) -> None:
        """Add the table and metrics, and files as an artifact."""
        import wandb

        self._run.config.update(dict(run.config), allow_val_change=True)
        if run.rows:
            table = wandb.Table(columns=list(run.headers), data=[list(row) for row in run.rows])
            self._run.log({**run.metrics, "table": table})
        if files:
            artifact = wandb.Artifact(f"result-{run.id}", type="result")
            for name, text in files.items():
                with artifact.new_file(name, mode="w", encoding="utf-8") as file:
                    file.write(text)
            self._run.log_artifact(artifact)
        self._run.summary.update({**run.metrics, WHOLE: True})
        folder, offline = Path(self._run.settings.sync_dir), self._run.offline
        self._run.finish()
        if offline:
            (folder / MARK).touch()

    def leave(self) -> None:
        """Send what is waiting. The same id goes on with the run later."""
        self._run.finish()

    def where(self) -> str:
        """The address of the last run; offline, the command that sends them."""
        return self._place
