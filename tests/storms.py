"""Storms: real launches whose processes are killed, frozen and restarted at random. Whatever happens, the same bytes.

    .venv/bin/python tests/storms.py [--storms 30] [--seed 0] [--pacs DIR]

A storm is a few rounds of `accelerate launch … -m fastclip eval` on one store, each with another number of processes
and random faults, and then one round without any. Its parts, prototypes and record must be those of a run that nobody
disturbed. `tests/test_unbreakable.py` runs a few; a seed repeats what was done, not when a process was hit by it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import oracle
import psutil
from helpers import REPOSITORY, Sharded, part_paths, shard, stored_files, wait_until

from fastclip.data.shapes import SCORED_SEED, draw_shapes
from fastclip.data.shards.manifest import read_manifest
from fastclip.text.prompts import find_prompt_set

CONFIG = REPOSITORY / "launch" / "two_cpu_processes.yaml"
LONGEST_S = 240.0


@dataclass
class Launch:
    """`accelerate launch` of an evaluation; what it starts can be told from all other processes."""

    folder: Path
    processes: int
    store: str
    arguments: list[str]
    restarts: int = 3
    prefix: tuple[str, ...] = ()

    def __enter__(self) -> Launch:
        command = [*self.prefix, sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
        command += ["--num_processes", str(self.processes), "--main_process_port", "0"]
        command += ["--max_restarts", str(self.restarts), "--monitor_interval", "0.2", "-m", "fastclip"]
        command += ["eval", *self.arguments, "--store", self.store]
        self._mark = secrets.token_hex(8)
        environment = {**os.environ, "COLUMNS": "80", "HF_HUB_OFFLINE": "1", "FASTCLIP_TEST": self._mark}
        self._log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=self._log, stderr=self._log)
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.alive():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        self._log.close()

    @property
    def output(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def alive(self) -> list[psutil.Process]:
        """The launcher and all that it started, orphans too: they have its environment."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                marked = process.environ().get("FASTCLIP_TEST") == self._mark
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """The processes that evaluate, by rank."""
        found = {}
        for process in self.alive():
            with suppress(psutil.Error):
                rank = process.environ().get("RANK")
                if rank is not None and "--multiprocessing-fork" not in process.cmdline():
                    found[int(rank)] = process
        return [found[rank] for rank in sorted(found)]

    def wait(self) -> int:
        """The launcher's exit code; also waits until none of its processes is left."""
        code = self.process.wait(LONGEST_S)
        wait_until(lambda: not self.alive(), "none of the launcher's processes is left", 30)
        return code


