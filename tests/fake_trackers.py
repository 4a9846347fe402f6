"""Trackers that are drawn: one that keeps all that it is given, and ones that fail in every way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KEEPS = """
import json, os
from pathlib import Path

PATH = Path(os.environ["FAKE_TRACKIO"])
print("noise of the library")

def _note(*words):
    with PATH.open("a") as file:
        file.write(json.dumps(words) + "\\n")

def _noted():
    return [json.loads(line) for line in PATH.read_text().splitlines()] if PATH.exists() else []

class Artifact:
    def __init__(self, name, type):
        self.files = []
    def add_file(self, path):
        self.files.append([Path(path).name, Path(path).read_text()])

class Markdown(str):
    pass

class Run:
    def __init__(self, name):
        self.name = name
        steps = [each[2] for each in _noted() if each[:2] == ["log", name]]
        self._initial_last_step = max(steps, default=None)
    def log(self, metrics, step):
        _note("log", self.name, step, metrics)
    def log_artifact(self, artifact):
        _note("files", self.name, artifact.files)
    def finish(self):
        print("more noise")

def init(project, name, config, **options):
    _note("init", name, config)
    return Run(name)
"""
"""trackio's own calls, and a file with a line for each."""

FAILS = {
    "raises": ("raise RuntimeError('no network')", "RuntimeError: no network"),
    "exits": ("raise SystemExit(7)", "SystemExit: 7"),
    "ends its process": ("import os; os._exit(3)", "exit code 3"),
    "hangs": ("import time; time.sleep(600)", "no answer within 2 s"),
    "deaf": ("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)", "no answer within 2 s"),
    "reads": ("raise RuntimeError(repr(input()))", "EOFError"),
}
"""The body of a module called wandb → words of the error."""


def draw_trackers(folder: Path, body: str) -> Path:
    """A folder with a tracker `trackio` that keeps everything, and a `wandb` with this body."""
    folder.mkdir(exist_ok=True)
    (folder / "trackio.py").write_text(KEEPS)
    (folder / "wandb.py").write_text(body)
    return folder


def kept(path: Path) -> list[Any]:
    """The calls that the fake trackio has noted."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
