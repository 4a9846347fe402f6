"""The process that holds the library of one tracker. Whatever the library does, it does here, and costs nothing.

It answers each line of JSON on standard input by one on standard output; what the library prints is dropped.
"""

from __future__ import annotations

import json
import os
import signal
import traceback
from typing import Any, NoReturn, TextIO

from fastclip.publish.runs import TrackedRun
from fastclip.publish.targets import Target
from fastclip.publish.trackers import Row, Tracker

USUAL = {
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
}
"""Variables of libraries, where the user has not set them."""


def work(questions: TextIO) -> NoReturn:
    """Answer until there are no more questions."""
    answers = _own_output()
    os.environ.update({name: value for name, value in USUAL.items() if name not in os.environ})
    first = json.loads(questions.readline())
    tracker: Tracker | None = None
    for line in questions:
        signal.alarm(first["limit_s"])  # should the process that asks be gone
        try:
            tracker = tracker or _open(Target(**first["target"]))
            answer = _answer(tracker, json.loads(line))
        except BaseException as error:  # a library may even ask to exit
            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)  # what a library does at the end of its process may take for ever


def _open(target: Target) -> Tracker:
    """The tracker of a target. Its library is loaded by it and nowhere else."""
    if target.tracker == "wandb":
        from fastclip.publish.to_wandb import Wandb

        return Wandb(target)
    if target.tracker == "mlflow":
        from fastclip.publish.to_mlflow import Mlflow

        return Mlflow(target)
    if target.tracker == "trackio":
        from fastclip.publish.to_trackio import Trackio

        return Trackio(target)
    from fastclip.publish.to_tensorboard import TensorBoard

    return TensorBoard(target)


def _answer(tracker: Tracker, question: dict[str, Any]) -> dict[str, Any]:
    if question["do"] == "begin":
        begun = tracker.begin(TrackedRun(**question["run"]), live=question["live"])
        return {"whole": begun.whole, "step": begun.step, "where": tracker.where() if begun.whole else ""}
    if question["do"] == "log":
        tracker.log([Row(step, metrics) for step, metrics in question["rows"]])
    elif question["do"] == "finish":
        tracker.finish(TrackedRun(**question["run"]), question["files"])
    else:
        tracker.leave()
    return {"where": tracker.where()}


def _own_output() -> TextIO:
    """Standard output under another number, so that nothing a library prints gets there, and that it reads nothing."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    return answers
