"""The same bytes from any number of processes, and from one that was killed and run again."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastclip.errors import IntegrityError
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import Setup
from fastclip.sealed import unseal
from fastclip.verify.check import Check
from fastclip.verify.workers import CATCHES, RECORD, Job, Task, Workers, evaluate

BYTES, KILLED = "the same bytes", "killed, run again"

WORLD_SIZES = (1, 2, 3)


@dataclass(frozen=True)
class Written:
    """The contents of a store: path → bytes. Only a first worker scores: it writes the record, and the prototypes."""

    label: str
    files: Mapping[str, bytes]
    scored: bool


def check_bytes(
    options: EvalOptions, setup: Setup, folder: Path, on_step: Callable[[str], None], task: Task = evaluate
) -> Iterator[Check]:
    """Every part and record that any number of workers writes, or one that was killed, against a single one's.

    `setup` is that of `options`, the sample's. Every worker has a store of its own in `folder`, so that each embeds
    every shard, beginning with its own share; only the two that go on after the killed one share theirs.
    """
    assert setup.engine, "nothing of the sample is embedded yet"
    # Each holds a copy of the models: several at once load the machine, which is part of the test, but not a GPU.
    together = 1 if setup.engine.on_gpu else min(3, setup.process.cores)
    of_size = {of: [Job(i, of, store_of(folder, i, of)) for i in range(1, of + 1)] for of in WORLD_SIZES}
    called = part_names(setup)
    with Workers(options, together, task) as workers:
        complaints = workers.run(list(itertools.chain(*of_size.values())), on_step)
        on_step("killing a process, and going on with two")
        published, killed_store = workers.kill_halfway(folder, called)
        resumed = [Job(number, 2, killed_store) for number in (1, 2)] if published else []
        complaints |= workers.run(resumed, on_step)
    expected = contents(store_of(folder, 1, 1))
    for of, jobs in of_size.items():
        stores = [Written(str(job), contents(job.store), job.number == 1) for job in jobs]
        said = [complaints[job] for job in jobs if job in complaints]
        name, each = ("1 worker", "") if of == 1 else (f"{of} workers", f"{of} × ")
        yield bytes_check(name, f"{each}{len(called)} parts, 1 record", stores, expected, called, said)
    if not published:
        yield Check(BYTES, KILLED, f"ended {CATCHES} times before it could be killed", None)
        return
    figure = f"after {published} of {len(called)} parts; 2 workers went on"
    said = [complaints[job] for job in resumed if job in complaints]
    yield bytes_check(KILLED, figure, [Written(KILLED, contents(killed_store), True)], expected, called, said)


def store_of(folder: Path, number: int, of: int) -> Path:
    """The store of worker `number` of `of`."""
    return folder / f"{number}-of-{of}"


def part_names(setup: Setup) -> dict[str, str]:
    """The path in a store of every part that there must be → the backbone and the shard that it is of."""
    return {
        f"{recipe.id}/{unit.part}.safetensors": f"{backbone}, {unit.folder.name}/{unit.shard.name}"
        for unit in setup.units
        for backbone, recipe in unit.recipes.items()
    }


def bytes_check(
    name: str,
    figure: str,
    stores: Sequence[Written],
    expected: Mapping[str, bytes],
    called: Mapping[str, str],
    complaints: Sequence[str],
) -> Check:
    """Whether `stores` hold the `expected` files and nothing else, and these every part of `called`."""
    details = [f"{name}: {complaint}" for complaint in complaints]
    details += [f"{name}: {label} has no part" for path, label in called.items() if path not in expected]
    for store in stores:
        wanted = {path: data for path, data in expected.items() if store.scored or not _needs_score(path)}
        details += [f"{store.label}: {line}" for line in differences(wanted, store.files, called)]
    return Check(BYTES, name, figure, not details, tuple(details))


def contents(store: Path) -> dict[str, bytes]:
    """Every recipe, part, prototype and record in a store by its path, whole."""
    patterns = ("*/recipe.json", "*/*.safetensors", "prototypes/*/*.safetensors", RECORD)
    files = sorted(path for pattern in patterns for path in store.glob(pattern))
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def differences(expected: Mapping[str, bytes], found: Mapping[str, bytes], called: Mapping[str, str]) -> list[str]:
    """How `found` differs from what is `expected`, a line a file; none if every byte is the same."""
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        label = called.get(path) or re.sub("([0-9a-f]{8})[0-9a-f]{56}", r"\1…", path)
        if path not in found:
            lines.append(f"{label} is missing")
        elif path not in expected:
            lines.append(f"{label} should not be there")
        elif found[path] != expected[path]:
            lines.append(f"{label}: {_difference(expected[path], found[path])}")
    return lines


def _needs_score(path: str) -> bool:
    return path == RECORD or path.startswith("prototypes/")


def _difference(expected: bytes, found: bytes) -> str:
    """The difference in numbers where both are files of tensors, else the first line that differs."""
    with suppress(IntegrityError):
        ours, theirs = unseal(found, "")[0], unseal(expected, "")[0]
        for name, numbers in theirs.items():
            if name in ours and ours[name].shape == numbers.shape:
                apart = np.abs(ours[name].astype(np.float64) - numbers.astype(np.float64))
                if count := int((apart != 0).sum()):
                    return f"{count:,} of {apart.size:,} numbers differ, by up to {apart.max():.2g}"
        return "its facts differ, its numbers do not"
    lines = itertools.zip_longest(expected.splitlines(), found.splitlines(), fillvalue=b"nothing")
    was, now = next((pair for pair in lines if pair[0] != pair[1]), (b"ended otherwise", b"ended so"))
    return f"{now[:60].decode(errors='replace').strip()} was {was[:60].decode(errors='replace').strip()}"