def send(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@dataclass
class Storm:
    """One storm with its dice, and what it has done."""

    folder: Path
    seed: int
    arguments: list[str]
    units: int
    """Parts that there are when all is done."""
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.store = f"storm-{self.seed}"

    def run(self, rounds: int) -> None:
        """Rounds with faults, and one without, after which everything must be there."""
        for _ in range(self.random.randint(1, rounds)):
            with Launch(
                self.folder, self.random.choice((2, 3)), self.store, self.arguments, self.random.choice((0, 3))
            ) as launch:
                self.done["launches"] += 1
                for _ in range(self.random.randint(2, 6)):
                    if not self._wait_for_moment(launch):
                        break  # nothing is left to disturb
                    self.random.choice((self.kill_one, self.kill_one, self.kill_all, self.kill_launcher, self.freeze))(
                        launch
                    )
                send(launch.alive(), signal.SIGCONT)
                launch.wait()
        with Launch(self.folder, self.random.choice((1, 2, 3)), self.store, self.arguments) as launch:
            self.done["launches"] += 1
            if launch.wait() != 0:
                raise AssertionError(f"storm {self.seed}: the last round failed\n{launch.output}")

    def _wait_for_moment(self, launch: Launch) -> bool:
        """Wait until a few more parts are published or some seconds are over; whether anything is left to do."""
        wanted = self._parts() + self.random.choice((0, 1, 1, 2, 3, 5, 8))
        deadline = time.monotonic() + self.random.uniform(1, 12)
        while launch.process.poll() is None and self._parts() < min(wanted, self.units):
            if launch.workers() and time.monotonic() > deadline:
                break
            time.sleep(0.01)
        self._wait(launch, self.random.choice((0, 0, 0.05, 0.3)))
        return launch.process.poll() is None and self._parts() < self.units

    def _parts(self) -> int:
        return len(part_paths(self.folder / self.store))

    def _wait(self, launch: Launch, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while launch.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)

    def kill_one(self, launch: Launch) -> None:
        if workers := launch.workers():
            self.done["one process killed"] += 1
            send([self.random.choice(workers)], signal.SIGKILL)

    def kill_all(self, launch: Launch) -> None:
        if workers := launch.workers():
            self.done["all processes killed"] += 1
            send(workers, signal.SIGKILL)

    def kill_launcher(self, launch: Launch) -> None:
        if launch.process.poll() is None:
            number = self.random.choice((signal.SIGKILL, signal.SIGTERM))
            self.done[f"launcher ended by {number.name}"] += 1
            launch.process.send_signal(number)

    def freeze(self, launch: Launch) -> None:
        if workers := launch.workers():
            frozen = [self.random.choice(workers)]
            self.done["frozen and thawed"] += 1
            send(frozen, signal.SIGSTOP)
            self._wait(launch, self.random.uniform(0.5, 5))
            send(frozen, signal.SIGCONT)


def undisturbed(folder: Path, arguments: list[str]) -> dict[str, bytes]:
    """The files and the record of one process that nobody disturbs."""
    command = [sys.executable, "-m", "fastclip", "eval", *arguments, "--store", "calm"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "record.json").rename(folder / "calm.json")
    return stored_files(folder / "calm")


def storms(
    folder: Path, seeds: range, arguments: list[str], rounds: int = 3, say: Callable[[str], object] = print
) -> Counter[str]:
    """Let storms loose on the shards in `folder`. Raises `AssertionError` if one leaves other bytes."""
    arguments = [*arguments, "--json", "record.json"]
    calm = undisturbed(folder, arguments)
    total: Counter[str] = Counter()
    for seed in seeds:
        storm = Storm(folder, seed, arguments, len(part_paths(folder / "calm")))
        storm.run(rounds)
        found = stored_files(folder / storm.store)
        assert not (folder / storm.store / "given_up").exists(), f"storm {seed}: an innocent shard was given up"
        assert not (folder / storm.store / "damaged").exists(), f"storm {seed}: a part was damaged"
        assert found.keys() == calm.keys(), f"storm {seed}: other files"
        assert found == calm, f"storm {seed}: other bytes in {[name for name in calm if found[name] != calm[name]]}"
        assert (folder / "record.json").read_bytes() == (folder / "calm.json").read_bytes(), f"storm {seed}: record"
        (folder / "record.json").unlink()
        total += storm.done
        say(f"storm {seed}: {dict(storm.done)}")
    return total


def compare_with_oracle(record: dict, sharded: Sharded) -> int:
    """By how many right answers the cells of a dataset differ from a loop in Pillow, open_clip and NumPy; ties may."""
    manifest = read_manifest(sharded.folder)
    prompts = [find_prompt_set("photo").prompts(*names) for names in zip(manifest.classes, manifest.names, strict=True)]
    paths, labels, scores = oracle.score(sharded.source, prompts)
    right = Counter(
        path.split("/")[0]
        for path, label, row in zip(paths, labels, scores, strict=True)
        if not (row > row[label]).any()
    )
    cells = [cell for cell in record["cells"] if cell["dataset"] == sharded.name]
    assert cells and sum(cell["images"] for cell in cells) == len(paths)
    return sum(abs(cell["top1"] - right[cell["domain"]]) for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--storms", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pacs", type=Path, help="Folder of PACS images; without it only drawn shapes are evaluated.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_shapes(folder / "source", seed=SCORED_SEED, images_per_class=30)
        sets = [shard(folder / "source", folder / "shards", "shapes", shard_images=40)]
        if options.pacs:
            sets.append(shard(options.pacs, folder / "shards", "pacs", shard_images=20))
        arguments = ["-b", "tiny", "--prompts", "photo", "--precision", "fp32", "--batch-size", "4"]
        total = storms(folder, range(options.seed, options.seed + options.storms), arguments)
        for sharded in sets:
            differing = compare_with_oracle(json.loads((folder / "calm.json").read_text()), sharded)
            print(f"{sharded.name}: {differing} answers differ from those of an independent loop")
        print(f"{options.storms} storms, the same bytes after each: {dict(total)}")


if __name__ == "__main__":
    main()
