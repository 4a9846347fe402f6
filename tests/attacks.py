"""Attacks on every command for as long as one likes: no wrong number, no traceback, no undocumented exit code.

    .venv/bin/python tests/attacks.py [--minutes 10] [--seed 0] [--kinds replaced,failing,signals,servers]
    .venv/bin/python tests/attacks.py --seed 3 --attack 17      # that one again

An attack replaces an input while a command runs, fails one of its calls, sends it a signal, or gives it a server that
lies. Afterwards the same command, undisturbed, must give what it gives where nothing ever happened. Each attack is a
pure function of the seed and its number, but for the moment at which a signal hits. It goes on after a failure.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from faults import failing, replaced
from faults.world import COMMANDS, Ended, World, add_fine_tuned, digests, world
from servers import FAULTS, Server

DOCUMENTED = (0, 2, 3, 4, 5)
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
LONGEST_STOP_S = 10.0
IMPATIENT = {"FASTCLIP_TIMEOUT_S": "1", "FASTCLIP_RETRIES": "2", "no_proxy": "127.0.0.1"}
CARD = 'classes = ["cat"]\n[[domains]]\nname = "all"\n[[downloads]]\nurl = "{url}"\nsha256 = "{sha256}"\n'


@dataclass
class Attacks:
    """All attacks on a world, and what is known of undisturbed commands."""

    world: World
    quick: bool
    known: dict[str, failing.Answer] = field(default_factory=dict)
    rights: dict[str, replaced.Right] = field(default_factory=dict)
    every: dict[str, list[tuple[replaced.Window, str, bool]]] = field(default_factory=dict)

    @cached_property
    def commands(self) -> list[str]:
        return [name for name, command in COMMANDS.items() if not (self.quick and command.slow)]

    def calm(self, name: str) -> failing.Answer:
        if name not in self.known:
            self.known[name] = failing.calm(self.world, COMMANDS[name])
        return self.known[name]

    def replaced(self, dice: random.Random) -> tuple[str, str]:
        """An input is replaced: what was done, and the reason why its end is wrong."""
        name = dice.choice([name for name, case in replaced.CASES.items() if case.command in self.commands])
        case = replaced.resolved(self.world, replaced.CASES[name])
        if name not in self.rights:
            self.rights[name] = replaced.right_answers(self.world, case)
            self.every[name] = list(replaced.every_attack(self.world, case))
        if not self.every[name]:
            return f"{name}: never looked at", ""
        window, way, back = dice.choice(self.every[name])
        reached, ended, folder = replaced.disturbed(self.world, case, window, way, back=back)
        what = f"{case.command}: {case.input} {way}{' and back' * back} before {window.call} {window.number}"
        what += "" if window.paths == f"*/{case.input}" else f" on {window.paths}"
        right = self.rights[name]
        why = replaced.wrong(right, ended, folder, case) or replaced.poisoned(self.world, right, folder, case)
        return what + ("" if reached else " (not reached)") + f", exit {ended.code}", why

    def failing(self, dice: random.Random) -> tuple[str, str]:
        """A call fails."""
        name = dice.choice(self.commands)
        right = self.calm(name)
        faults = failing.choose(self.world, COMMANDS[name], 1, dice)
        if not faults:
            return f"{name}: no call", ""
        code, why = failing.failed(self.world, COMMANDS[name], faults[0], right)
        path = faults[0].paths.partition("/copy/")[2]
        times = "from then on" if faults[0].last == 0 else "once"
        return f"{name}: {faults[0].errno} at {faults[0].call} {faults[0].first} of {path}, {times}, exit {code}", why

    def signals(self, dice: random.Random) -> tuple[str, str]:
        """A signal arrives."""
        name = dice.choice(self.commands)
        command, right = COMMANDS[name], self.calm(name)
        folder = self.world.copy()
        began = time.monotonic()
        running = self.world.start(folder, command)
        moment, number = dice.uniform(0, 2.5), dice.choice(STOPS)
        while not running.ended() and time.monotonic() < began + moment:
            time.sleep(0.002)
        running.signal(number)
        asked = time.monotonic()
        code = running.wait()
        took = time.monotonic() - asked
        what = f"{name}: {number.name} after {moment:.3f} s, exit {code}"
        if "Traceback" in running.complained():
            return what, "a traceback: " + running.complained().strip().splitlines()[-1]
        if code not in (right.ended.code, 128 + number, -number):
            return what, f"an undocumented end: {running.complained().strip()[-300:]}"
        if took > LONGEST_STOP_S:
            return what, f"it ended {took:.0f} s after the signal"
        return what, failing.afterwards(self.world, folder, command, right)

    def servers(self, dice: random.Random) -> tuple[str, str]:
        """A server lies: about shards, or about a file that is downloaded."""
        folder = self.world.copy()
        server = Server(folder)
        server.handle_error = lambda *_: None  # a client that gives up is no error
        try:
            return (self._shards if dice.random() < 0.7 else self._download)(dice, folder, server)
        finally:
            server.closing.set()
            server.shutdown()
            server.server_close()

    def _shards(self, dice: random.Random, folder: Path, server: Server) -> tuple[str, str]:
        command = replace(COMMANDS["eval"], arguments=(*COMMANDS["eval"].arguments, "--shards", server.url("/shards")))
        right = self.calm("eval").outputs
        paths = sorted(path for path in (folder / "shards" / "shapes").rglob("*") if path.is_file())
        told = []
        for _ in range(dice.randint(1, 4)):
            path, fault = dice.choice(paths).relative_to(folder).as_posix(), dice.choice(FAULTS)
            server.faults[path].extend([fault] * dice.choice((1, 1, 2, 9)))
            told.append(f"{path}: {fault}")
        ended = self.world.run(folder, command, IMPATIENT)
        what = f"eval from a server, {'; '.join(told)}, exit {ended.code}"
        if why := self._wrong(ended, (0, 4, 5)):
            return what, why
        if ended.code == 0 and (why := _differing(digests(folder, command.outputs), right)):
            return what, why
        server.faults.clear()
        again = self.world.run(folder, command, IMPATIENT)
        if again.code:
            return what, f"exit {again.code} when the server is honest: {again.err.strip()[-300:]}"
        return what, _differing(digests(folder, command.outputs), right)

    def _download(self, dice: random.Random, folder: Path, server: Server) -> tuple[str, str]:
        data = dice.randbytes(100_000)
        (folder / "pets.zip").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        (folder / "shards" / "pets.toml").write_text(CARD.format(url=server.url("/pets.zip"), sha256=digest))
        faults = [dice.choice(FAULTS) for _ in range(dice.randint(1, 5))]
        server.faults["pets.zip"].extend(faults)
        command = replace(COMMANDS["datasets"], arguments=("download", "pets", "--to", "got"))
        ended = self.world.run(folder, command, IMPATIENT)
        what = f"download, {', '.join(faults)}, exit {ended.code}"
        if why := self._wrong(ended, (0, 4, 5)):
            return what, why
        got = folder / "got" / "pets.zip"
        if got.exists() and got.read_bytes() != data:
            return what, "other bytes under the file's name"
        server.faults.clear()
        again = self.world.run(folder, command, IMPATIENT)
        return (
            what,
            "" if again.code == 0 and got.read_bytes() == data else f"then exit {again.code}: {again.err[-300:]}",
        )

    @staticmethod
    def _wrong(ended: Ended, codes: tuple[int, ...]) -> str:
        if "Traceback" in ended.err:
            return "a traceback: " + ended.err.strip().splitlines()[-1]
        return "" if ended.code in codes else f"an exit code that does not fit: {ended.err.strip()[-300:]}"


def _differing(found: Mapping[str, str], right: Mapping[str, str]) -> str:
    names = [name for name in {**right, **found} if right.get(name) != found.get(name)]
    return f"{', '.join(names[:4])} differ" if names else ""


KINDS: Mapping[str, Callable[[Attacks, random.Random], tuple[str, str]]] = {
    "replaced": Attacks.replaced,
    "failing": Attacks.failing,
    "signals": Attacks.signals,
    "servers": Attacks.servers,
}


def attack(attacks: Attacks, kinds: list[str], seed: int, number: int) -> tuple[str, str, str]:
    """The kind of an attack, what was done, and the reason why its end is wrong; "" if it is right."""
    dice = random.Random(f"{seed} {number}")
    kind = kinds[number % len(kinds)]
    try:
        return (kind, *KINDS[kind](attacks, dice))
    except TimeoutError as error:
        return kind, "a run that does not end", str(error)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attack", type=int, help="Only this number.")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--quick", action="store_true", help="Without the commands that take several seconds.")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name, world(Path(name)) as made:
        if not options.quick:
            add_fine_tuned(made)
        attacks = Attacks(made, options.quick)
        began, number = time.monotonic(), options.attack or 0
        while options.attack is not None or time.monotonic() < began + 60 * options.minutes:
            kind, what, why = attack(attacks, options.kinds.split(","), options.seed, number)
            counts[kind] += 1
            if why:
                wrong[kind] += 1
                print(
                    f"WRONG {what}\n      {why}\n      --kinds {options.kinds} --seed {options.seed}"
                    f"{' --quick' * options.quick} --attack {number}",
                    flush=True,
                )
            elif options.attack is not None:
                print(f"right: {what}")
            if options.attack is not None:
                break
            number += 1
    for kind in KINDS:
        print(f"{kind}: {counts[kind]} attacks, {wrong[kind]} with a wrong end")


if __name__ == "__main__":
    main()
