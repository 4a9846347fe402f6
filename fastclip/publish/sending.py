"""Sends runs to trackers, each in a process of its own and within a limit in time: one that fails costs nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from fastclip.errors import printable
from fastclip.publish.runs import TrackedRun
from fastclip.publish.secrets import without_secrets
from fastclip.publish.targets import Target
from fastclip.publish.trackers import Begun, Files, Row

_START = """
import json, os, sys
questions = os.fdopen(os.dup(0), encoding="utf-8")  # not standard input, which a library may read
sys.path[:] = json.loads(questions.readline())
from fastclip.publish.worker import work
work(questions)
"""
_OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_")
_MOST_WORDS = 300
"""Letters of an error of a library: some are pages of advice."""
_CLOSING_S = 10.0
"""Seconds that a tracker has to end after Ctrl-C."""


class TrackerError(Exception):
    """A tracker failed; the words say why, without secrets."""


@dataclass
class Sent:
    """How far a target came."""

    target: Target
    new: int = 0
    """Runs that were added, or added to."""
    there: int = 0
    """Runs that were there already, whole."""
    step: int = -1
    """The last step of a training that was added."""
    done: bool = False
    note: str = ""
    """Facts that a user has to know besides."""
    where: str = ""
    error: str = ""
    """Empty if all went well."""


class Sender:
    """The process that holds the library of one target."""

    def __init__(self, target: Target, limit_s: float) -> None:
        self.target, self._limit_s, self._late = target, limit_s, False
        environment = {name: each for name, each in os.environ.items() if not name.startswith(_OF_LAUNCHERS)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # so that Ctrl-C is not its own, and that it ends with all that it starts
            encoding="utf-8",
        )
        self._first = [sys.path, {"target": asdict(target), "limit_s": int(limit_s) + 5}]

    def begin(self, run: TrackedRun, *, live: bool = False) -> tuple[Begun, str]:
        """The part of a run that the target has already, and where, if that is all of it."""
        answer = self._ask({"do": "begin", "run": run.to_document(), "live": live})
        return Begun(answer["whole"], answer["step"]), without_secrets(answer["where"])

    def log(self, rows: Sequence[Row]) -> None:
        """Add steps."""
        self._ask({"do": "log", "rows": rows})

    def finish(self, run: TrackedRun, files: Files) -> str:
        """Add the rest of a run; the place where it is found."""
        return without_secrets(self._ask({"do": "finish", "run": run.to_document(), "files": files})["where"])

    def leave(self) -> str:
        """Leave a run that is to be gone on with; the place where it is found."""
        return without_secrets(self._ask({"do": "leave"})["where"])

    def kill(self) -> None:
        """End the process, and all that it has started, at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process."""
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                assert pipe, "both are pipes"
                pipe.close()

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        timer = threading.Timer(self._limit_s, self._end_late)
        timer.daemon = True
        timer.start()
        line = ""
        try:
            line = self._exchange([*self._first, question])
            self._first = []
        except (OSError, ValueError):
            pass  # it has ended; the exit code says how
        finally:
            timer.cancel()
        if self._late:
            raise TrackerError(f"no answer within {self._limit_s:g} s")
        if not line:
            raise TrackerError(f"its library ended the process, exit code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            words = " ".join(without_secrets(answer["error"]).split())
            trace = f"\n{without_secrets(answer['trace'])}" if "FASTCLIP_TRACEBACK" in os.environ else ""
            raise TrackerError(printable(words[:_MOST_WORDS].rstrip(". ")) + trace)
        return dict(answer)

    def _exchange(self, lines: Sequence[Any]) -> str:
        assert self._process.stdin and self._process.stdout, "both are pipes"
        self._process.stdin.write("".join(json.dumps(line) + "\n" for line in lines))
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def _end_late(self) -> None:
        self._late = True
        self.kill()


def send_all(sent: Sequence[Sent], limit_s: float, task: Callable[[Sender, Sent, threading.Event], None]) -> None:
    """Do `task` for every target at once. An error of one is noted in its `Sent` and costs the others nothing.

    When the block is left by a stop signal, the tasks see it by their event and have a few seconds to end.
    """
    stopping = threading.Event()
    senders: list[Sender] = []
    try:
        for each in sent:
            senders.append(Sender(each.target, limit_s))
        threads = [
            threading.Thread(target=_guarded, args=(task, sender, each, stopping), daemon=True)
            for sender, each in zip(senders, sent, strict=True)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)  # a signal is handled between two waits
        except BaseException:
            stopping.set()
            for thread in threads:
                thread.join(_CLOSING_S)
            raise
    finally:
        for sender in senders:
            sender.close()


def _guarded(
    task: Callable[[Sender, Sent, threading.Event], None], sender: Sender, sent: Sent, stopping: threading.Event
) -> None:
    try:
        task(sender, sent, stopping)
    except Exception as error:
        sent.error = str(error) if isinstance(error, TrackerError) else f"{type(error).__name__}: {error}"
    sent.done = True


def send_results(
    runs: Sequence[tuple[TrackedRun, Files]], sender: Sender, sent: Sent, stopping: threading.Event
) -> None:
    """Add the runs that a target does not have."""
    for run, files in runs:
        if stopping.is_set():
            return
        begun, where = sender.begin(run)
        sent.where = where or sent.where
        if begun.whole:
            sent.there += 1
        else:
            sent.where = sender.finish(run, files)
            sent.new += 1
