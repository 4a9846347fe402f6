"""Time and memory of exporting a dataset as large as DomainNet, beside `numpy.save` of the same array.

    .venv/bin/python benchmarks/features.py [--images 586575] [--text-images 20000] [--rounds 3]

Embeddings are drawn, 1,024 numbers wide as RN50's are, and stored in fp16. Measured are whole processes of `fastclip
features`, and in turns with them `numpy.save` of the whole matrix in fp32, which is in memory already. Both end when
the bytes are on the disk. `transferlearning`, which is text, gets fewer images.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Finished, keep, of_whole_processes, parser, whole_process
from scoring import DIM, publish_drawn, write_index_files

from fastclip.bench.records import Measurement, measurement
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import resolve
from fastclip.features.read import Features

CLASSES = 345


def numpy_save(vectors: np.ndarray, path: Path) -> float:
    """Seconds of `numpy.save` and fsync."""
    started = time.perf_counter()
    with path.open("wb") as file:
        np.save(file, vectors)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


def measure(images: int, formats: list[str], rounds: int, work: Path) -> list[Measurement]:
    """A record a format, and one of `numpy.save`."""
    write_index_files(images, CLASSES, work / "shards")
    places = {"shards": work / "shards", "store": work / "store", "precision": "bf16"}
    setup = resolve(EvalOptions(backbones=("RN50",), random_weights=True, device="cpu", **places))
    publish_drawn(setup)
    (target,), (recipe,) = setup.targets, setup.recipes.values()
    vectors = np.concatenate([each.vectors.astype(np.float32) for each in Features(target, recipe, setup.store)])
    command = [sys.executable, "-m", "fastclip", "features", "-b", "RN50", "--random-weights"]
    command += [word for name, value in places.items() for word in (f"--{name}", value)]
    saved: list[float] = []
    runs: dict[str, list[Finished]] = {name: [] for name in formats}
    sizes = {"numpy.save": vectors.nbytes}
    for _ in range(rounds):
        saved.append(numpy_save(vectors, work / "saved.npy"))
        for name, of_format in runs.items():
            of_format.append(whole_process([*command, "--format", name], work))
            sizes[name] = sum(path.stat().st_size for path in (work / "features").rglob("*") if path.is_file())
            shutil.rmtree(work / "features")

    def settings(name: str) -> dict[str, object]:
        return {"benchmark": "features.py", "dim": DIM, "format": name, "GB": f"{sizes[name] / 1e9:.2f}"}

    found = [of_whole_processes("features", images, of_format, settings(name)) for name, of_format in runs.items()]
    return [*found, measurement("features", images, saved, settings("numpy.save"))]


def main() -> None:
    options = parser(__doc__, photos=False)
    options.add_argument("--images", type=int, default=586_575)
    options.add_argument("--text-images", type=int, default=20_000)
    arguments = options.parse_args()
    for images, formats in (
        (arguments.images, ["parquet", "npy", "clip-retrieval"]),
        (arguments.text_images, ["transferlearning"]),
    ):
        with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            keep(measure(images, formats, arguments.rounds, Path(folder)))


if __name__ == "__main__":
    main()
