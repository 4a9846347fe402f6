"""Time of ranking and selecting prompts from stored embeddings, beside the forecast that was made before.

    .venv/bin/python benchmarks/prompts.py [--images 10000] [--classes 7] [--candidates 300] [--domains abcd]
    .venv/bin/python benchmarks/prompts.py --images 586575 --classes 345 --candidates 36 --domains abcdef --rounds 1

Embeddings, text vectors and labels are drawn, 512 numbers wide as ViT-B/32's are. The dataset has index files and no
tars. Measured are whole processes of `fastclip prompts rank`, all of whose text vectors are kept, and in this process
the forecast, the ranking and, with `--select`, a selection of seven.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import keep, of_whole_processes, parser, whole_process
from scoring import DATASET, write_index_files

from fastclip.bench.records import Measurement, measurement
from fastclip.cli.forecast import duration
from fastclip.data.shards.manifest import MANIFEST, read_manifest
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import Setup, resolve
from fastclip.files import write_whole
from fastclip.prompts.candidates import Candidates, find_candidates
from fastclip.prompts.forecast import measure, ranking_s, selecting_s
from fastclip.prompts.rank import rank
from fastclip.prompts.scoring import Source
from fastclip.prompts.select import Work, select
from fastclip.prompts.selection import SelectOptions
from fastclip.prompts.texts import find_texts
from fastclip.storage.folders import open_folder
from fastclip.store.parts import Part, part_name
from fastclip.text.prototypes import TextRecipe
from fastclip.text.vectors import CHUNK, TowerName, keep_vectors

BACKBONE, DIM = "ViT-B/32", 512


def unit_rows(random: np.random.Generator, rows: int) -> np.ndarray:
    drawn = random.normal(size=(rows, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def name_classes(folder: Path) -> None:
    """Give the classes names that are no ids: prompts of ids are refused."""
    manifest = read_manifest(open_folder(folder))
    write_whole(folder / MANIFEST, replace(manifest, names=tuple(f"thing {n}" for n in manifest.classes)).to_json())


def publish_drawn(setup: Setup, candidates: Candidates) -> None:
    """A part for every shard, and a vector for every text."""
    random = np.random.default_rng(1)
    (target,) = setup.targets
    (recipe,) = setup.recipes.values()
    for shard in target.shards:
        embeddings = unit_rows(random, shard.images).astype(np.float16)
        setup.store.publish(recipe, part_name(shard), Part(embeddings, np.ones(shard.images, np.float32), ()))
    drawn = TextRecipe(libraries="drawn", machine="drawn", switches=(), numerics=recipe.numerics)
    tower = TowerName(weights=recipe.weights, architecture=recipe.architecture)
    texts = find_texts(setup, BACKBONE, candidates).missing
    for first in range(0, len(texts), CHUNK):
        chunk = texts[first : first + CHUNK]
        keep_vectors(setup.store.folder / "texts", tower, drawn, chunk, unit_rows(random, len(chunk)))


def in_this_process(
    setup: Setup, candidates: Candidates, settings: dict[str, str], selects: bool
) -> Iterator[Measurement]:
    """Seconds of a ranking and of a selection, with what was forecast among the settings."""
    (target,) = setup.targets
    (recipe,) = setup.recipes.values()
    source, cores, many = Source(target, recipe, setup.store), setup.process.cores, len(candidates)
    vectors = find_texts(setup, BACKBONE, candidates).known
    images = sum(each.images for each in target.shards)
    rates = measure(source, many, cores)
    for what, forecast, work in (
        ("prompts rank", ranking_s(source, rates, many), lambda: rank(source, candidates, vectors, cores)),
        (
            "prompts select",
            selecting_s(source, rates, many, SelectOptions(), cores) if selects else 0.0,
            lambda: select(Work(source, candidates, (), vectors, cores), SelectOptions()),
        ),
    )[: 1 + selects]:
        print(f"{what}: forecast {duration(forecast)}", flush=True)
        started = time.perf_counter()
        work()
        elapsed = time.perf_counter() - started
        print(f"{what}: took {duration(elapsed)}, {elapsed / forecast:.2f} of the forecast", flush=True)
        yield measurement(f"{what}, one run", images, [elapsed], {**settings, "forecast": f"{forecast:.2f} s"})


def main() -> None:
    options = parser(__doc__, photos=False)
    options.add_argument("--images", type=int, default=10_000)
    options.add_argument("--classes", type=int, default=7)
    options.add_argument("--candidates", type=int, default=300)
    options.add_argument("--domains", default="abcd")
    options.add_argument("--select", action="store_true")
    arguments = options.parse_args()
    settings = {name: str(getattr(arguments, name)) for name in ("classes", "candidates", "domains")} | {
        "dim": f"{DIM}"
    }
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        write_index_files(arguments.images, arguments.classes, work / "shards", arguments.domains)
        name_classes(work / "shards" / DATASET)
        lines = [f"sort {number} of {{}}" for number in range(arguments.candidates)]
        (work / "templates.txt").write_text("\n".join(lines))
        candidates = find_candidates([str(work / "templates.txt")], [])
        places = {"shards": work / "shards", "store": work / "store", "precision": "bf16"}
        made = EvalOptions(backbones=(BACKBONE,), random_weights=True, device="cpu", **places)
        setup = resolve(made)
        publish_drawn(setup, candidates)
        found = list(in_this_process(resolve(made, only_stored=True), candidates, settings, arguments.select))
        command = [sys.executable, "-m", "fastclip", "prompts", "rank", "-b", BACKBONE, "--random-weights"]
        command += [word for option, value in places.items() for word in (f"--{option}", value)]
        command += ["--templates", "templates.txt"]
        runs = [whole_process(command, work) for _ in range(arguments.rounds)]
    keep([of_whole_processes("prompts rank, whole process", arguments.images, runs, settings), *found])


if __name__ == "__main__":
    main()
