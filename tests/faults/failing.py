"""Calls that fail: which, with which errors, and what may come of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from faults import Fault
from faults.world import Command, Ended, World, digests

ERRORS: Mapping[str, tuple[str, ...]] = {
    "open": ("EMFILE", "ENFILE", "EIO", "ESTALE", "EACCES", "ENOMEM", "ETIMEDOUT"),
    "read": ("EIO", "ESTALE", "ETIMEDOUT", "ENOMEM"),
    "write": ("ENOSPC", "EIO", "EDQUOT"),
    "mmap": ("ENOMEM", "EACCES"),
    "stat": ("EIO", "ESTALE", "EACCES"),
    "link": ("EIO", "ENOSPC", "EACCES"),
    "rename": ("EIO", "ENOSPC", "EACCES"),
    "unlink": ("EIO", "EACCES"),
    "mkdir": ("ENOSPC", "EACCES", "EIO"),
    "fsync": ("EIO", "ENOSPC"),
    "close": ("EIO",),
    "list": ("EIO", "EMFILE", "ESTALE", "EACCES"),
}
"""Errors of the machine by call; a file that is not there is none."""

MOST_LINES = 12
"""Lines on stderr: two of the error, and what a good run prints there."""


@dataclass(frozen=True)
class Answer:
    """How a command ends undisturbed: on the world, and, in the same folder, once more."""

    ended: Ended
    outputs: dict[str, str]


def calm(world: World, command: Command) -> Answer:
    return Answer(*world.calm(command))


def calls(world: World, command: Command) -> Counter[tuple[str, str]]:
    """How often the command makes which call on which path below its folder."""
    folder = world.copy()
    log = world.faults.folder / "calls"
    log.unlink(missing_ok=True)
    faults = [Fault(f"{folder}/*", call) for call in ERRORS]
    world.run(folder, command, world.faults.env(*faults, log=log))
    lines = [line.split("\t") for line in log.read_text().splitlines()] if log.exists() else []
    counts: Counter[tuple[str, str]] = Counter((line[0], pattern(folder, line[2])) for line in lines)
    return counts


def pattern(folder: Path, path: str) -> str:
    """The pattern of a path: names of unfinished files hold a process's number."""
    name = Path(path).name.removesuffix(" (deleted)")
    pieces = name.split(".")
    if name.startswith(".") and name.endswith(".tmp") and len(pieces) > 4:
        name = ".".join(pieces[:-3]) + ".*.tmp"
    elif name.startswith(".") and name.endswith(".tmp"):
        name = ".*.tmp"
    return f"{Path(path).parent}/{name}"


def choose(world: World, command: Command, number: int, dice: random.Random, *, always: float = 0.3) -> list[Fault]:
    """Faults at random calls: kinds of calls are as likely as each other, then paths, then numbers."""
    by_call: dict[str, list[tuple[str, int]]] = {}
    for (call, path), times in sorted(calls(world, command).items()):
        by_call.setdefault(call, []).append((path, times))
    chosen = []
    for _ in range(number if by_call else 0):
        call = dice.choice(sorted(by_call))
        path, times = dice.choice(by_call[call])
        last = 0 if dice.random() < always else None
        chosen.append(Fault(path, call, dice.randint(1, times), last, errno=dice.choice(ERRORS[call])))
    return chosen


def failed(world: World, command: Command, fault: Fault, right: Answer) -> tuple[int, str]:
    """The exit code under a fault, and the reason why this, or the command after it, is wrong; "" if both are right."""
    folder = world.copy()
    ended = world.run(folder, command, world.faults.env(fault))
    why = _wrong(folder, command, fault, ended, right)
    if why:
        return ended.code, why
    return ended.code, afterwards(world, folder, command, right)


def afterwards(world: World, folder: Path, command: Command, right: Answer) -> str:
    """The reason why a command that is run once more, undisturbed, does not give what it should; "" if it does."""
    again = world.run(folder, command)
    if again.code != right.ended.code and "already" not in again.err:
        return f"exit {again.code} afterwards: {again.err.strip()[:300]}"
    found = digests(folder, command.outputs)
    differing = [name for name in {**right.outputs, **found} if right.outputs.get(name) != found.get(name)]
    return f"afterwards {', '.join(differing[:4])} differ" if differing else ""


def _wrong(folder: Path, command: Command, fault: Fault, ended: Ended, right: Answer) -> str:
    if "Traceback" in ended.err:
        return "a traceback: " + ended.err.strip().splitlines()[-1][:300]
    if ended.code not in (right.ended.code, 2, 4):
        return f"exit {ended.code}: {ended.err.strip()[-300:]}"
    if len(ended.err.splitlines()) > len(right.ended.err.splitlines()) + MOST_LINES:
        return f"{len(ended.err.splitlines())} lines on stderr"
    if ended.code == right.ended.code:
        found = digests(folder, command.outputs)
        differing = [name for name in {**right.outputs, **found} if right.outputs.get(name) != found.get(name)]
        # Prototypes that cannot be kept are computed again.
        differing = [name for name in differing if name in found or "prototypes" not in Path(name).parts]
        return f"exit {ended.code}, but {', '.join(differing[:4])} differ" if differing else ""
    if ended.code == 2 and fault.errno != "EACCES":
        return f"exit 2, as if it were the user's mistake: {ended.err.strip()[-300:]}"
    if not _names(ended.out + ended.err, Path(fault.paths), folder):
        return f"exit {ended.code} names no path: {ended.err.strip()[-300:]}"
    return ""


def _names(told: str, path: Path, folder: Path) -> bool:
    """Whether a run names the file at which a call failed, or a folder that it lies in."""
    unfinished = path.name.startswith(".") and path.name.endswith(".tmp")
    name = path.name[1:].partition(".*")[0].removesuffix(".tmp") if unfinished else path.name
    parents = [str(each.relative_to(folder)) for each in path.parents if each.is_relative_to(folder)]
    deep = [each for each in parents if "/" in each] or [each for each in parents if each != "."]
    return (name not in ("", "*") and name in told) or any(each in told for each in deep)
