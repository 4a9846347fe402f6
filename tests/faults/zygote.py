"""Runs the program many times a minute: a process that has imported all of its libraries forks a child for each run.

The child is what `fastclip` would be after its imports, seconds later, and has everything else of its own: folder,
arguments, environment, output, faults, exit code, process group.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

import fastclip


@dataclass
class Running:
    """A run that has started, with its output in two files."""

    pid: int
    out: Path
    err: Path
    _ended: list[int] = field(default_factory=list)

    def ended(self) -> bool:
        if not self._ended and self.code_file.exists():
            self._ended.append(int(self.code_file.read_text()))
        return bool(self._ended)

    @property
    def code_file(self) -> Path:
        return self.out.with_suffix(".code")

    def wait(self, seconds: float = 240) -> int:
        """The exit code, −n if signal n ended it. Whatever it started is killed then."""
        deadline = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
                raise TimeoutError(f"nothing ended it within {seconds:.0f} s")
            time.sleep(0.005)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self._ended[0]

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def printed(self) -> str:
        return self.out.read_text(errors="replace")

    def complained(self) -> str:
        return self.err.read_text(errors="replace")


@dataclass(frozen=True)
class Zygote:
    """The process that forks. `library` is what puts faults into it and its children."""

    library: Path
    logs: Path
    process: subprocess.Popen[str]

    def start(self, folder: Path, arguments: Sequence[object], environment: Mapping[str, str] | None = None) -> Running:
        assert self.process.stdin is not None and self.process.stdout is not None
        log = self.logs / f"{time.monotonic_ns()}"
        order = [str(folder), [str(each) for each in arguments], dict(environment or {}), str(log), str(self.library)]
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        return Running(pid, log.with_suffix(".out"), log.with_suffix(".err"))


@contextmanager
def zygote(library: Path, logs: Path) -> Iterator[Zygote]:
    """A process that forks runs of the program."""
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(Path(fastclip.__file__).parents[1])  # the one that is tested
    for name in ("RANK", "WORLD_SIZE", "COVERAGE_PROCESS_START"):
        environment.pop(name, None)
    pipe = subprocess.PIPE
    command = [sys.executable, __file__]
    with subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe, cwd="/") as process:
        yield Zygote(library, logs, process)
        assert process.stdin is not None
        process.stdin.close()


MODULES = ("torch", "torch._dynamo", "torchvision.transforms.v2", "open_clip", "accelerate", "safetensors.torch")
MODULES += ("pyarrow.parquet", "pyarrow.dataset", "rich.progress", "fsspec", "jinja2", "indexed_gzip", "ftfy")


def _serve() -> None:
    for module in (*MODULES, *(each.name for each in pkgutil.walk_packages(fastclip.__path__, "fastclip."))):
        if "__main__" not in module:
            with suppress(ImportError):
                importlib.import_module(module)
    Image.init()
    from fastclip.cli.main import run

    sys.stdin.reconfigure(line_buffering=True)
    children: dict[int, str] = {}
    signal.signal(signal.SIGCHLD, lambda *_: _reap(children))
    while line := _line():
        folder, arguments, environment, log, library = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        if (child := os.fork()) == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            _become(folder, arguments, environment, log, library)
            run()
        children[child] = log
        print(child, flush=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _line() -> str:
    return sys.stdin.readline()


def _become(folder: str, arguments: list[str], environment: dict[str, str], log: str, library: str) -> None:
    os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGHUP):  # a background job would inherit that they are ignored
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, ending in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(log + ending, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644), descriptor)
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["fastclip", *arguments]
    ctypes.CDLL(library).read_rules()


def _reap(children: dict[int, str]) -> None:
    for child, log in list(children.items()):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            del children[child]
            temporary = Path(log + ".tmp")
            temporary.write_text(str(os.waitstatus_to_exitcode(status)))
            temporary.rename(log + ".code")


if __name__ == "__main__":
    _serve()
