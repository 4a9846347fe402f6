"""Logistic probes: fastclip beside scikit-learn, the whole search of a strength, and what bounds.

    .venv/bin/python benchmarks/heads.py [--images 10000] [--dim 512] [--classes 65] [--strengths 10 1 0.1]
        [--no-search] [--rounds 3]

The other size of the record is 100,000 × 768 × 345. Vectors are drawn with a common mean, a spectrum that falls and
clusters of classes, as embeddings have them, and kept in fp16. Both programs fit the same matrix to the same bound on
the gradient of the mean objective, 1e-7 (scikit-learn: lbfgs, fp64), in processes of their own, in turns, with all
cores; seconds are of the fit, without loading. scikit-learn runs with a thread of BLAS a core, its default, and with
one, which is faster where other programs run. The settings say by how much its mean objective is greater and how many
of 10,000 other images both put into the same class. `search` is `choose` with a fifth of the images held out.
`evaluation` is one value with its gradient in fp32, `products alone` the two matrix products in it: their share is what
BLAS bounds.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import PEER, Finished, keep, of_whole_processes, parser, whole_process

from fastclip.bench.records import Measurement

PROGRAM = Path(__file__).parent / "heads_one.py"
WAYS = {"fastclip": sys.executable, "scikit-learn": PEER, "scikit-learn, one thread of BLAS": PEER}
TEST_IMAGES = 10_000


def draw(path: Path, images: int, dim: int, classes: int, seed: int) -> None:
    """Write `images` unit vectors in fp16, and their labels beside them."""
    shape = np.random.default_rng(0)
    decay = (1.0 + np.arange(dim)) ** -0.5
    decay /= np.linalg.norm(decay)
    centres, turn = shape.normal(size=(classes, dim)) * decay, np.linalg.qr(shape.normal(size=(dim, dim)))[0]
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    vectors = np.empty((images, dim), np.float16)
    for first in range(0, images, 8192):
        rows = 0.35 * centres[labels[first : first + 8192]]
        rows = (rows + 0.75 * decay * rng.normal(size=rows.shape)) @ turn + dim**-0.5
        vectors[first : first + 8192] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.save(path, vectors)
    np.save(path.with_suffix(".labels.npy"), labels)


def beside(work: Path, strength: float, rounds: int, about: dict[str, str]) -> list[Measurement]:
    """The fits of one strength, in turns."""
    runs: dict[str, list[Finished]] = {way: [] for way, python in WAYS.items() if Path(python).exists()}
    for _ in range(rounds):
        for way in runs:
            runs[way].append(measured(work, WAYS[way], way, strength))
    told = {way: np.load(work / f"{way}.npz") for way in runs}
    ours = told["fastclip"]
    found = []
    for way, finished in runs.items():
        theirs = told[way]
        settings = about | {"λ": f"{strength:g}", "iterations": f"{theirs['iterations']}"}
        settings["gradient"] = f"{theirs['gradient']:.1e}"
        settings["objective above fastclip's"] = f"{theirs['objective'] - ours['objective']:.1e}"
        settings["as fastclip"] = f"{np.count_nonzero(theirs['answers'] == ours['answers'])}/{TEST_IMAGES}"
        found.append(of_whole_processes(f"logistic, {way}", int(about["images"]), finished, settings))
    return found


def measured(work: Path, python: object, way: str, strength: float = 1.0) -> Finished:
    """A run of heads_one.py, with the seconds that it prints."""
    run = whole_process([python, "-W", "ignore", PROGRAM, way, f"{strength:g}"], work)
    return replace(run, seconds=float(run.last_line))


def main() -> None:
    options = parser(__doc__, photos=False)
    options.add_argument("--images", type=int, default=10_000)
    options.add_argument("--dim", type=int, default=512)
    options.add_argument("--classes", type=int, default=65)
    options.add_argument("--strengths", type=float, nargs="*", default=[10.0, 1.0, 0.1])
    options.add_argument("--no-search", action="store_true")
    arguments = options.parse_args()
    about = {"benchmark": "heads.py", "images": f"{arguments.images}", "dim": f"{arguments.dim}"}
    about["classes"] = f"{arguments.classes}"
    found = []
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        draw(work / "train.npy", arguments.images, arguments.dim, arguments.classes, 1)
        draw(work / "test.npy", TEST_IMAGES, arguments.dim, arguments.classes, 2)
        for strength in arguments.strengths:
            found += beside(work, strength, arguments.rounds, about)
        for way in ("evaluation", "products alone", *(() if arguments.no_search else ("search",))):
            runs = [measured(work, sys.executable, way) for _ in range(arguments.rounds)]
            found.append(of_whole_processes(f"logistic, {way}", arguments.images, runs, about))
    keep(found)


if __name__ == "__main__":
    main()
