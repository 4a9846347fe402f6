"""`fastclip track` with the real trackers, which say themselves what they hold. They live in .venv-trackers."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from drawn_results import evaluation
from helpers import REPOSITORY
from test_track_training import PER_EPOCH, expected, publish, train

from fastclip.files import write_whole
from fastclip.finetune.log import LOG, open_log
from fastclip.publish.runs import TrackedRun, runs_of
from fastclip.results.files.result import to_json

PYTHON = REPOSITORY / ".venv-trackers" / "bin" / "python"
PROMPTS = {
    "photo": ("a photo of a {}",),
    "long": tuple(f"a {'very ' * each}good photo of a {{}}" for each in range(99)),
}
TARGETS = ("tensorboard:tb", "mlflow:exp@ml", "trackio:proj", "wandb:proj")


@dataclass(frozen=True)
class Tracked:
    runs: dict[str, TrackedRun]
    result: str
    outs: list[str]
    held: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    """A result, and a training of which half was there when they were tracked first; then they are tracked again."""
    if not PYTHON.exists():
        pytest.skip("no .venv-trackers: `make test` sets it up")
    folder = tmp_path_factory.mktemp("trackers")
    result = evaluation(("pacs",), ("RN50",), prompts=PROMPTS)
    write_whole(folder / "r" / "result.json", to_json(result))
    words = ["track", "r", "run", *(word for each in TARGETS for word in ("--to", each))]
    with open_log(folder / "run" / LOG, 0, 0) as log:
        train(log, 0, 5)
        outs = [_python(folder, "-m", "fastclip", *words)]
        train(log, 5, 9)
    publish(folder / "run")
    outs.append(_python(folder, "-m", "fastclip", *words))
    held = json.loads(_python(folder, REPOSITORY / "tests" / "trackers" / "read_back.py", folder))
    return Tracked({run.name: run for run in runs_of(result)}, to_json(result).decode(), outs, held)


def _python(folder: Path, *words: object) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(folder / "t"),
    }
    ended = subprocess.run(
        [PYTHON, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_tracker_takes_the_runs_and_a_second_time_adds_nothing(tracked: Tracked):
    first, second = ([line.partition(" → ")[0] for line in out.splitlines()] for out in tracked.outs)
    assert first == [f"{each}: 3 runs tracked" for each in TARGETS]
    assert second == [f"{each}: 1 run tracked, 2 there already" for each in TARGETS]


def names(tracked: Tracked, held: dict[str, Any]) -> dict[str, Any]:
    """The held runs by the names of ours, which they begin with or are."""
    return {name: next(each for key, each in held.items() if key.startswith(name)) for name in tracked.runs}


def test_tensorboard_reads_metrics_facts_and_table(tracked: Tracked):
    held = tracked.held["tensorboard"]
    for name, run in tracked.runs.items():
        found = next(each for key, each in held.items() if key.endswith(run.id[:8]))
        assert found["metrics"] == {key: [[0, pytest.approx(value, rel=1e-6)]] for key, value in run.metrics.items()}
        assert found["config"] == {key: value for key, value in run.config.items() if value is not None}
        assert found["files"] == ["result.json"] and "| pacs | sketch |" in found["table"][0], name


def test_mlflow_reads_metrics_params_table_and_artifacts(tracked: Tracked):
    for name, run in tracked.runs.items():
        found = tracked.held["mlflow"][name]
        assert found["metrics"] == {key: [[0, value]] for key, value in run.metrics.items()}
        wanted = {key: str(value) for key, value in run.config.items() if value is not None}
        for key, value in wanted.items():
            text = found["config"][key]
            cut = f"… ({len(value):,} letters, cut)"
            assert text == value or (text.endswith(cut) and value.startswith(text[: -len(cut)]) and len(text) == 500)
        assert found["files"]["result.json"] == tracked.result
        assert json.loads(found["files"]["table.json"])["data"] == run.rows
        assert not any(key.startswith(("mlflow.source", "mlflow.user")) for key in found["tags"])
    assert "letters, cut" in tracked.held["mlflow"]["pacs: RN50, long"]["config"]["templates"]


def test_trackio_reads_metrics_and_facts(tracked: Tracked):
    for name, found in names(tracked, tracked.held["trackio"]).items():
        run = tracked.runs[name]
        assert found["config"].items() >= run.config.items()
        (row,) = found["logs"]
        assert {key: row[key] for key in run.metrics} == run.metrics and row["step"] == 0


def test_wandb_wrote_metrics_facts_and_artifacts_and_nothing_of_this_machine(tracked: Tracked):
    for name, run in tracked.runs.items():
        (found,) = tracked.held["wandb"][name]
        assert found["id"] == run.id and found["host"] == ""
        config = {key: each for key, each in found["config"].items() if key != "_wandb"}
        assert config == run.config
        assert {key: found["metrics"][0][key] for key in run.metrics} == run.metrics
        assert found["summary"].items() >= run.metrics.items()
        assert ["result", ["result.json"]] in found["artifacts"]


def test_trackers_hold_each_step_of_a_training_once(tracked: Tracked):
    wanted = expected(9)
    losses = [[step, row["train/loss"]] for step, row in wanted.items()]
    epochs = [[step, row["epoch/accuracy"]] for step, row in wanted.items() if step % PER_EPOCH == 0]
    board = next(each for name, each in tracked.held["tensorboard"].items() if name.startswith("run-"))
    for found, near in ((board["metrics"], 1e-6), (tracked.held["mlflow"]["run"]["metrics"], 0)):
        assert found["train/loss"] == [[step, pytest.approx(loss, rel=near)] for step, loss in losses]
        assert found["epoch/accuracy"] == [[step, pytest.approx(share, rel=near)] for step, share in epochs]
    rows = next(each for name, each in tracked.held["trackio"].items() if name.startswith("run "))["logs"]
    assert [[row["step"], row["train/loss"]] for row in rows] == losses
    # Offline, wandb cannot say what it has: another session holds all steps, and the server puts them into one run.
    held = {row["_step"]: row["train/loss"] for each in tracked.held["wandb"]["run"] for row in each["metrics"]
            if "train/loss" in row}  # fmt: skip
    assert sorted(map(list, held.items())) == losses
    assert all(each["config"].get("weights") == "f" * 64 for each in tracked.held["wandb"]["run"][-1:])
