"""Who is at which unit, and which unit nobody should try any more. Notes, never locks: a unit may be done twice.

From opening a unit until its parts are published a process leaves an empty file. So processes keep out of each other's
way, two runs of the same command share the work, and a unit that kills whoever embeds it is recognised.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from fastclip.embed.plan import Unit
from fastclip.files import digest, write_whole
from fastclip.launcher import started

DEATHS = 2
"""A unit that so many processes died of, as far as anybody knows, is next tried in a process of its own."""

HEARTBEAT_S = 10.0
"""How often a process says that it is still at its units; only other machines look, this one knows better."""

PARENT_MAY_FOLLOW_S = 2.0
"""Whoever kills all processes of a run may begin with a child: then its parent must not draw conclusions."""


class Attempts:
    """The notes beside a store. `machine` and `process` say whose notes this object writes."""

    def __init__(self, store: Path, machine: str | None = None, process: int | None = None) -> None:
        self._notes = store / "attempts"
        self._given_up = store / "given_up"
        self._machine = machine or _this_machine()
        process = process or os.getpid()
        self._me = f"{self._machine}-{process}-{started(process)}"
        self._mine: set[str] = set()
        self._heart: threading.Thread | None = None
        self.deadly: list[Unit] = []
        """Units that `in_good_order` kept back, because processes died of them."""

    def begin(self, unit: Unit) -> None:
        """Say that this process is at `unit`."""
        self._mine.add(unit.id)
        with suppress(OSError):  # a store that cannot be written to says so when a part is published
            self._notes.mkdir(parents=True, exist_ok=True)
            self._note(unit.id).touch()
        if not self._heart:
            self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._heart.start()

    def end(self, unit: Unit) -> None:
        """Say that nothing is left to do for `unit`."""
        self._mine.discard(unit.id)
        with suppress(OSError):
            for note in self._notes.glob(f"{unit.id}.*"):
                note.unlink(missing_ok=True)

    def end_all(self) -> None:
        """Take back what this process has begun: it stops, and did not die."""
        with suppress(OSError):
            while self._mine:
                self._note(self._mine.pop()).unlink(missing_ok=True)

    def in_good_order(self, units: Iterable[Unit], is_missing: Callable[[Unit], bool]) -> Iterator[Unit]:
        """The missing units: first those that nobody is at, then those that others began and have not finished.

        Units that were given up are left out, and so are those in `deadly`.
        """
        self.deadly.clear()
        begun = []
        noted = self._noted()
        for unit in units:
            if not is_missing(unit):
                if unit.id in noted:  # whoever was at it died after the last part was published
                    self.end(unit)
                continue
            if self.given_up(unit):
                continue
            if self._others(unit):
                begun.append(unit)
            else:
                yield unit
        suspects = [unit for unit in begun if sum(map(self._may_be_dead, self._others(unit))) >= DEATHS]
        silent = self._silent(suspects, is_missing)
        for unit in begun:
            if not is_missing(unit):
                self.end(unit)
            elif len(silent.get(unit.id, ())) >= DEATHS:
                self.deadly.append(unit)
            else:
                yield unit

    def give_up(self, unit: Unit, reason: str) -> None:
        """Let nobody try `unit` again, until a person deletes the file that says so."""
        time.sleep(PARENT_MAY_FOLLOW_S)
        facts = {"dataset": unit.folder.name, "shard": unit.shard.name, "reason": reason}
        write_whole(self._path(unit), json.dumps(facts, indent=1).encode() + b"\n")

    def given_up(self, unit: Unit) -> Path | None:
        """The file that says why `unit` is not tried any more; None for one that may be."""
        path = self._path(unit)
        return path if path.is_file() else None

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

    def _others(self, unit: Unit) -> dict[Path, float]:
        """The notes of other processes at `unit`, and when each was last written to."""
        notes = {}
        for path in self._notes.glob(f"{unit.id}.*"):
            with suppress(OSError):
                if path != self._note(unit.id):
                    notes[path] = path.stat().st_mtime
        return notes

    def _may_be_dead(self, note: Path) -> bool:
        """Whether the process that left `note` is gone, or runs where that cannot be seen."""
        machine, process, start = note.name.partition(".")[2].split("-")
        return machine != self._machine or started(int(process)) != start

    def _silent(self, units: Sequence[Unit], is_missing: Callable[[Unit], bool]) -> dict[str, set[Path]]:
        """Of each unit the notes of processes that are dead: gone, or on another machine and without a heartbeat."""
        before = {unit.id: self._others(unit) for unit in units}
        dead = {unit_id: set(filter(self._may_be_dead, notes)) for unit_id, notes in before.items()}
        elsewhere = any(self._machine not in note.name for notes in dead.values() for note in notes)
        until = time.monotonic() + 2.5 * HEARTBEAT_S
        while elsewhere and time.monotonic() < until and any(map(is_missing, units)):
            time.sleep(0.5)
        for unit in units:
            now = self._others(unit)
            dead[unit.id] = {note for note in dead[unit.id] if now.get(note) == before[unit.id][note]}
        return dead


def _this_machine() -> str:
    """A name for the processes that can see each other: those of one boot and one container."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return digest((boot + str(Path("/proc/self/ns/pid").readlink())).encode())[:12]
    return digest(os.urandom(16))[:12]  # no /proc: everybody is elsewhere
