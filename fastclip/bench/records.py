"""One measurement: images and seconds of the same span, what was done, and what it ran on."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastclip.evaluate.engine import Engine
from fastclip.machine import available_cores, cache_folder
from fastclip.models.numerics import describe_numerics


@dataclass(frozen=True)
class Measurement:
    """Images and seconds of the same span, and the conditions."""

    what: str
    images: int
    seconds: float
    """The median of `all_seconds`."""
    all_seconds: list[float]
    settings: dict[str, str]
    peak_gib: float = 0.0
    """Of the process that did it, the largest of all rounds; 0 if it was not looked at."""
    machine: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self)) + "\n"


def measurement(
    what: str, images: int, seconds: Sequence[float], settings: Mapping[str, object], peak_gib: float = 0.0
) -> Measurement:
    """The record of several rounds, on this machine."""
    rounds = [round(each_s, 7) for each_s in seconds]
    shown = {name: str(value) for name, value in settings.items()}
    on = machine("cuda" if shown.get("device", "cpu").startswith("cuda") else "cpu")
    return Measurement(what, images, statistics.median(rounds), rounds, shown, round(peak_gib, 2), on)


def conditions(engine: Engine) -> dict[str, str]:
    """Everything that decides how fast an engine is on this machine, except its backbones."""
    return {
        "device": engine.device.type,
        "precision": engine.precision,
        "decoder": engine.decoder,
        "workers": str(engine.workers),
        "batch": str(engine.batch_size),
        "compile": "on" if engine.compiled else "off",
        "numerics": describe_numerics(engine.device),
    }


def append_records(path: Path, found: Iterable[Measurement]) -> None:
    """Add the records to the JSON lines in `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(each.to_json() for each in found)


def kept_records_path() -> Path:
    """The file of this machine's measurements: `fastclip bench` writes it, `fastclip eval --dry-run` reads it."""
    return cache_folder() / "bench.jsonl"


def read_records(path: Path) -> list[Measurement]:
    """The records in a file, oldest first. Lines that are cut or in an older form are left out; no file, no records."""
    found = []
    with suppress(OSError):
        for line in path.read_text("utf-8").splitlines():
            with suppress(ValueError, TypeError):
                found.append(Measurement(**json.loads(line)))
    return found


def machine(device: str) -> dict[str, str]:
    """The machine of a record: processor, versions, and the commit if this is a repository."""
    found = {"cpu": platform.processor() or platform.machine(), "cores": str(available_cores())}
    with suppress(OSError, StopIteration):
        cpu = Path("/proc/cpuinfo").read_text()
        found["cpu"] = next(line.split(":")[1].strip() for line in cpu.splitlines() if line.startswith("model name"))
        found["bf16"] = " ".join(name for name in ("avx512_bf16", "amx_bf16") if name in cpu) or "no"
    found["python"] = platform.python_version()
    for package in ("fastclip", "torch", "torchvision", "open_clip_torch", "nvidia-dali-cuda130"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    if device == "cuda":
        import torch

        found |= {"gpu": torch.cuda.get_device_name(0), "cuda": torch.version.cuda or ""}
    with suppress(OSError):
        here = Path(__file__).parent
        found["commit"] = _git(here, "describe", "--always") or "no repository"
        # Records that were added since the commit change no result.
        if _git(here, "status", "--porcelain", "--untracked-files=no", ":/", ":(exclude,top)benchmarks/results"):
            found["commit"] += "-dirty"
    return found


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", *arguments]  # which would write to the repository
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()
