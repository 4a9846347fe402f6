"""Runs for MLflow, by its client: its other interface would send the path of the program and the name of the user."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from fastclip.publish.runs import Scalar, TrackedRun
from fastclip.publish.targets import Target
from fastclip.publish.trackers import Begun, Files, Row

ID, WHOLE = "fastclip.id", "fastclip.whole"
"""Tags: the id of a run, by which it is found again; and that all of it is there."""
MOST_PARAMS, MOST_METRICS = 100, 1000
"""Of one call."""
MOST_LETTERS = 500
"""Of a parameter's value: older servers take no more."""

T = TypeVar("T")


class Mlflow:
    """An experiment."""

    def __init__(self, target: Target) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=target.uri)
        found = self._client.get_experiment_by_name(target.place)
        self._experiment = found.experiment_id if found else self._create(target)

    def _create(self, target: Target) -> str:
        beside = None
        if target.uri and target.uri.startswith("sqlite:///"):  # or it would be a folder where the program runs
            beside = (Path(target.uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
        return str(self._client.create_experiment(target.place, artifact_location=beside))

    def begin(self, run: TrackedRun, *, live: bool) -> Begun:
        """Find the run by its tag, or create it. A result that was sent by half is sent anew."""
        for found in self._client.search_runs([self._experiment], f"tags.`{ID}` = '{run.id}'"):
            self._run = found.info.run_id
            if found.data.tags.get(WHOLE):
                return Begun(whole=True)
            if live:
                history = self._client.get_metric_history(self._run, "train/loss")
                return Begun(step=max((each.step for each in history), default=-1))
            self._client.delete_run(self._run)
        created = self._client.create_run(self._experiment, tags={ID: run.id}, run_name=run.name)
        self._run = created.info.run_id
        return Begun()

    def log(self, rows: Sequence[Row]) -> None:
        """Add metrics. The loss goes last: by it `begin` tells which steps are there."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        values = [Metric(name, value, now, row.step) for row in rows for name, value in row.metrics.items()]
        values.sort(key=lambda each: each.key == "train/loss")
        for some in _parts(values, MOST_METRICS):
            self._client.log_batch(self._run, metrics=some)

    def finish(self, run: TrackedRun, files: Files) -> None:
        """Add parameters, metrics, the table as MLflow's page shows one, and files."""
        from mlflow.entities import Metric, Param, RunTag

        client, now = self._client, int(time.time() * 1000)
        params = [Param(name, _short(value)) for name, value in run.config.items() if value is not None]
        for some in _parts(params, MOST_PARAMS):
            client.log_batch(self._run, params=some)
        for metrics in _parts([Metric(name, value, now, 0) for name, value in run.metrics.items()], MOST_METRICS):
            client.log_batch(self._run, metrics=metrics)
        tags = [RunTag("mlflow.note.content", _notes(run))] if run.notes else []
        if run.rows:
            client.log_text(self._run, json.dumps({"columns": run.headers, "data": run.rows}), "table.json")
            tags.append(RunTag("mlflow.loggedArtifacts", json.dumps([{"path": "table.json", "type": "table"}])))
        for name, text in files.items():
            client.log_text(self._run, text, name)
        client.log_batch(self._run, tags=[*tags, RunTag(WHOLE, "yes")])
        client.set_terminated(self._run)

    def leave(self) -> None:
        """Leave the run as running."""

    def where(self) -> str:
        """The address of the tracking server, or the command that starts one."""
        uri = str(self._client.tracking_uri)
        return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def _parts(values: Sequence[T], most: int) -> Iterator[list[T]]:
    rest = iter(values)
    while some := list(islice(rest, most)):
        yield some


def _short(value: Scalar) -> str:
    text = str(value)
    end = f"… ({len(text):,} letters, cut)"
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - len(end)] + end


def _notes(run: TrackedRun) -> str:
    """The notes, which MLflow's page shows as Markdown."""
    from fastclip.report.markdown import escape

    return "\n".join(f"- {escape(note)}" for note in run.notes)
