"""The live log of a training: a line of JSON for each step, epoch, checkpoint and start."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from fastclip.files import write_whole

LOG = "log.jsonl"


class Log:
    """Lines to a file, each there as soon as it is written. Without a file they are dropped."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def __call__(self, event: str, **facts: Any) -> None:
        if self._file:
            line = {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **facts}
            with suppress(OSError):  # a full disk: the next checkpoint will say so
                self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
                self._file.flush()


@contextmanager
def open_log(path: Path | None, step: int, epochs: int) -> Iterator[Log]:
    """The log at `path`, to be gone on with after `step` steps and `epochs` counted epochs, the one before training
    included: lines of later ones will be written again.
    """
    if path is None:
        yield Log(None)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        kept = [line for line in path.read_bytes().splitlines(keepends=True) if _stays(line, step, epochs)]
        write_whole(path, b"".join(kept))
    with path.open("a", encoding="utf-8") as file:
        yield Log(file)


def _stays(line: bytes, step: int, epochs: int) -> bool:
    """Whether a line is of what was done; not one that was cut."""
    try:
        found = json.loads(line)
        return found.get("step", 0) <= step and (found["event"] != "epoch" or found["epoch"] < epochs)
    except (ValueError, AttributeError, TypeError, KeyError):
        return False
