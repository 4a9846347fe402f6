"""Faults at the calls that a program makes of libc: errors, short reads, delays, signals, and windows held open.

    faults = Faults(library, tmp_path)                      # `library` is a fixture: faults.c, built once a session
    Program(tmp_path, faults.env(Fault("*/0.tar", "read", errno="EIO")))("eval", ...)

    with faults.held(Fault("*/0.tar", "open", first=2), program, "eval", ...) as window:
        replace(tar)                                        # the program stands before its second opening of the tar
    window.outcome

Processes that a program starts inherit the faults, and all of them count together. Only what goes through libc is seen:
CPython, NumPy, Arrow, PyTorch and safetensors do; what is read through a map has no call that could fail.
"""

from __future__ import annotations

import errno as errors
import secrets
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from helpers import Outcome, Program, wait_until

SOURCE = Path(__file__).with_name("faults.c")
CALLS = ("open", "read", "write", "mmap", "stat", "link", "rename", "unlink", "mkdir", "fsync", "close", "list")
ERRORS = ("EIO", "EMFILE", "ENOSPC", "ESTALE", "EACCES", "ENOMEM")


def build(folder: Path) -> Path:
    """The library, compiled in `folder`. Skips the test where there is no compiler, or another system than Linux."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not Path("/proc/self/fd").is_dir():
        pytest.skip("no C compiler, or no Linux: faults are put into its libc")
    path = folder / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", str(path), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return path


@dataclass(frozen=True)
class Fault:
    """A fault at calls number `first` to `last` (None: only the first; 0: without end) on paths that match `paths`.

    It fails with `errno`, cuts the call down to `short` bytes, delays it, or sends its process a signal; with none of
    these the call is only counted.
    """

    paths: str
    """A pattern of the whole path, in which `*` also spans slashes."""
    call: str
    first: int = 1
    last: int | None = None
    errno: str = ""
    short: int | None = None
    delay_ms: int = 0
    signal: int = 0
    hold: str = ""
    """Path of a marker: the call waits before it until somebody removes the marker that it makes."""

    @property
    def rule(self) -> str:
        assert self.call in CALLS, self.call
        action, value = "count", "0"
        if self.errno:
            action, value = "fail", str(getattr(errors, self.errno))
        elif self.short is not None:
            action, value = "short", str(self.short)
        elif self.delay_ms:
            action, value = "delay", str(self.delay_ms)
        elif self.signal:
            action, value = "signal", str(int(self.signal))
        elif self.hold:
            action, value = "hold", self.hold
        last = self.first if self.last is None else self.last
        return "\t".join((self.call, str(self.first), str(last), action, value, self.paths))


@dataclass
class Window:
    """A program that stands at a call, and later how it ended. `reached` is False if it ended without such a call."""

    reached: bool = False
    outcome: Outcome | None = None


def _with(program: Program, environment: dict[str, str]) -> Program:
    return replace(program, environment={**program.environment, **environment})


class Faults:
    """Puts faults into programs that are started with the environment that it gives."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.library = library
        self.folder = folder

    def env(self, *faults: Fault, log: Path | None = None) -> dict[str, str]:
        """The environment under which `faults` befall a program, counted from now on. `log` gets a line a call."""
        counts = self.folder / f"counts-{secrets.token_hex(4)}"
        counts.write_bytes(bytes(4096))
        environment = {
            "LD_PRELOAD": str(self.library),
            "FASTCLIP_FAULTS": "\n".join(fault.rule for fault in faults),
            "FASTCLIP_FAULTS_COUNTS": str(counts),
        }
        return {**environment, "FASTCLIP_FAULTS_LOG": str(log)} if log else environment

    @contextmanager
    def held(self, where: Fault, program: Program, *arguments: object) -> Iterator[Window]:
        """Starts `program`, holds it before the call `where`, and lets it go on after the block."""
        marker = self.folder / f"held-{secrets.token_hex(4)}"
        rule = Fault(where.paths, where.call, where.first, hold=str(marker))
        window = Window()
        process = _with(program, self.env(rule)).start(*arguments)
        ended: list[tuple[str, str]] = []  # its output is read all the while: it may print more than a pipe holds
        reader = threading.Thread(target=lambda: ended.append(process.communicate()), daemon=True)
        reader.start()
        try:
            wait_until(lambda: marker.exists() or process.poll() is not None, "the program reaches the call", 120)
            window.reached = marker.exists()
            yield window
            marker.unlink(missing_ok=True)
            reader.join(240)
            window.outcome = Outcome(process.returncode, *ended[0])
        finally:
            process.kill()

    def calls(self, program: Program, *arguments: object, paths: str) -> tuple[Outcome, Counter[tuple[str, str]]]:
        """How a program ended that no fault befell, and how often it made which call on which path."""
        log = self.folder / f"calls-{secrets.token_hex(4)}"
        faults = [Fault(paths, call) for call in CALLS]
        outcome = _with(program, self.env(*faults, log=log))(*arguments)
        lines = (
            [line.split("\t") for line in log.read_text(errors="surrogateescape").splitlines()] if log.exists() else []
        )
        return outcome, Counter((line[0], line[2]) for line in lines)
