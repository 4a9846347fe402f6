"""The common tools of the benchmarks: photos, whole processes, records."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastclip.bench.records import Measurement, append_records, measurement

REPOSITORY = Path(__file__).parent.parent
PEER = REPOSITORY / ".venv-reference" / "bin" / "python"


def parser(description: str | None, *, photos: bool = True, rounds: int = 3) -> argparse.ArgumentParser:
    """The options that most programs take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if photos:
        made.add_argument("--photos", type=Path, required=True, help="folder of photos of ImageNet size")
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--work", type=Path, help="where to write; default: the system's temporary folder")
    return made


def keep(found: Iterable[Measurement], device: str = "cpu") -> None:
    """Append the records to `results/` and print them."""
    found = list(found)
    path = REPOSITORY / "benchmarks" / "results" / f"{time.strftime('%Y-%m-%d')}-{device}.jsonl"
    append_records(path, found)
    for each in found:
        shown = ", ".join(each.settings.values())
        peak = f"{each.peak_gib:5.2f} GiB" if each.peak_gib else ""
        print(f"{each.what:26} {each.images:7,} {each.seconds:8.3f} s {each.rate:11,.1f}/s {peak}  {shown}")
    print(f"records: {path.relative_to(REPOSITORY)}")


@dataclass(frozen=True)
class Finished:
    """A process that ended well."""

    seconds: float
    peak_gib: float
    last_line: str


def whole_process(command: Sequence[object], folder: Path) -> Finished:
    """Run a command, which must succeed, in `folder`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": ""}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "out" / "compiled")  # which is emptied before each run
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([str(word) for word in command], cwd=folder, env=environment, stdout=log, stderr=log)
        peak_kib = 0
        while process.poll() is None:
            # Not wait4's figure: it starts from the memory of this process, which has held models too.
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak_kib = max([peak_kib, *(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)])
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        log.seek(0)
        output = log.read().decode()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{output[-2000:]}")
    return Finished(seconds, peak_kib / 2**20, (output.splitlines() or [""])[-1])


def of_whole_processes(what: str, images: int, runs: Sequence[Finished], settings: Mapping[str, object]) -> Measurement:
    """The record of what `whole_process` returned, round by round."""
    return measurement(what, images, [run.seconds for run in runs], settings, max(run.peak_gib for run in runs))


def copy_photos(photos: Path, count: int, folder: Path) -> None:
    """`count` files in two class folders, the photos over and over."""
    files = sorted(path for path in photos.iterdir() if path.is_file())
    for index in range(count):
        target = folder / "ab"[index % 2] / f"{index:06d}{files[index % len(files)].suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[index % len(files)], target)


def shard_folder(source: Path, work: Path, *options: object) -> str:
    """Shard the images of `source` into `work`/shards; the dataset's name."""
    whole_process([sys.executable, "-m", "fastclip", "shard", source.name, "--source", source, *options], work)
    return source.name


def save_random_weights(backbone: str, path: Path) -> None:
    from safetensors.torch import save_file

    from fastclip.models.backbones import find_backbone
    from fastclip.models.tower import build_model

    save_file(build_model(find_backbone(backbone), drawn=True).state_dict(), path)
