"""Classification by nearest neighbours among many: fastclip beside scikit-learn and beside plain NumPy.

    .venv/bin/python benchmarks/neighbours.py [--images 500000] [--queries 50000] [--peer-queries 2048] [--rounds 3]

Vectors are drawn, 512 numbers wide, around 345 directions that have most in common, as embeddings have; they are kept
in fp16. All vote with the 20 nearest and DINO's weights. fastclip answers all queries exactly. scikit-learn
(`KNeighborsClassifier`, brute force, fp32) and NumPy (a product in fp32, `argpartition`) answer the first ones: their
work is proportional to the queries, so compare rates. NumPy's products alone, without any choice of neighbours, are
the limit that is named `products alone`. Seconds are of fit and answers in a process of its own, in turns, without
loading; each program uses all cores. The settings say how many answers are fastclip's.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import PEER, Finished, keep, of_whole_processes, parser, whole_process

DIM, CLASSES = 512, 345
WAYS = {"fastclip": sys.executable, "products alone": sys.executable, "NumPy": sys.executable, "scikit-learn": PEER}
PROGRAM = Path(__file__).parent / "neighbours_one.py"


def draw(path: Path, images: int, seed: int) -> None:
    """Write `images` unit vectors in fp16, and their labels beside them."""
    centres = np.random.default_rng(0).normal(size=(CLASSES, DIM)) + 1.5 * np.random.default_rng(1).normal(size=DIM)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, images)
    vectors = np.lib.format.open_memmap(path, "w+", np.float16, (images, DIM))
    for first in range(0, images, 8192):
        rows = centres[labels[first : first + 8192]]
        rows = rows + 1.2 * rng.standard_normal(rows.shape)
        vectors[first : first + 8192] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    vectors.flush()
    np.save(path.with_suffix(".labels.npy"), labels)


def main() -> None:
    options = parser(__doc__, photos=False)
    options.add_argument("--images", type=int, default=500_000)
    options.add_argument("--queries", type=int, default=50_000)
    options.add_argument("--peer-queries", type=int, default=2048)
    arguments = options.parse_args()
    runs: dict[str, list[Finished]] = {way: [] for way, python in WAYS.items() if Path(python).exists()}
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        draw(work / "train.npy", arguments.images, 2)
        draw(work / "test.npy", arguments.queries, 3)
        counts = {way: arguments.peer_queries if way != "fastclip" else arguments.queries for way in runs}
        for _ in range(arguments.rounds):
            for way in runs:
                run = whole_process([WAYS[way], PROGRAM, way, counts[way]], work)
                runs[way].append(replace(run, seconds=float(run.last_line)))
        found = []
        ours = np.load(work / "fastclip.answers.npy")
        for way, finished in runs.items():
            settings = {"benchmark": "neighbours.py", "images": f"{arguments.images}", "dim": f"{DIM}", "k": "20"}
            if way != "products alone":
                answers = np.load(work / f"{way}.answers.npy")
                settings["as fastclip"] = f"{np.count_nonzero(answers == ours[: len(answers)])}/{len(answers)}"
            found.append(of_whole_processes(f"neighbours, {way}", counts[way], finished, settings))
    keep(found)


if __name__ == "__main__":
    main()
