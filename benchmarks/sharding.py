"""How fast `fastclip shard` is, verified and not, and how fast the disk below it.

    .venv/bin/python benchmarks/sharding.py --photos DIR [--images 20000] [--rounds 3]

Two spans of each run are recorded: the whole command, and from the first image on, without the two to three seconds in
which Python imports what the writing processes need.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from speed import REPOSITORY, Measurement, copy_photos, machine, measurement, whole_process

from fastclip.data.shards.writer import WriteOptions, write_shards
from fastclip.data.sources.layouts import list_source
from fastclip.data.storage.folders import open_folder


def disk_bytes_per_second(folder: Path, size: int) -> float:
    """Writing `size` bytes of zeros and syncing them."""
    block = bytes(1 << 20)
    started = time.perf_counter()
    with (folder / "zeros").open("wb") as file:
        for _ in range(size >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    (folder / "zeros").unlink()
    return size / (time.perf_counter() - started)


def from_first_image(source: Path, out: Path, options: WriteOptions) -> float:
    """Seconds from the first image to the published manifest."""
    first: list[float] = []

    def note(images: int, size: int) -> None:
        if images and not first:
            first.append(time.perf_counter())

    write_shards(list_source(source, None), open_folder(out), dataset="p", options=options, on_progress=note)
    return time.perf_counter() - first[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos of ImageNet size")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where to write; default: the system's temporary folder")
    arguments = parser.parse_args()
    conditions = machine("cpu")
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        copy_photos(arguments.photos, arguments.images, work / "in")
        size = sum(path.stat().st_size for path in (work / "in").rglob("*.*"))
        disk = disk_bytes_per_second(work, size)
        for verify in (True, False):
            settings = {"program": "fastclip shard", "verified": str(verify), "megabytes": f"{size / 1e6:.0f}"}
            settings["disk MB/s"] = f"{disk / 1e6:.0f}"
            command = [sys.executable, "-m", "fastclip", "shard", "p", "--source", work / "in", "--out", work / "out"]
            runs: list[tuple[float, float]] = []
            spans: list[tuple[float, float]] = []
            for _ in range(arguments.rounds):
                shutil.rmtree(work / "out", ignore_errors=True)
                runs.append(whole_process([*command, *([] if verify else ["--no-verify"])], work))
                shutil.rmtree(work / "out", ignore_errors=True)
                options = WriteOptions(verify=verify, processes=len(os.sched_getaffinity(0)))
                spans.append((from_first_image(work / "in", work / "out" / "p", options), 0.0))
            found.append(measurement("shard, whole process", arguments.images, runs, settings))
            found.append(measurement("shard, from first image", arguments.images, spans, settings))
    results = REPOSITORY / "benchmarks" / "results" / f"{time.strftime('%Y-%m-%d')}-cpu.jsonl"
    with results.open("a") as file:
        for each in found:
            file.write(json.dumps({**asdict(each), "machine": conditions}) + "\n")
            print(f"{each.what:24} {each.images:6,} images {each.seconds:7.2f} s {each.rate:7.0f}/s  {each.settings}")


if __name__ == "__main__":
    main()
