"""How long a store of many parts keeps a run waiting before it begins, and how many parts a second it takes.

    .venv/bin/python benchmarks/store.py [--parts 100 1000 10000 100000] [--rounds 3]

A dataset of as many shards, one image each, that are only in its manifest; small files under their parts' names, made
without syncing; everything in the page cache. `has` is asked for every unit, as each process does before it begins.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import keep, parser

from fastclip.bench.records import Measurement, measurement
from fastclip.data.shards.manifest import MANIFEST, Domain, Manifest, Shard, read_manifest
from fastclip.embed.plan import shares
from fastclip.embed.store import Part, PartStore
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.run import Run
from fastclip.files import digest

DATASET = "many"


def write_manifest(shards: int, folder: Path) -> None:
    """A dataset that is nothing but its manifest."""
    rng = random.Random(shards)
    domain = Domain(name="a", images=shards, unreadable=0, class_images=(shards,), fingerprint="")
    rows = (
        Shard(name=f"a/{n}.tar", domain="a", images=1, bytes=1, sha256=rng.randbytes(32).hex(), index_sha256="0" * 64)
        for n in range(shards)
    )
    manifest = Manifest(
        dataset=DATASET,
        title=DATASET,
        variant=None,
        protocol="",
        verified=False,
        classes=("thing",),
        names=("thing",),
        domains=(domain,),
        shards=tuple(rows),
        rejected_sha256=digest(b""),
    )
    (folder / DATASET).mkdir(parents=True)
    (folder / DATASET / MANIFEST).write_bytes(manifest.to_json())


def make_parts(run: Run) -> None:
    """A small file for every part, written as nobody else does: in place and not synced."""
    folder = run.store.folder / "parts"
    for unit in run.units():
        for key in unit.keys.values():
            path = folder / key[:2] / f"{key}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not read")


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def before_it_begins(parts: int, rounds: int, work: Path) -> list[Measurement]:
    """What a run asks of a store with `parts` parts, and of one without any."""
    write_manifest(parts, work / "shards")
    options = {"targets": (DATASET,), "backbones": ("tiny",), "shards": work / "shards", "device": "cpu"}
    run = Run(EvalOptions(**options, precision="fp32", store=work / "store"))
    units = run.units()
    make_parts(run)

    def has_all(folder: Path) -> int:
        store = PartStore(folder)
        return sum(store.has(key) for unit in units for key in unit.keys.values())

    assert (has_all(work / "store"), has_all(work / "empty")) == (parts, 0)
    spans: dict[str, Callable[[], object]] = {
        "read the manifest": lambda: read_manifest(work / "shards" / DATASET),
        "units and keys": run.units,
        "names of new units": lambda: [unit.id for unit in run.units()],
        "shares of 8": lambda: shares(units, 8),
        "shares of 1000": lambda: shares(units, 1000),
        "list the parts": lambda: set(PartStore(work / "store")),
        "has, all there": lambda: has_all(work / "store"),
        "has, none there": lambda: has_all(work / "empty"),
        "prepare and tidy": lambda: run.store.prepare(1, 1, tidy=True),
    }
    found = []
    for name, span in spans.items():
        runs = [seconds_of(span) for _ in range(rounds)]
        found.append(measurement(f"store, {name}", parts, runs, {"parts": f"{parts}"}))
    return found


def publishing(parts: int, rounds: int, work: Path) -> list[Measurement]:
    """Publishing parts of 50 images and 512 numbers each, one after the other, in fp16."""
    rng = np.random.default_rng(0)
    found = []
    runs = []
    for number in range(rounds):
        rows = rng.normal(size=(50, 512)).astype(np.float16)
        store = PartStore(work / f"published{number}")
        made = [Part({"weights": "w", "shard": n}, rows, ()) for n in range(parts)]
        runs.append(seconds_of(lambda store=store, made=made: [store.publish(part) for part in made]))
    found.append(measurement("store, publish", parts, runs, {"parts": f"{parts}", "bytes": f"{rows.nbytes}"}))
    return found


def main() -> None:
    options = parser(__doc__, photos=False)
    options.add_argument("--parts", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    arguments = options.parse_args()
    found: list[Measurement] = []
    for parts in arguments.parts:
        with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            found += before_it_begins(parts, arguments.rounds, Path(folder))
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        found += publishing(1000, arguments.rounds, Path(folder))
    keep(found)


if __name__ == "__main__":
    main()
