"""Who is at which unit, and which unit nobody should try any more. Notes, never locks: a unit may be done twice.

From opening a unit until its parts are published a process leaves an empty file. So processes keep out of each other's
way, two runs of the same command share the work, and a unit that kills whoever embeds it is recognised: after one death
a single process tries it, after two a process of its own does, and after a third nobody.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fastclip.embed.plan import Unit
from fastclip.files import digest, write_whole
from fastclip.machine import started

DEATHS = 2
"""A unit that so many processes died of, as far as anybody knows, is next tried in a process of its own."""

HEARTBEAT_S = 10.0
"""How often a process says that it is still at its units."""

LONGEST_WAIT_S = 600.0
"""How long at most others are waited for that are at a unit which somebody died of."""

PARENT_MAY_FOLLOW_S = 2.0
"""Whoever kills all processes of a run may begin with a child: then its parent must not draw conclusions."""


@dataclass
class _Notes:
    """The other processes at a unit: those that are gone, those that are at it, and those that may be either."""

    dead: int = 0
    alive: int = 0
    unknown: int = 0
    names: list[str] = field(default_factory=list)

    @property
    def all(self) -> int:
        return self.dead + self.alive + self.unknown


class Attempts:
    """The notes beside a store. `machine` and `process` say whose notes this object writes."""

    def __init__(self, store: Path, machine: str | None = None, process: int | None = None) -> None:
        self._notes = store / "attempts"
        self._given_up = store / "given_up"
        self._machine = machine or _this_machine()
        process = process or os.getpid()
        self._me = f"{self._machine}-{process}-{started(process)}"
        self._lock = threading.Lock()
        self._mine: set[str] = set()
        self._closed = False
        self._heart: threading.Thread | None = None
        self._first_seen: dict[str, tuple[float, float]] = {}
        """Note → its time stamp when it was first looked at, and when that was."""
        self.deadly: list[Unit] = []
        """Units that `in_good_order` kept back, because processes died of them."""

    def begin(self, unit: Unit) -> None:
        """Say that this process is at `unit`."""
        with self._lock:
            if self._closed:
                return
            self._mine.add(unit.id)
            with suppress(OSError):  # a store that cannot be written to says so when a part is published
                self._notes.mkdir(parents=True, exist_ok=True)
                self._note(unit.id).touch()
            if not self._heart:
                self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
                self._heart.start()

    def end(self, unit: Unit) -> None:
        """Say that nothing is left to do for `unit`."""
        with self._lock:
            self._mine.discard(unit.id)
        with suppress(OSError):
            for note in self._notes.glob(f"{unit.id}.*"):
                note.unlink(missing_ok=True)

    def end_all(self, *, closed: bool = False) -> None:
        """Take back what this process has begun: it stops, and did not die. `closed`: it begins nothing any more."""
        with self._lock, suppress(OSError):
            self._closed = closed
            while self._mine:
                self._note(self._mine.pop()).unlink(missing_ok=True)

    def in_good_order(self, units: Iterable[Unit], is_missing: Callable[[Unit], bool]) -> Iterator[Unit]:
        """The missing units: first those that nobody is at, then those that others began and have not finished.

        A unit that nobody survived so far is not for two at a time: whoever is at it is waited for. Units that were
        given up are left out, and so are those in `deadly`.
        """
        self.deadly.clear()
        begun = []
        noted = self._noted()
        for unit in units:
            if not is_missing(unit):
                if unit.id in noted:  # whoever was at it died after the last part was published
                    self.end(unit)
            elif not self.given_up(unit):
                if self._may_join(unit, most=1):
                    yield unit
                else:
                    begun.append(unit)
        until = time.monotonic() + LONGEST_WAIT_S
        while begun:
            waiting = []
            for unit in begun:
                if not is_missing(unit):
                    self.end(unit)
                elif self.given_up(unit):
                    continue
                else:
                    notes = self._look(unit)
                    if not notes.alive and not notes.unknown and notes.dead >= DEATHS:
                        self.deadly.append(unit)
                    elif time.monotonic() > until or self._may_join(unit, most=DEATHS):
                        yield unit
                    else:
                        waiting.append(unit)
            if len(waiting) == len(begun):
                time.sleep(random.uniform(0.2, 0.6))  # not at the same moment as the others
            begun = waiting

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
        write_whole(self._path(unit), json.dumps(facts, indent=1).encode() + b"\n")

    def given_up(self, unit: Unit) -> Path | None:
        """The file that says why `unit` is not tried any more; None for one that may be."""
        path = self._path(unit)
        return path if path.is_file() else None

    def all_given_up(self) -> set[str]:
        """The ids of all units that nobody tries any more."""
        with suppress(OSError):
            return {path.stem for path in self._given_up.iterdir()}
        return set()

    def _may_join(self, unit: Unit, most: int) -> bool:
        """Whether this process may be at `unit` too, where `most` may be or may have died. If so, it has begun.

        Asked again with its own note there: of several that come at once, one joins.
        """
        if self._look(unit).all >= most:
            return False
        self.begin(unit)
        others = self._look(unit)
        if others.all < most or self._me < min(others.names):
            return True
        with self._lock, suppress(OSError):
            self._mine.discard(unit.id)
            self._note(unit.id).unlink(missing_ok=True)
        return False

    def _noted(self) -> set[str]:
        """The units that processes are at, or died at."""
        with suppress(OSError):
            return {path.name.partition(".")[0] for path in self._notes.iterdir()}
        return set()

    def _path(self, unit: Unit) -> Path:
        return self._given_up / f"{unit.id}.json"

    def _note(self, unit_id: str) -> Path:
        return self._notes / f"{unit_id}.{self._me}"

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_S)
            for unit_id in tuple(self._mine):
                with suppress(OSError):
                    os.utime(self._note(unit_id))

    def _others(self, unit: Unit) -> list[Path]:
        """The notes of other processes at `unit`."""
        with suppress(OSError):
            return [path for path in self._notes.glob(f"{unit.id}.*") if path != self._note(unit.id)]
        return []

    def _look(self, unit: Unit) -> _Notes:
        """What is known of the others at `unit`.

        A process of this machine is there or not. One of another machine, or one that is frozen, is known by its
        heart, which must be watched for a while; one that does not beat counts as dead, but a frozen one for nothing.
        """
        found = _Notes()
        for note in self._others(unit):
            found.names.append(name := note.name.partition(".")[2])
            machine, process, start = name.split("-")
            here = machine == self._machine
            if here and started(int(process)) != start:
                found.dead += 1
                continue
            with suppress(OSError):
                beat, now = note.stat().st_mtime, time.monotonic()
                first, since = self._first_seen.setdefault(note.name, (beat, now))
                if beat != first:
                    found.alive += 1
                elif now - since < 2.5 * HEARTBEAT_S:
                    found.alive += here
                    found.unknown += not here
                elif not here:
                    found.dead += 1
        return found


def _this_machine() -> str:
    """A name for the processes that can see each other: those of one boot and one container."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return digest((boot + str(Path("/proc/self/ns/pid").readlink())).encode())[:12]
    return digest(os.urandom(16))[:12]  # no /proc: everybody is elsewhere
