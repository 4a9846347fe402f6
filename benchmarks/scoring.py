"""How long a dataset as large as DomainNet takes to score from stored embeddings, and in how much memory.

    .venv/bin/python benchmarks/scoring.py [--images 586575] [--classes 345] [--rounds 3]

Embeddings, prototypes and labels are drawn, 1,024 numbers wide as RN50's are; of the shards there are only the index
files. The rest is what `fastclip eval` does for a finished set under three prompt sets, as a whole process.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from common import keep, of_whole_processes, parser, whole_process

from fastclip.data.shards.manifest import MANIFEST, REJECTED, Domain, ImageRecord, Manifest, Shard, json_lines
from fastclip.embed.store import Part, part_identity
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.run import Run
from fastclip.files import canonical_json, digest, write_whole
from fastclip.sealed import seal
from fastclip.text.prototypes import prototype_identity

DATASET, DIM, SHARD_IMAGES = "many", 1024, 1000
PROMPTS = ("transferlearning", "photo", "openai80")


def write_index_files(images: int, classes: int, folder: Path) -> None:
    """A dataset of which there is everything but its tars."""
    rng = np.random.default_rng(0)
    shards = []
    counts = np.zeros(classes, np.int64)
    for first in range(0, images, SHARD_IMAGES):
        labels = rng.integers(0, classes, min(SHARD_IMAGES, images - first)).tolist()
        counts += np.bincount(labels, minlength=classes)
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
        name, data = f"a/{len(shards)}.tar", json_lines(records)
        shard = Shard(
            name=name,
            domain="a",
            images=len(records),
            bytes=512 + len(records) * 1024,
            sha256=digest(name.encode()),
            index_sha256=digest(data),
        )
        shards.append(shard)
        write_whole(folder / DATASET / shard.index_name, data)
    names = tuple(f"{label:03d}" for label in range(classes))
    domain = Domain(name="a", images=images, unreadable=0, class_images=tuple(counts.tolist()), fingerprint="")
    manifest = Manifest(
        dataset=DATASET,
        title=DATASET,
        variant=None,
        protocol="full",
        verified=True,
        classes=names,
        names=names,
        domains=(domain,),
        shards=tuple(shards),
        rejected_sha256=digest(b""),
    )
    write_whole(folder / DATASET / REJECTED, b"")
    write_whole(folder / DATASET / MANIFEST, manifest.to_json())


def unit_rows(rng: np.random.Generator, rows: int) -> np.ndarray:
    drawn = rng.normal(size=(rows, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def publish_drawn(run: Run) -> None:
    """A part for every shard, and prototypes for every prompt set."""
    rng = np.random.default_rng(1)
    (candidate,) = run.candidates
    (target,) = run.targets
    classes = list(zip(target.manifest.classes, target.manifest.names, strict=True))
    for shard in target.shards:
        embeddings = unit_rows(rng, shard.images).astype(np.float16)
        run.store.publish(Part(part_identity(candidate.recipe, shard), embeddings, ()))
    for prompts in run.prompts:
        identity = prototype_identity(candidate.backbone, candidate.weights, run.numerics, prompts, classes)
        path = run.store.folder / "prototypes" / f"{digest(canonical_json(identity))}.safetensors"
        write_whole(path, seal({"prototypes": unit_rows(rng, len(classes))}, identity))


def main() -> None:
    options = parser(__doc__, photos=False)
    options.add_argument("--images", type=int, default=586_575)
    options.add_argument("--classes", type=int, default=345)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        write_index_files(arguments.images, arguments.classes, work / "shards")
        places = {"shards": work / "shards", "store": work / "store", "device": "cpu", "precision": "bf16"}
        publish_drawn(Run(EvalOptions(backbones=("RN50",), random_weights=True, prompts=PROMPTS, **places)))
        command = [sys.executable, "-m", "fastclip", "eval", "-b", "RN50", "--random-weights"]
        command += [word for name, value in places.items() for word in (f"--{name}", value)]
        command += [word for prompts in PROMPTS for word in ("--prompts", prompts)]
        runs = [whole_process(command, work) for _ in range(arguments.rounds)]
    settings = {"classes": f"{arguments.classes}", "dim": f"{DIM}", "prompt sets": f"{len(PROMPTS)}"}
    keep([of_whole_processes("score, whole process", arguments.images, runs, settings)])


if __name__ == "__main__":
    main()
