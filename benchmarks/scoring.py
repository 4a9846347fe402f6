"""Time and memory of scoring a dataset as large as DomainNet from stored embeddings.

    .venv/bin/python benchmarks/scoring.py [--images 586575] [--classes 345] [--rounds 3]

Embeddings, prototypes and labels are drawn, 1,024 numbers wide as RN50's are. The dataset has index files and no tars.
Measured are whole processes of `fastclip eval`, which finds everything embedded, under three prompt sets; and
`classify` alone, in as many threads as there are cores, on the embeddings of a few shards over and over.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import keep, of_whole_processes, parser, whole_process

from fastclip.bench.records import Measurement, measurement
from fastclip.data.shards.manifest import (
    MANIFEST,
    REJECTED,
    Domain,
    ImageRecord,
    Manifest,
    Shard,
    images_sha256,
    json_lines,
)
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import Setup, resolve
from fastclip.files import digest, write_whole
from fastclip.heads.linear import LinearHead
from fastclip.heads.scores import classify
from fastclip.machine import available_cores
from fastclip.store.parts import Part, part_name
from fastclip.text.prototypes import Question, TextRecipe, keep_prototypes

DATASET, DIM, SHARD_IMAGES = "many", 1024, 1000
PROMPTS = ("transferlearning", "photo", "openai80")


def write_index_files(images: int, classes: int, folder: Path, domains: str = "a") -> None:
    """A dataset of which there is everything but its tars. Each letter of `domains` is one, with its share."""
    rng = np.random.default_rng(0)
    shards = []
    counts = {domain: np.zeros(classes, np.int64) for domain in domains}
    for first in range(0, images, SHARD_IMAGES):
        domain = domains[first * len(domains) // images]
        labels = rng.integers(0, classes, min(SHARD_IMAGES, images - first)).tolist()
        counts[domain] += np.bincount(labels, minlength=classes)
        records = [
            ImageRecord(
                key=f"{row:08d}",
                label=label,
                path=f"{label:03d}/{first + row}.jpg",
                offset=512 + row * 1024,
                size=400,
                height=300,
                width=400,
                sha256=rng.bytes(32).hex(),
            )
            for row, label in enumerate(labels)
        ]
        name, data = f"{domain}/{len(shards)}.tar", json_lines(records)
        shard = Shard(
            name=name,
            domain=domain,
            images=len(records),
            bytes=512 + len(records) * 1024,
            sha256=digest(name.encode()),
            index_sha256=digest(data),
            images_sha256=images_sha256(records),
        )
        shards.append(shard)
        write_whole(folder / DATASET / shard.index_name, data)
    names = tuple(f"{label:03d}" for label in range(classes))
    found = tuple(
        Domain(name=name, images=int(of.sum()), unreadable=0, class_images=tuple(of.tolist()), fingerprint="")
        for name, of in counts.items()
    )
    manifest = Manifest(
        dataset=DATASET,
        title=DATASET,
        variant=None,
        protocol="full",
        verified=True,
        classes=names,
        names=names,
        domains=found,
        shards=tuple(shards),
        rejected_sha256=digest(b""),
    )
    write_whole(folder / DATASET / REJECTED, b"")
    write_whole(folder / DATASET / MANIFEST, manifest.to_json())


def unit_rows(rng: np.random.Generator, rows: int) -> np.ndarray:
    drawn = rng.normal(size=(rows, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def publish_drawn(setup: Setup) -> None:
    """A part for every shard, and prototypes for every prompt set."""
    rng = np.random.default_rng(1)
    (target,) = setup.targets
    (recipe,) = setup.recipes.values()
    for shard in target.shards:
        embeddings = unit_rows(rng, shard.images).astype(np.float16)
        setup.store.publish(recipe, part_name(shard), Part(embeddings, np.ones(shard.images, np.float32), ()))
    drawn = TextRecipe(libraries="drawn", machine="drawn", switches=(), numerics=recipe.numerics)
    classes = tuple(zip(target.manifest.classes, target.manifest.names, strict=True))
    for prompts in setup.prompts:
        question = Question(
            weights=recipe.weights, architecture=recipe.architecture, templates=prompts.templates, classes=classes
        )
        keep_prototypes(setup.store.folder / "prototypes", question, drawn, unit_rows(rng, len(classes)))


def classify_alone(images: int, classes: int, rounds: int) -> Measurement:
    """Seconds of `classify` without files, shard by shard in threads."""
    rng = np.random.default_rng(2)
    heads = {name: LinearHead(unit_rows(rng, classes)) for name in PROMPTS}
    few = [(unit_rows(rng, SHARD_IMAGES).astype(np.float16), rng.integers(0, classes, SHARD_IMAGES)) for _ in range(8)]
    shards = -(-images // SHARD_IMAGES)
    seconds = []
    with ThreadPoolExecutor(available_cores()) as pool:
        for _ in range(rounds):
            started = time.perf_counter()
            for _ in pool.map(lambda number: classify(few[number % 8][0], heads, few[number % 8][1]), range(shards)):
                pass
            seconds.append(time.perf_counter() - started)
    return measurement("score, classify alone", shards * SHARD_IMAGES, seconds, settings_of(classes))


def settings_of(classes: int) -> dict[str, str]:
    return {"classes": f"{classes}", "dim": f"{DIM}", "prompt sets": f"{len(PROMPTS)}"}


def main() -> None:
    options = parser(__doc__, photos=False)
    options.add_argument("--images", type=int, default=586_575)
    options.add_argument("--classes", type=int, default=345)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        write_index_files(arguments.images, arguments.classes, work / "shards")
        places = {"shards": work / "shards", "store": work / "store", "device": "cpu", "precision": "bf16"}
        publish_drawn(resolve(EvalOptions(backbones=("RN50",), random_weights=True, prompts=PROMPTS, **places)))
        command = [sys.executable, "-m", "fastclip", "eval", "-b", "RN50", "--random-weights"]
        command += [word for name, value in places.items() for word in (f"--{name}", value)]
        command += [word for prompts in PROMPTS for word in ("--prompts", prompts)]
        runs = [whole_process(command, work) for _ in range(arguments.rounds)]
    whole = of_whole_processes("score, whole process", arguments.images, runs, settings_of(arguments.classes))
    keep([whole, classify_alone(arguments.images, arguments.classes, arguments.rounds)])


if __name__ == "__main__":
    main()
