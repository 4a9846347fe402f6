"""The speed of `fastclip shard`, verified and not, and of the disk below it.

    .venv/bin/python benchmarks/sharding.py --photos DIR [--images 20000] [--rounds 3]

Two spans of each run are recorded: the whole command, and from the first image on. The second leaves out the two to
three seconds of Python's imports.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from common import Finished, copy_photos, keep, of_whole_processes, parser, whole_process

from fastclip.bench.records import Measurement, measurement
from fastclip.data.shards.writer import WriteOptions, write_shards
from fastclip.data.sources.layouts import list_source
from fastclip.storage.folders import open_folder


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
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=20_000)
    arguments = options.parse_args()
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
            runs: list[Finished] = []
            spans: list[float] = []
            for _ in range(arguments.rounds):
                shutil.rmtree(work / "out", ignore_errors=True)
                runs.append(whole_process([*command, *([] if verify else ["--no-verify"])], work))
                shutil.rmtree(work / "out", ignore_errors=True)
                how = WriteOptions(verify=verify, processes=len(os.sched_getaffinity(0)))
                spans.append(from_first_image(work / "in", work / "out" / "p", how))
            found.append(of_whole_processes("shard, whole process", arguments.images, runs, settings))
            found.append(measurement("shard, from first image", arguments.images, spans, settings))
    keep(found)


if __name__ == "__main__":
    main()
