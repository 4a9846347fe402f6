"""Time of a run before it begins to embed, and parts that a store takes a second.

    .venv/bin/python benchmarks/store.py [--shards 1000 10000 100000] [--backbones 9] [--rounds 3] [--work DIR]

The dataset is a manifest alone, of so many shards with an image each. Its parts are small files under the right names,
made without syncing. Everything is in the page cache. A span is that of one process.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import keep, parser

from fastclip.bench.records import Measurement, measurement
from fastclip.data.shards.manifest import MANIFEST, Domain, Manifest, Shard, read_manifest
from fastclip.embed.plan import shares
from fastclip.evaluate.embedding import is_missing, missing_units, owed_passes, prepare_store, share_images
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import Setup, resolve
from fastclip.files import canonical_json, digest, write_whole
from fastclip.models.backbones import OPENAI_BACKBONES
from fastclip.store.parts import Part
from fastclip.store.store import RECIPE_FILE, SUFFIX, Store

DATASET = "many"


def write_manifest(shards: int, folder: Path) -> None:
    """A dataset that is nothing but its manifest."""
    rng = random.Random(shards)
    domain = Domain(name="a", images=shards, unreadable=0, class_images=(shards,), fingerprint="")
    rows = (
        Shard(
            name=f"a/{n}.tar",
            domain="a",
            images=1,
            bytes=1,
            sha256=rng.randbytes(32).hex(),
            index_sha256="0" * 64,
            images_sha256=rng.randbytes(32).hex(),
        )
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
    write_whole(folder / DATASET / MANIFEST, manifest.to_json())


def make_parts(setup: Setup) -> None:
    """Publish the recipes, and an empty file for every part, in place and not synced."""
    for (_, name), recipe in setup.recipes.items():
        folder = setup.store.folder / recipe.id
        write_whole(folder / RECIPE_FILE, canonical_json(recipe.to_document()))
        for unit in setup.units:
            if name in unit.recipes:
                os.close(os.open(f"{folder}/{unit.part}{SUFFIX}", os.O_CREAT | os.O_WRONLY))


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def before_it_begins(shards: int, backbones: int, rounds: int, work: Path) -> list[Measurement]:
    """The spans of a run with a store that has every part, and with one that has none."""
    write_manifest(shards, work / "shards")
    options = EvalOptions(
        targets=(DATASET,),
        backbones=tuple(OPENAI_BACKBONES)[:backbones],
        random_weights=True,
        shards=work / "shards",
        device="cpu",
        precision="fp32",
        store=work / "empty",
    )
    setup = resolve(options)
    assert len(missing_units(setup)) == shards == len(setup.units)
    full = replace(options, store=work / "full")
    make_parts(resolve(full))
    assert not resolve(full).units

    def in_new_store(span: Callable[[Setup], object], of: EvalOptions = options) -> Callable[[], object]:
        """The span with a store that has listed nothing yet."""
        return lambda: span(replace(setup, store=Store(of.store)))

    missing = missing_units(setup)
    spans: dict[str, Callable[[], object]] = {
        "read the manifest": lambda: read_manifest(work / "shards" / DATASET),
        "resolve, none there": lambda: resolve(options),
        "resolve, all there": lambda: resolve(full),
        "list the parts": lambda: [Store(full.store).parts(recipe.id) for recipe in setup.recipes.values()],
        "missing units, none there": in_new_store(missing_units),
        "missing units, all there": in_new_store(missing_units, full),
        "ask for each, all there": in_new_store(lambda own: [is_missing(own, unit) for unit in own.units], full),
        "ask for each, none there": in_new_store(lambda own: [is_missing(own, unit) for unit in own.units]),
        "owed passes, none there": in_new_store(lambda own: owed_passes(own, missing)),
        "images of a share": in_new_store(lambda own: share_images(own, missing)),
        "prepare and tidy": in_new_store(lambda own: prepare_store(own, missing)),
        "names of new units": lambda: [replace(unit).id for unit in setup.units],
        "shares of 8": lambda: shares(setup.units, 8),
        "shares of 1000": lambda: shares(setup.units, 1000),
    }
    found = []
    for name, span in spans.items():
        runs = [seconds_of(span) for _ in range(rounds)]
        settings = {"benchmark": "store.py", "shards": shards, "backbones": backbones}
        found.append(measurement(f"store, {name}", shards, runs, settings))
    return found


def publishing(parts: int, rounds: int, work: Path) -> list[Measurement]:
    """Publishing parts of 50 images and 512 numbers each, one after the other, in fp16."""
    rng = np.random.default_rng(0)
    part = Part(rng.normal(size=(50, 512)).astype(np.float16), np.ones(50, np.float32), ())
    write_manifest(1, work / "shards")
    options = EvalOptions(backbones=("RN50",), random_weights=True, shards=work / "shards", device="cpu")
    (recipe,) = resolve(options).recipes.values()

    def publish(store: Store) -> None:
        for number in range(parts):
            store.publish(recipe, digest(str(number).encode()), part)

    stores = [Store(work / f"published{number}") for number in range(rounds)]
    runs = [seconds_of(lambda store=store: publish(store)) for store in stores]
    return [measurement("store, publish", parts, runs, {"benchmark": "store.py", "bytes": part.embeddings.nbytes})]


def main() -> None:
    options = parser(__doc__, photos=False)
    options.add_argument("--shards", type=int, nargs="+", default=[1000, 10_000, 100_000])
    options.add_argument("--backbones", type=int, default=9, choices=range(1, 10))
    arguments = options.parse_args()
    for shards in arguments.shards:
        with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            keep(before_it_begins(shards, arguments.backbones, arguments.rounds, Path(folder)))
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        keep(publishing(1000, arguments.rounds, Path(folder)))


if __name__ == "__main__":
    main()
