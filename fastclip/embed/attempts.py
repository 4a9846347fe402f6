"""Notes of who is at which unit, and which unit nobody should try any more. Never locks: a unit may be done twice.

    STORE/attempts/UNIT.PROCESS       empty; there from the opening of a unit until its parts are published
    STORE/processes/PROCESS.json      what a process embeds under; touched every few seconds while it lives
    STORE/given_up/UNIT.json          a unit that killed even a process of its own, until a person deletes the file

So processes keep out of each other's way, and a unit that kills is recognised by the notes of the dead: after one death
one process at a time tries it, after two a process started for it alone, and if that dies, nobody.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastclip.embed.plan import Unit
from fastclip.errors import IncompleteError, UserError
from fastclip.files import read_file, write_over
from fastclip.machine import started, this_machine
from fastclip.store.store import DAY_S

DEATHS = 2
"""After so many deaths, a unit is tried in a separate process."""

HEARTBEAT_S = 10.0
"""Seconds between the signs of life of a process. Without one for three times as long it counts as silent."""

LONGEST_WAIT_S = 600.0
"""Seconds after which even a unit that somebody died of is tried beside others that are at it."""

PARENT_MAY_FOLLOW_S = 2.0
"""Somebody who kills all processes of a run may begin with a child: its parent must not draw conclusions at once."""

_NAME = r"[0-9a-f]{12}-[0-9]+-[0-9]+"
_NOTE = re.compile(rf"([0-9a-f]{{32}})\.({_NAME})")
_UNIT_FILE = r"[0-9a-f]{32}\.json"


@dataclass
class _Others:
    """The other processes at a unit. A frozen one is in neither number: nobody waits for it, and it is not dead."""

    dead: int = 0
    alive: int = 0
    names: list[str] = field(default_factory=list)


class Attempts:
    """The notes beside a store. `machine` and `process` say whose notes this object writes."""

    def __init__(self, store: Path, machine: str | None = None, process: int | None = None) -> None:
        self._notes, self._processes, self._given_up = (store / n for n in ("attempts", "processes", "given_up"))
        self._machine = machine or this_machine()
        process = process or os.getpid()
        self._me = f"{self._machine}-{process}-{started(process) or 0}"
        self._lock = threading.Lock()
        self._mine: set[str] = set()
        self._closed = False
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None
        self.deadly: list[Unit] = []
        """Units that `in_good_order` kept back, because processes died of them."""

    def join(self, run: str, rank: int, facts: Mapping[str, Any]) -> None:
        """Say what this process embeds under: `facts` of each backbone by name. To be called before `begin`.

        Raises `UserError` if a living process of the same `run` embeds a backbone under other facts: the two would
        never use each other's parts.
        """
        data = json.dumps({"run": run, "rank": rank, "host": platform.node(), "facts": dict(facts)}).encode()
        sign = json.loads(data)  # tuples as lists, like the others' signs
        with suppress(IncompleteError):  # a store that cannot be written to says so when a part is published
            write_over(self._sign, data)
        self._start_heart()
        now = self._now()
        for path in self._processes.glob("*.json"):
            if path == self._sign or not re.fullmatch(_NAME, path.stem) or not self._lives(path.stem, now):
                continue
            with suppress(OSError, ValueError, KeyError, TypeError):
                if (other := json.loads(read_file(path)))["run"] == run:
                    _refuse_unlike(sign, other)

    def tidy(self) -> None:
        """Remove signs that nobody has touched for a day: their processes are dead."""
        for path in self._processes.glob("*.json"):
            with suppress(OSError):
                if re.fullmatch(_NAME, path.stem) and time.time() - path.stat().st_mtime > DAY_S:
                    path.unlink()

    def begin(self, unit: Unit) -> None:
        """Say that this process is at `unit`."""
        with self._lock:
            if self._closed:
                return
            if unit.id in self._mine:
                return
            self._mine.add(unit.id)
            with suppress(OSError):
                try:
                    self._note(unit.id).touch()
                except FileNotFoundError:
                    self._notes.mkdir(parents=True, exist_ok=True)
                    self._note(unit.id).touch()
        self._start_heart()

    def end(self, unit: Unit) -> None:
        """Say that nothing is left to do for `unit`."""
        with self._lock:
            self._mine.discard(unit.id)
        for name in self._all_notes().get(unit.id, ()):
            with suppress(OSError):
                (self._notes / f"{unit.id}.{name}").unlink()

    def end_all(self, *, closed: bool = False) -> None:
        """Take back what this process has begun: it stops, and did not die. `closed`: it begins nothing any more."""
        with self._lock, suppress(OSError):
            self._closed = closed
            if closed:
                self._ended.set()  # in a notebook the heart would beat on for seconds
            while self._mine:
                self._note(self._mine.pop()).unlink(missing_ok=True)
            if closed:
                self._sign.unlink(missing_ok=True)

    def in_good_order(
        self,
        units: Iterable[Unit],
        is_missing: Callable[[Unit], bool],
        on_stage: Callable[[str], None] = lambda stage: None,
    ) -> Iterator[Unit]:
        """The missing units: first those that nobody is at, then those that others began and have not finished.

        `on_stage` is told while it waits for others, and with an empty text when it does not any more.

        A unit that somebody died of is never tried by two at a time. Units that were given up are left out, and so are
        those in `deadly`.
        """
        self.deadly.clear()
        begun = []
        noted = set(self._all_notes())
        for unit in units:
            if not is_missing(unit):
                if unit.id in noted:  # somebody who was at it died after the last part was published
                    self.end(unit)
            elif not self.given_up(unit):
                if self._may_join(unit, most=1):
                    yield unit
                else:
                    begun.append(unit)
        until = time.monotonic() + LONGEST_WAIT_S
        while begun:
            on_stage(f"waiting for other processes, which are at {len(begun):,} of the shards")
            waiting = []
            for unit in begun:
                others = self._look(unit)
                if not is_missing(unit):
                    self.end(unit)
                elif not others.alive and others.dead >= DEATHS:
                    self.deadly.append(unit)
                elif self.given_up(unit):
                    continue
                elif time.monotonic() > until or self._may_join(unit, most=DEATHS):
                    on_stage("")
                    yield unit
                else:
                    waiting.append(unit)
            if len(waiting) == len(begun):
                time.sleep(random.uniform(0.2, 0.6))  # not at the same moment as the others
            begun = waiting
        on_stage("")

    def may_try_alone(self, unit: Unit, is_missing: Callable[[Unit], bool]) -> bool:
        """Whether a unit of `deadly` is still to be tried. Waits for another process that tries it."""
        until = time.monotonic() + LONGEST_WAIT_S
        while is_missing(unit) and not self.given_up(unit):
            if not self._look(unit).alive or time.monotonic() > until:
                return True
            time.sleep(0.5)
        return False

    def give_up(self, unit: Unit, reason: str) -> None:
        """Let nobody try `unit` again, until a person deletes the file that says so."""
        time.sleep(PARENT_MAY_FOLLOW_S)
        facts = {"dataset": unit.folder.name, "shard": unit.shard.name, "reason": reason}
        write_over(self._path(unit), json.dumps(facts, indent=1).encode() + b"\n")

    def given_up(self, unit: Unit) -> Path | None:
        """The file that says why `unit` is not tried any more; None for one that may be."""
        path = self._path(unit)
        return path if path.is_file() else None

    def all_given_up(self) -> set[str]:
        """The ids of all units that nobody tries any more."""
        with suppress(OSError):
            return {
                path.stem for path in self._given_up.iterdir() if re.fullmatch(_UNIT_FILE, path.name) and path.is_file()
            }
        return set()

    def _may_join(self, unit: Unit, most: int) -> bool:
        """Whether this process may be at `unit` too, where fewer than `most` are or died. If so, it has begun.

        It asks again with its own note there: of several that come at once, one joins.
        """
        others = self._look(unit)
        if others.alive + others.dead >= most:
            return False
        self.begin(unit)
        others = self._look(unit)
        if others.alive + others.dead < most or self._me < min(others.names):
            return True
        with self._lock, suppress(OSError):
            self._mine.discard(unit.id)
            self._note(unit.id).unlink(missing_ok=True)
        return False

    def _look(self, unit: Unit) -> _Others:
        found = _Others()
        names = [name for name in self._all_notes().get(unit.id, ()) if name != self._me]
        now = self._now() if names else 0.0
        for name in names:
            machine, process, start = name.split("-")
            here = machine == self._machine
            lives = self._lives(name, now)
            if lives:
                found.alive += 1
                found.names.append(name)
            elif not here or (started(int(process)) or "0") != start:
                found.dead += 1
                found.names.append(name)
        return found

    def _lives(self, name: str, now: float) -> bool:
        """Whether a process gives signs of life: one of this machine must be there, and all have a beating heart."""
        machine, process, start = name.split("-")
        if machine == self._machine and (started(int(process)) or "0") != start:
            return False
        try:
            return now - (self._processes / f"{name}.json").stat().st_mtime < 3 * HEARTBEAT_S
        except OSError:
            return False

    def _all_notes(self) -> dict[str, list[str]]:
        """Unit → the processes that left a note at it. Files that are called otherwise are nobody's notes."""
        found: dict[str, list[str]] = {}
        with suppress(OSError):
            for entry in os.scandir(self._notes):
                if match := _NOTE.fullmatch(entry.name):
                    found.setdefault(match[1], []).append(match[2])
        return found

    def _now(self) -> float:
        """The time by the file server's clock, to which all signs of life belong."""
        with suppress(OSError):
            self._beat_once()
            return self._sign.stat().st_mtime
        return time.time()

    def _start_heart(self) -> None:
        with self._lock:
            if self._heart or self._closed:
                return
            self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        with suppress(OSError):
            self._beat_once()
        self._heart.start()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            with suppress(OSError):
                self._beat_once()

    def _beat_once(self) -> None:
        with self._lock:
            if not self._closed:
                self._processes.mkdir(parents=True, exist_ok=True)
                self._sign.touch()

    @property
    def _sign(self) -> Path:
        return self._processes / f"{self._me}.json"

    def _path(self, unit: Unit) -> Path:
        return self._given_up / f"{unit.id}.json"

    def _note(self, unit_id: str) -> Path:
        return self._notes / f"{unit_id}.{self._me}"


def _refuse_unlike(mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    for backbone, facts in mine["facts"].items():
        theirs = other["facts"].get(backbone, facts)
        if theirs == facts:
            continue
        names = [name for name in facts if facts[name] != theirs.get(name)]
        apart = "; ".join(f"{name}: {theirs.get(name)} there, {facts[name]} here" for name in names)
        raise UserError(
            f"Process {mine['rank'] + 1} on {mine['host']} would embed {backbone} under another recipe than process "
            f"{other['rank'] + 1} on {other['host']} ({apart}).",
            fix="Give one run to machines of one kind. Either finish with one kind alone (a store read by every kind), "
            "or give each kind a run of its own, with another number of processes or another --store.",
        )
