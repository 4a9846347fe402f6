"""The library that puts faults into a program's calls does what its rules say, and nothing else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import Fault, Faults
from helpers import Outcome, Program

COPY = """
import os
file = os.open("from.txt", os.O_RDONLY)
data = b""
while block := os.read(file, 100):
    data += block
os.write(1, data)
"""


@dataclass(frozen=True)
class Copying(Program):
    """A program that prints a file by calls that can be counted on the fingers of one hand."""

    def start(self, *arguments: object, prefix: object = ()) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        environment = {**os.environ, **self.environment}
        command = [sys.executable, "-S", "-c", COPY]
        return subprocess.Popen(command, cwd=self.folder, env=environment, text=True, stdout=pipe, stderr=pipe)


@pytest.fixture
def copying(tmp_path: Path) -> Copying:
    (tmp_path / "from.txt").write_text("abcdefgh")
    return Copying(tmp_path)


def with_faults(copying: Copying, faults: Faults, *each: Fault) -> Outcome:
    return Copying(copying.folder, faults.env(*each))()


@pytest.mark.parametrize("name", ["EIO", "EMFILE", "ESTALE"])
def test_the_call_that_is_named_fails_with_the_error_that_is_named(name: str, copying: Copying, faults: Faults):
    for call in ("open", "read"):
        outcome = with_faults(copying, faults, Fault("*/from.txt", call, errno=name))
        assert outcome.code == 1 and f"[Errno {getattr(errno, name)}]" in outcome.err
    for fault in (Fault("*/to.txt", "open", errno=name), Fault("*/from.txt", "write", errno=name)):
        assert with_faults(copying, faults, fault) == Outcome(0, "abcdefgh", "")


def test_the_second_read_is_the_second(copying: Copying, faults: Faults):
    short = Fault("*/from.txt", "read", last=0, short=3)
    assert with_faults(copying, faults, short).out == "abcdefgh"
    ended = with_faults(copying, faults, short, Fault("*/from.txt", "read", first=2, short=0))
    assert ended == Outcome(0, "abc", "")


def test_a_signal_arrives_at_the_call(copying: Copying, faults: Faults):
    outcome = with_faults(copying, faults, Fault("*/from.txt", "read", first=2, signal=signal.SIGKILL))
    assert outcome == Outcome(-9, "", "")


def test_a_window_is_held_open_as_long_as_the_test_likes(copying: Copying, faults: Faults):
    with faults.held(Fault("*/from.txt", "open"), copying) as window:
        (copying.folder / "from.txt").write_text("other")
    assert window.reached and window.outcome == Outcome(0, "other", "")
    with faults.held(Fault("*/from.txt", "open", first=2), copying) as window:
        assert not window.reached


def test_calls_are_counted_by_path(copying: Copying, faults: Faults):
    outcome, calls = faults.calls(copying, paths="*/from.txt")
    path = str(copying.folder / "from.txt")
    assert outcome.code == 0 and calls == {("open", path): 1, ("read", path): 2}
