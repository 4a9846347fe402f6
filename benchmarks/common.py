"""What the programs here share: photos, whole processes, records."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
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


def whole_process(command: Sequence[object], folder: Path) -> tuple[float, float]:
    """Wall seconds and peak GiB of a command that must succeed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": ""}
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
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(map(str, command))} failed:\n{log.read().decode()[-2000:]}")
    return seconds, peak_kib / 2**20


def of_whole_processes(
    what: str, images: int, runs: Sequence[tuple[float, float]], settings: Mapping[str, object]
) -> Measurement:
    """The record of what `whole_process` returned, round by round."""
    return measurement(what, images, [wall_s for wall_s, _ in runs], settings, max(peak for _, peak in runs))


def copy_photos(photos: Path, count: int, folder: Path) -> None:
    """`count` files in two class folders, the photos over and over."""
    files = sorted(path for path in photos.iterdir() if path.is_file())
    for index in range(count):
        target = folder / "ab"[index % 2] / f"{index:06d}{files[index % len(files)].suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[index % len(files)], target)


def shard(photos: Path, count: int, work: Path) -> str:
    """A sharded dataset of `count` photos in `work`/shards; its name."""
    name = f"photos{count}"
    copy_photos(photos, count, work / name)
    whole_process([sys.executable, "-m", "fastclip", "shard", name, "--source", work / name], work)
    return name


def save_random_weights(backbone: str, path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from fastclip.models.backbones import find_backbone
    from fastclip.models.tower import build_model

    torch.manual_seed(0)
    save_file(build_model(find_backbone(backbone), "fp32", meta=False).state_dict(), path)
