"""Inputs that are replaced while a command runs: at which moments, how, and what may come of it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from faults import Fault
from faults.world import COMMANDS, Ended, World, digests
from faults.zygote import Running

WINDOWS = ("open", "stat", "read", "mmap", "close")
"""Calls on an input before which a command is held."""


@dataclass(frozen=True)
class Case:
    """A command, an input of it, and the file of the world that takes its place."""

    command: str
    input: str
    other: str
    elsewhere: tuple[tuple[str, str], ...] = ()
    """Further windows: calls and patterns of paths, such as the first publishing."""


LATER = (("link", "*/new/*"), ("open", "*/new/prototypes*"), ("rename", "*/r.json"))
"""The first part is published; the text tower is asked; the result is written."""

CASES: Mapping[str, Case] = {
    "weights": Case("eval", "weights.safetensors", "other.safetensors", LATER),
    "weights, kept embeddings": Case("eval again", "weights.safetensors", "other.safetensors"),
    "fine-tuned weights": Case("wise", "tuned.safetensors", "tuned2.safetensors", LATER),
    "weights of a training": Case("finetune", "weights.safetensors", "other.safetensors", LATER),
    "tar": Case("eval", "shards/shapes/flat/0.tar", "others/shapes/flat/0.tar", LATER),
    "tar of a training": Case("finetune", "shards/shapes/flat/0.tar", "others/shapes/flat/0.tar"),
    "tar of a page": Case("report", "shards/shapes/texture/1.tar", "others/shapes/texture/1.tar"),
    "index": Case("eval", "shards/shapes/flat/0.index.jsonl", "relabelled.jsonl", LATER),
    "index, kept embeddings": Case("eval again", "shards/shapes/flat/0.index.jsonl", "relabelled.jsonl"),
    "index of a probe": Case("probe", "shards/shapes/flat/0.index.jsonl", "relabelled.jsonl"),
    "index of features": Case("features", "shards/shapes/flat/0.index.jsonl", "relabelled.jsonl"),
    "manifest": Case("eval", "shards/shapes/manifest.json", "others/shapes/manifest.json", LATER),
    "part": Case("eval again", "PART", "OTHER PART"),
    "part of a probe": Case("probe", "PART", "OTHER PART"),
    "index of export": Case("export", "shards/shapes/flat/0.index.jsonl", "relabelled.jsonl"),
    "tar of export": Case("export", "shards/shapes/flat/0.tar", "others/shapes/flat/0.tar"),
    "predictions of export": Case("export a run", "kept/predictions.parquet", "kept2/predictions.parquet"),
    "index of search": Case("search", "shards/shapes/flat/0.index.jsonl", "relabelled.jsonl"),
    "part of search": Case("search", "PART", "OTHER PART"),
    "part of features": Case("features", "PART", "OTHER PART"),
    "part that is copied": Case("store copy", "PART", "OTHER PART"),
    "prototypes": Case("eval again", "PROTOTYPES", "OTHER PROTOTYPES"),
    "head": Case("eval --head", "head.safetensors", "other_head.safetensors"),
    "result": Case("report", "kept/result.json", "kept2/result.json"),
    "predictions": Case("report", "kept/predictions.parquet", "kept2/predictions.parquet"),
    "predictions that are compared": Case("compare", "kept/predictions.parquet", "kept2/predictions.parquet"),
    "source image": Case("shard a tree", "IMAGE", "OTHER IMAGE"),
    "zip": Case("shard a zip", "source.zip", "source2.zip"),
    "tar archive": Case("shard a tar", "source.tar", "source2.tar"),
    "tgz": Case("shard a tgz", "source.tgz", "source2.tgz"),
    "parquet": Case("shard parquet", "parquet-of-source/train.parquet", "parquet-of-source2/train.parquet"),
    "their tar": Case("shard webdataset", "shards/theirs/test/0.tar", "others/theirs/test/0.tar"),
}


STORES = ("new", "embeddings", "copied")
"""Outputs that a command adds to; it refuses to write over the others, or replaces them."""


@dataclass(frozen=True)
class Window:
    """Before call number `number` of a kind on the paths of a pattern."""

    call: str
    number: int
    paths: str


def rename(path: Path, data: Path) -> Callable[[], None]:
    """Rename a copy of `data` over `path`. Returns the way back: the very file that was there before."""
    outside = next(folder for folder in path.parents if folder.name in ("copy", "calm")).parent
    aside, fresh = outside / "aside", outside / "fresh"
    aside.unlink(missing_ok=True)
    shutil.copy(data, fresh)
    os.link(path, aside)
    fresh.replace(path)
    return lambda: aside.replace(path)  # type: ignore[return-value]


def in_place(path: Path, data: Path) -> Callable[[], None]:
    """Write the bytes of `data` into `path`. Returns the way back: the bytes and the time that it had before."""
    old, facts = path.read_bytes(), path.stat()

    def write(new: bytes) -> None:
        with path.open("r+b") as file:
            file.write(new)
            file.truncate()

    def back() -> None:
        if not path.exists():
            return  # the command has moved it aside
        write(old)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    write(data.read_bytes())
    return back


WAYS: Mapping[str, Callable[[Path, Path], Callable[[], None]]] = {"by rename": rename, "in place": in_place}


@dataclass(frozen=True)
class Right:
    """The two right ends of a command: with the one file, and with the other."""

    with_input: tuple[int, dict[str, str]]
    with_other: tuple[int, dict[str, str]]


def resolved(world: World, case: Case) -> Case:
    return replace(case, input=world.names.get(case.input, case.input), other=world.names.get(case.other, case.other))


def right_answers(world: World, case: Case) -> Right:
    command = COMMANDS[case.command]
    answers = []
    for replaced in (False, True):
        folder = world.copy("calm")
        if replaced:
            rename(folder / case.input, folder / case.other)
        ended = world.run(folder, command)
        answers.append((ended.code, digests(folder, command.outputs)))
    return Right(*answers)


def windows(world: World, case: Case) -> list[Window]:
    """Every call of the command on the input, and the later ones."""
    folder = world.copy("calm")
    command = COMMANDS[case.command]
    pattern = f"*/{case.input}"
    log = world.faults.folder / "calls"
    log.unlink(missing_ok=True)
    world.run(folder, command, world.faults.env(*[Fault(pattern, call) for call in WINDOWS], log=log))
    calls = [line.split("\t")[0] for line in log.read_text().splitlines()] if log.exists() else []
    places = [Window(call, number, pattern) for call in WINDOWS for number in range(1, calls.count(call) + 1)]
    return places + [Window(call, 1, paths) for call, paths in case.elsewhere]


def disturbed(
    world: World, case: Case, window: Window, way: str, *, back: bool = False, folder: Path | None = None
) -> tuple[bool, Ended, Path]:
    """Whether the window was reached, how the command ended whose input was replaced there, and its folder.

    With `back` the right file is back before the next call of the same kind.
    """
    folder = folder or world.copy()
    marker, second = world.faults.folder / "first window", world.faults.folder / "second window"
    for each in (marker, second):
        each.unlink(missing_ok=True)
    rules = [Fault(window.paths, window.call, window.number, hold=str(marker))]
    if back:
        rules.append(Fault(window.paths, window.call, window.number + 1, hold=str(second)))
    running = world.start(folder, COMMANDS[case.command], world.faults.env(*rules))
    reached = _wait(running, marker)
    if reached:
        undo = WAYS[way](folder / case.input, folder / case.other)
        marker.unlink()
        if back and _wait(running, second):
            undo()
            second.unlink()
    return reached, Ended(running.wait(), running.printed(), running.complained()), folder


def _wait(running: Running, marker: Path) -> bool:
    while not marker.exists():
        if running.ended():
            return False
        time.sleep(0.002)
    return True


def wrong(right: Right, ended: Ended, folder: Path, case: Case) -> str:
    """The reason why an end is wrong; "" if it is right."""
    if "Traceback" in ended.err:
        return "a traceback"
    found = digests(folder, COMMANDS[case.command].outputs)
    answers = (right.with_input, right.with_other)
    for name, digest in found.items():  # what is published under a name is what that name stands for
        known = {files.get(name) for _, files in answers} - {None}
        if name.endswith(".safetensors") and digest not in known and "/damaged/" not in name and name != case.input:
            return f"exit {ended.code}, and {name} has other bytes"
    if ended.code == 5:
        return ""
    for code, files in answers:
        told = {name: digest for name, digest in files.items() if not name.endswith(".safetensors")}
        if code == ended.code and all(found.get(name) == digest for name, digest in told.items()):
            return ""
    if ended.code == 0:
        differing = [name for name, digest in found.items() if digest != right.with_input[1].get(name)]
        return f"exit 0 with other numbers in {', '.join(differing[:4])}"
    return f"exit {ended.code}: {ended.err.strip()[:300]}"


def poisoned(world: World, right: Right, folder: Path, case: Case) -> str:
    """The reason why the same command, with the right file back, does not give what it should; "" if it does."""
    command = COMMANDS[case.command]
    original = world.template / case.input
    for output in command.outputs:
        if output not in STORES:
            shutil.rmtree(folder / output, ignore_errors=True)
    (folder / case.input).unlink(missing_ok=True)
    shutil.copy2(original, folder / case.input)
    ended = world.run(folder, command)
    found = digests(folder, command.outputs)
    if ended.code != right.with_input[0]:
        return f"exit {ended.code} when the right file is back: {ended.err.strip()[:300]}"
    differing = [name for name, digest in right.with_input[1].items() if found.get(name) != digest]
    return f"when the right file is back: {', '.join(differing[:4])} differ" if differing else ""


def every_attack(world: World, case: Case) -> Iterator[tuple[Window, str, bool]]:
    for window in windows(world, case):
        for way in WAYS:
            for back in (False, True):
                if not back or "*/" + case.input == window.paths:
                    yield window, way, back
