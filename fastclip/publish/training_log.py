"""The live log of a fine-tuning, read from another process: its steps in their order, each of them once."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastclip.errors import IntegrityError, UserError, printable
from fastclip.files import canonical_json, digest, read_file
from fastclip.publish.runs import Scalar, TrackedRun, run_id
from fastclip.publish.sending import Sender, Sent
from fastclip.publish.trackers import Row

LOG, FACTS = "log.jsonl", "finetune.json"
"""As `finetune` calls them, which needs torch."""

MOST_ROWS = 200
"""Steps that are sent at once."""
POLL_S = 1.0
"""Seconds between two looks at a log."""
NOT_FINITE = "not finite"
"""The event that ends a training without weights."""


@dataclass(frozen=True)
class TrainingFiles:
    """The files of a fine-tuning in its folder."""

    folder: Path

    @property
    def log(self) -> Path:
        """A line a step."""
        return self.folder / LOG

    @property
    def facts(self) -> Path:
        """Published last: it is there when the training has ended."""
        return self.folder / FACTS

    @property
    def name(self) -> str:
        """The name of the folder, which names the work."""
        return printable(self.folder.absolute().name)


class LogReader:
    """Reads a log that grows, and that a training which goes on after a crash writes anew from its checkpoint on."""

    def __init__(self, path: Path) -> None:
        self._path, self._file, self._done = path, 0, 0
        self._waiting: Row | None = None
        self.failed = False
        """Whether the training ended because of a number that is not finite."""

    def rows(self, *, ended: bool) -> Iterator[Row]:
        """The rows that were added, one a step. The last step waits, as its epoch may follow, unless all has `ended`.

        After a restart of the training they begin anew; the steps say which ones were there.
        """
        for event in self._events():
            self.failed = event.get("event") == NOT_FINITE
            row = _row(event)
            if row is None:
                continue
            waiting = self._waiting
            if waiting and waiting.step == row.step:
                row = Row(row.step, {**waiting.metrics, **row.metrics})
            elif waiting:
                yield waiting
            self._waiting = row
        if (ended or self.failed) and self._waiting:
            yield self._waiting
            self._waiting = None

    def _events(self) -> Iterator[dict[str, Any]]:
        """The whole lines that were added."""
        try:
            with self._path.open("rb") as file:
                there = os.fstat(file.fileno())
                if there.st_ino != self._file or there.st_size < self._done:
                    self._file, self._done, self._waiting = there.st_ino, 0, None
                file.seek(self._done)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._done += len(whole)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue  # torn by a crash: the restart writes it again
            if isinstance(event, dict):
                yield event


def _row(event: dict[str, Any]) -> Row | None:
    step = event.get("step")
    if type(step) is not int or step < 0:
        return None
    if event.get("event") == "step":
        found = {"train/lr": event.get("lr"), "train/loss": event.get("loss"), "train/epoch": event.get("epoch")}
    elif event.get("event") == "epoch":
        right, images = event.get("right"), event.get("images")
        share = right / images if isinstance(right, int) and isinstance(images, int) and images > 0 else None
        found = {"epoch/number": event.get("epoch"), "epoch/loss": event.get("loss"), "epoch/accuracy": share}
    else:
        return None
    metrics = {name: float(v) for name, v in found.items() if isinstance(v, int | float) and math.isfinite(v)}
    return Row(step, metrics) if metrics else None


def read_facts(files: TrainingFiles) -> TrackedRun | None:
    """The run of a training with all that is published of it; None while it is under way."""
    begun = begun_run(files)
    try:
        document = json.loads(read_file(files.facts))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        document = None
    try:
        said = document.pop("digest")
        if digest(canonical_json(document)) != said:
            raise ValueError("its digest differs")
        training, recipe = document["training"], document["recipe"]
        config: dict[str, Scalar] = {
            "weights": document["weights"],
            "precision": document["precision"],
            "base_weights": training["base"],
            "backbone": training["backbone"],
            "trained_on": ", ".join(f"{each['dataset']}/{each['domain']}" for each in training["domains"]),
            "images": training["images"],
            "prompts": training["prompts"],
            "selected": training["selected"],
            **{f"recipe/{name}": each for name, each in recipe.items() if isinstance(each, str | int | float | bool)},
        }
        metrics = {"chosen/epoch": float(training["epoch"])}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{files.facts} cannot be used: {error}.",
            fix=f"Delete {files.folder}; the same command trains anew.",
        ) from None
    safe = {name: printable(each) if isinstance(each, str) else each for name, each in config.items()}
    return replace(begun, config={**begun.config, **safe}, metrics=metrics)


def begun_run(files: TrainingFiles) -> TrackedRun:
    """The run of a training that is under way, which has a name and nothing else yet."""
    return TrackedRun(id=run_id("finetune", files.name), name=files.name, config={"training": files.name}, metrics={})


def send_training(files: TrainingFiles, sender: Sender, sent: Sent, stopping: threading.Event, *, follow: bool) -> None:
    """Add the steps that a target does not have; with `follow` until the training ends, or `stopping` is set."""
    reader = LogReader(files.log)
    begun, sent.where = sender.begin(read_facts(files) or begun_run(files), live=True)
    last, added = begun.step, begun.step < 0
    if begun.whole:
        sent.there += 1
        return
    while True:
        facts = read_facts(files)  # before the log, so that nothing comes between
        rows = []
        for row in reader.rows(ended=facts is not None):
            if row.step > last:
                rows.append(row)
                last = row.step
        for start in range(0, len(rows), MOST_ROWS):
            sender.log(rows[start : start + MOST_ROWS])
            sent.step = rows[start : start + MOST_ROWS][-1].step
        added |= bool(rows)
        if facts or reader.failed or not follow or stopping.wait(POLL_S):
            break
    sent.where = sender.finish(facts, {}) if facts else sender.leave()
    if reader.failed:
        sent.note = "the training ended at a number that is not finite"
    sent.new += added
    sent.there += not added


def check_training(files: TrainingFiles, *, follow: bool) -> None:
    """Raise `UserError` if there is nothing to track, and `IntegrityError` if what is published is damaged."""
    if not files.log.is_file() and not follow:
        raise UserError(f"There is no log {files.log} yet.", fix="--follow waits for it.")
    read_facts(files)
