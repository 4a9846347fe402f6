"""Runs survive signals, killed and frozen processes, vanished launchers, shards that kill, a full GPU."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import storms
import torch
from helpers import (
    Program,
    Sharded,
    image_bytes,
    part_paths,
    shard,
    stored_files,
    temporaries,
    wait_until,
    without_waiting,
    write,
)
from PIL import Image
from storms import Launch, send

from fastclip.cli.signals import Stopped
from fastclip.data.shards.manifest import read_manifest
from fastclip.embed import attempts as attempts_module
from fastclip.embed.attempts import Attempts
from fastclip.embed.plan import Unit
from fastclip.embed.processes import find_process
from fastclip.errors import GO_ON, IncompleteError, UserError
from fastclip.evaluate import embedding
from fastclip.evaluate.embedding import embed, is_missing, launching, load_towers, make_loop, missing_units
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.score import score
from fastclip.evaluate.setup import Setup, resolve
from fastclip.models.tower import Embedded, ImageTower
from fastclip.store.store import Store
from fastclip.threads import threads

SLOW = ["-b", "tiny", "--batch-size", "256", "--precision", "fp32"]
"""Each shard pays for a whole batch, so that there is time for something to happen."""


@pytest.fixture(scope="module")
def small(shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    """24 images in twelve shards of two."""
    folder = tmp_path_factory.mktemp("small")
    paths = [path for domain in ("flat", "night") for path in sorted((shapes.source / domain).glob("*/*"))[::5]]
    files = {path.relative_to(shapes.source).as_posix(): path.read_bytes() for path in paths}
    return shard(write(folder / "source", files), folder / "shards", "small", shard_images=2)


@pytest.fixture(scope="module")
def calm(small: Sharded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nobody disturbs."""
    program = Program(tmp_path_factory.mktemp("calm"))
    outcome = program.here("eval", "small", "--shards", small.shards, *SLOW)
    assert outcome.code == 0, outcome.err
    return stored_files(program.folder / "embeddings")


def wait_for_parts(folder: Path, count: int = 1) -> None:
    wait_until(lambda: len(part_paths(folder / "embeddings")) >= count, f"{count} parts")


def leftovers(folder: Path) -> list[Path]:
    """Temporary files, notes of processes that are at a unit, and signs of life."""
    store = folder / "embeddings"
    return [*temporaries(store), *store.glob("attempts/*"), *store.glob("processes/*")]


def setup_of(sharded: Sharded, store: Path, **options: object) -> Setup:
    return resolve(EvalOptions(backbones=("tiny",), shards=sharded.shards, store=store, **options))


SOMETIMES = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["SIGTERM", pytest.param("SIGINT", marks=SOMETIMES), pytest.param("SIGHUP", marks=SOMETIMES)]
)
def test_a_signal_ends_a_run_at_once_and_the_same_command_goes_on(
    name: str, small: Sharded, calm: dict[str, bytes], fastclip: Program
):
    number = signal.Signals[name]
    process = fastclip.start("eval", "small", "--shards", small.shards, *SLOW)
    wait_for_parts(fastclip.folder)
    process.send_signal(number)
    out, err = process.communicate(timeout=25)
    assert (process.returncode, out) == (128 + number, ""), err
    assert err.splitlines()[-2:] == [
        f"Error: Stopped by {name}.",
        "Fix:   Run the same command again; it goes on where it was.",
    ]
    done = stored_files(fastclip.folder / "embeddings")
    assert done and done.items() < calm.items() and not leftovers(fastclip.folder)
    again = fastclip.here("eval", "small", "--shards", small.shards, *SLOW)
    assert again.code == 0 and stored_files(fastclip.folder / "embeddings") == calm


STUCK = """
import ctypes
from fastclip.cli import signals
signals.GRACE_S = 1.0
signals.stop_on_signals()
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)
while True:
    try:
        print("ready", flush=True)
        libc.pthread_mutex_lock(mutex)
    except BaseException:
        pass
"""
"""The main thread is in C code that no signal interrupts, and never comes back."""


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_ends_a_process_that_hangs_too(signals: int):
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)  # two signals of a kind that arrive together are one
    assert process.wait(25) == 128 + signal.SIGTERM


def test_an_error_waits_for_threads_and_a_stop_does_not():
    gate = threading.Event()
    with pytest.raises(Stopped), threads(1, "test") as pool:
        waits = pool.submit(gate.wait, 60)
        raise Stopped(signal.SIGTERM)
    assert not waits.done()
    gate.set()
    with pytest.raises(ValueError, match="error"), threads(1, "test") as pool:
        sleeps = pool.submit(time.sleep, 0.5)
        raise ValueError("error")
    assert sleeps.done()


@pytest.mark.parametrize("after_s", [0.3, pytest.param(0.8, marks=SOMETIMES), 1.3, pytest.param(2.0, marks=SOMETIMES)])
def test_a_signal_while_the_program_starts_ends_it_with_the_same_code(
    after_s: float, small: Sharded, fastclip: Program
):
    """torch calls Python from C++ while it is imported, and aborts when that raises."""
    process = fastclip.start("eval", "small", "--shards", small.shards, *SLOW)
    time.sleep(after_s)
    process.terminate()
    _, err = process.communicate(timeout=25)
    assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM), err
    assert process.returncode < 0 or "Stopped by SIGTERM" in err


@pytest.mark.parametrize("gap_s", [0.002, 0.3])
def test_a_second_signal_ends_a_run_without_another_word(gap_s: float, small: Sharded, fastclip: Program):
    process = fastclip.start("eval", "small", "--shards", small.shards, *SLOW)
    wait_for_parts(fastclip.folder)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(gap_s)
    _, err = process.communicate(timeout=25)
    assert process.returncode == 128 + signal.SIGINT
    assert set(without_waiting(err).splitlines()) <= {"Error: Stopped by SIGINT.", f"Fix:   {GO_ON}"}


def test_a_closed_pipe_ends_nothing(small: Sharded, fastclip: Program):
    process = fastclip.start("eval", "small", "-b", "tiny", "--shards", small.shards, "--json", "record.json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(120) == 0 and "rror" not in process.stderr.read()
    assert json.loads((fastclip.folder / "record.json").read_text())["cells"]


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=SOMETIMES)])
def test_a_run_whose_process_is_killed_ends_complete_without_a_second_command(
    rank: int, small: Sharded, calm: dict[str, bytes], tmp_path: Path
):
    with Launch(tmp_path, 2, "embeddings", ["small", "--shards", str(small.shards), *SLOW]) as launch:
        wait_for_parts(tmp_path)
        launch.workers()[rank].kill()
        assert launch.wait() == 0, launch.output
        assert launch.output.count("small: accuracy") == 1, launch.output
    assert stored_files(tmp_path / "embeddings") == calm


@SOMETIMES
def test_the_table_is_printed_when_the_process_that_prints_it_is_killed_while_it_scores(
    small: Sharded, calm: dict[str, bytes], tmp_path: Path
):
    with Launch(tmp_path, 2, "embeddings", ["small", "--shards", str(small.shards), *SLOW]) as launch:
        wait_for_parts(tmp_path, 12)
        send(launch.workers()[:1], signal.SIGKILL)
        assert launch.wait() == 0 and launch.output.count("small: accuracy") == 1, launch.output
    assert stored_files(tmp_path / "embeddings") == calm


def test_no_process_outlives_its_launcher(small: Sharded, calm: dict[str, bytes], tmp_path: Path):
    with Launch(tmp_path, 2, "embeddings", ["small", "--shards", str(small.shards), *SLOW]) as launch:
        wait_for_parts(tmp_path)
        launch.process.kill()
        launch.process.wait()
        wait_until(lambda: not launch.alive(), "every process ends", 30)
    assert stored_files(tmp_path / "embeddings").items() <= calm.items()


@pytest.mark.parametrize("processes", [pytest.param(1, marks=SOMETIMES), 2])
def test_a_mistake_or_an_open_decision_is_told_once_however_often_the_launcher_restarts(processes: int, tmp_path: Path):
    files = {f"all/{name}/{n}.png": image_bytes(size=(9 + n, 9)) for name in ("a", "b") for n in range(3)}
    files["all/a/0.png"] = b"<html>"
    sharded = shard(write(tmp_path / "source", files), tmp_path / "shards", "broken", layout="domain/class")
    command = ["broken", "--shards", str(sharded.shards), "-b", "tiny"]
    with Launch(tmp_path, processes, "embeddings", command) as launch:
        assert launch.wait() != 0
        assert launch.output.count("broken: accuracy") == 1 and launch.output.count("1 unreadable") == 1, launch.output
    with Launch(tmp_path, processes, "embeddings", ["missing", *command[1:]]) as launch:
        assert launch.wait() != 0 and launch.output.count("Error: missing is not sharded") == 1, launch.output


def test_workers_without_a_launcher_finish_what_a_frozen_one_has_begun(
    small: Sharded, calm: dict[str, bytes], fastclip: Program
):
    def start(worker: int) -> subprocess.Popen[str]:
        return fastclip.start("eval", "small", "--shards", small.shards, *SLOW, "--share", f"{worker}/3")

    frozen = start(1)
    wait_until(lambda: list(fastclip.folder.glob("embeddings/attempts/*")), "a note of what the first is at")
    frozen.send_signal(signal.SIGSTOP)
    others = [start(2), start(3)]
    ends = [worker.communicate(timeout=200) for worker in others]
    assert [worker.returncode for worker in others] == [0, 0], ends
    assert all("Everything is embedded" in err and not out for out, err in ends)
    assert len(part_paths(fastclip.folder / "embeddings")) == 12
    frozen.send_signal(signal.SIGCONT)
    out, _ = frozen.communicate(timeout=200)
    assert frozen.returncode == 0 and "small: accuracy" in out
    assert stored_files(fastclip.folder / "embeddings") == calm and not leftovers(fastclip.folder)


def test_a_share_is_a_number_of_a_number():
    process = find_process({}, "3/16")
    assert (process.rank, process.world_size, process.leads_share, process.reports) == (2, 16, True, False)
    of_a_node = find_process({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, "3/16")
    assert (of_a_node.rank, of_a_node.world_size, of_a_node.local_rank) == (9, 64, 1) and not of_a_node.leads_share
    for share in ("0/3", "4/3", "3", "a/b", "1/", "-1/3", "1/3/5"):
        with pytest.raises(UserError, match="share"):
            find_process({}, share)


def test_another_number_of_processes_than_was_asked_for_is_noticed():
    assert find_process({"RANK": "1", "WORLD_SIZE": "2", "FASTCLIP_PROCESSES": "2"}).rank == 1
    with pytest.raises(UserError, match="1 processes were started, FASTCLIP_PROCESSES says 2"):
        find_process({"FASTCLIP_PROCESSES": "2"})


POISON = """
import os, signal
import PIL.Image
honest = PIL.Image.open
def deadly(file, *arguments, **options):
    data = file.getvalue() if hasattr(file, "getvalue") else b""
    if b"POISON" in bytes(data):
        os.kill(os.getpid(), signal.SIGKILL)
    return honest(file, *arguments, **options)
PIL.Image.open = deadly
"""
"""A stand-in for a decoder that crashes: loaded at the start of every process by way of PYTHONPATH."""


@pytest.fixture
def poisoned(tmp_path: Path) -> Sharded:
    """Six shards of four images; one holds an image that no process survives, once `POISON` is loaded."""
    files = {f"all/{'b' if n > 22 else 'a'}/{n:02}.png": image_bytes(size=(9 + n, 9)) for n in range(24)}
    # Cut, so that torchvision gives up and Pillow is asked.
    files["all/a/13.png"] = image_bytes(size=(40, 40))[:60] + b"POISON"
    sharded = shard(
        write(tmp_path / "source", files),
        tmp_path / "shards",
        "poisoned",
        shard_images=4,
        verify=False,
        layout="domain/class",
    )
    write(tmp_path / "patch", {"sitecustomize.py": POISON.encode()})
    return sharded


@SOMETIMES
def test_a_shard_that_kills_its_process_is_tried_alone_and_then_given_up(poisoned: Sharded, fastclip: Program):
    deadly = dataclasses.replace(fastclip, environment={"PYTHONPATH": str(fastclip.folder / "patch")})
    command = ["eval", "poisoned", "-b", "tiny", "--workers", "1", "--json", "record.json"]
    assert [deadly(*command).code for _ in range(2)] == [-signal.SIGKILL] * 2
    outcome = deadly(*command)
    assert outcome.code == 4, outcome.err
    assert "poisoned/all/3.tar kills the process that embeds it" in outcome.err and "—" in outcome.out
    assert len(part_paths(fastclip.folder / "embeddings")) == 5, "the other shards are done"
    (reason,) = (fastclip.folder / "embeddings" / "given_up").iterdir()
    assert json.loads(reason.read_text()) == {
        "dataset": "poisoned",
        "shard": "all/3.tar",
        "reason": "ended by SIGKILL",
    }
    again = fastclip.here(*command)
    assert again.code == 4 and "Embedded" not in again.err
    shown = fastclip.here("status", "poisoned", "-b", "tiny")
    assert shown.code == 4 and "kills the process" in shown.out
    reason.unlink()
    mended = fastclip.here(*command)
    assert mended.code == 3 and "a/13.png" in mended.out, mended
    # Temporary files and signs of life may be left: processes were killed.
    assert not list((fastclip.folder / "embeddings" / "attempts").iterdir())


def test_a_shard_that_kills_takes_down_two_of_many_processes_and_no_other_shard(poisoned: Sharded, fastclip: Program):
    deadly = dataclasses.replace(fastclip, environment={"PYTHONPATH": str(fastclip.folder / "patch")})
    command = ["eval", "poisoned", "-b", "tiny", "--workers", "1"]
    workers = [deadly.start(*command, "--share", f"{share}/4") for share in (1, 2, 3, 4)]
    ends = [worker.communicate(timeout=280) for worker in workers]
    codes = sorted(worker.returncode for worker in workers)
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 4, 4], ends
    assert len(part_paths(fastclip.folder / "embeddings")) == 5
    assert len(list((fastclip.folder / "embeddings" / "given_up").iterdir())) == 1


@SOMETIMES
def test_a_shard_that_kills_does_not_end_a_launch(poisoned: Sharded, tmp_path: Path):
    prefix = ("env", f"PYTHONPATH={tmp_path / 'patch'}")
    with Launch(tmp_path, 2, "embeddings", ["poisoned", "-b", "tiny"], restarts=3, prefix=prefix) as launch:
        assert launch.wait() != 0
        assert launch.output.count("all/3.tar kills the process") == 1, launch.output
        assert "run the same command again" not in launch.output
    assert len(part_paths(tmp_path / "embeddings")) == 5


def test_two_processes_keep_out_of_each_others_way_and_help_at_the_end(small: Sharded, tmp_path: Path):
    setup = setup_of(small, tmp_path)
    units, missing = list(setup.units), partial(is_missing, setup)
    mine, other = Attempts(tmp_path), Attempts(tmp_path, process=1)
    for unit in units[:2]:
        other.begin(unit)
    order = list(mine.in_good_order(units, missing))
    assert order == [*units[2:], *units[:2]] and not mine.deadly
    other.end_all()
    assert list(mine.in_good_order(units, missing)) == units


@pytest.mark.parametrize(("heartbeats_ago", "deadly"), [(2.5, 0), (3.5, 1)])
def test_processes_of_other_machines_are_dead_when_three_heartbeats_are_missing(
    heartbeats_ago: float, deadly: int, small: Sharded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    setup = setup_of(small, tmp_path)
    monkeypatch.setattr(attempts_module, "HEARTBEAT_S", 100.0)
    monkeypatch.setattr(attempts_module, "LONGEST_WAIT_S", 1.0)
    others = [Attempts(tmp_path, machine=f"{number:012}", process=7) for number in range(2)]
    for other in others:
        other.begin(setup.units[3])
    signs = list((tmp_path / "processes").iterdir())
    assert len(signs) == 2
    for sign in signs:
        then = sign.stat().st_mtime - heartbeats_ago * 100
        os.utime(sign, (then, then))
    mine = Attempts(tmp_path)
    order = list(mine.in_good_order(setup.units, partial(is_missing, setup)))
    assert (len(mine.deadly), len(order)) == (deadly, 12 - deadly)
    for other in others:
        other.end_all(closed=True)
    assert not set(signs) & set((tmp_path / "processes").iterdir()), "whoever ends takes its sign of life along"


class FullTower(ImageTower):
    """Embeds as the real one does, but its memory holds eight images."""

    def __call__(self, crops: torch.Tensor) -> Embedded:
        if len(crops) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(crops)


class LateTower(ImageTower):
    """Embeds as the real one does, but for the fourth batch the memory is full."""

    batches = 0

    def __call__(self, crops: torch.Tensor) -> Embedded:
        LateTower.batches += 1
        if LateTower.batches == 4:
            raise RuntimeError("CUDA error: out of memory")
        return super().__call__(crops)


def replace_towers(monkeypatch: pytest.MonkeyPatch, kind: type[ImageTower]) -> None:
    real = embedding.load_image_tower

    def load(*arguments: object, **options: object) -> ImageTower:
        tower = real(*arguments, **options)
        tower.__class__ = kind
        return tower

    monkeypatch.setattr(embedding, "load_image_tower", load)


@pytest.mark.parametrize(("asked", "tried"), [([], 32), (["--batch-size", 16], 16)])
def test_a_batch_that_memory_does_not_hold_ends_in_two_lines_and_nothing_of_another_size_is_published(
    asked: list[object], tried: int, small: Sharded, fastclip: Program, monkeypatch: pytest.MonkeyPatch
):
    replace_towers(monkeypatch, FullTower)
    command = ["eval", "small", "-b", "tiny", "--shards", small.shards]
    outcome = fastclip.here(*command, *asked)
    assert (outcome.code, outcome.out) == (4, "")
    error, fix = outcome.err.splitlines()
    assert error == f"Error: The memory of cpu does not hold a batch of {tried}: CUDA out of memory"
    assert f"--batch-size {tried // 2}," in fix
    assert not stored_files(fastclip.folder / "embeddings") and not leftovers(fastclip.folder)
    assert fastclip.here(*command, "--batch-size", 8).code == 0
    (recipe,) = Store(fastclip.folder / "embeddings").recipes()
    assert recipe.batch_size == 8


def test_memory_that_is_full_later_on_costs_only_the_shards_in_flight(
    small: Sharded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    replace_towers(monkeypatch, LateTower)
    LateTower.batches = 0
    setup = setup_of(small, tmp_path, workers=1)
    with pytest.raises(IncompleteError, match="does not hold a batch of 32"):
        embed(setup)
    assert len(part_paths(tmp_path)) <= 3
    embed(setup)
    assert not missing_units(setup) and score(setup)[0].complete
    assert {part.parent.name for part in part_paths(tmp_path)} == {setup.recipes["small", "tiny"].id}


def test_status_says_what_is_missing_and_why(small: Sharded, fastclip: Program):
    base = ["small", "-b", "tiny", "--shards", small.shards]
    fp32 = ["--precision", "fp32"]
    assert fastclip.here("eval", *base, *fp32).code == 0
    whole = fastclip("status", *base, *fp32)
    assert whole.code == 0 and whole.err == "" and whole.out.count("6/6") == 2
    (recipe,) = Store(fastclip.folder / "embeddings").recipes()
    weights = fastclip.folder / "other.safetensors"
    weights.write_bytes((storms.oracle.TINY / "tiny.safetensors").read_bytes() + b"\0")
    for arguments, reason in (
        (["--precision", "bf16"], "precision differs: fp32 there, bf16 here"),
        ([*fp32, "--batch-size", 5], "batch size differs: 32 there, 5 here"),
        ([*fp32, "--decoder", "dali"], "decoder differs: torchvision"),
        ([*fp32, "--weights", weights], "weights differ: 76034d4969fa there"),
    ):
        shown = fastclip.here("status", *base, *arguments)
        said = " ".join(shown.out.split())
        assert shown.code == 4 and f"embedded under another recipe, {recipe.id[:12]}: {reason}" in said, shown.out
        assert max(map(len, shown.out.splitlines())) <= 80
    for path in part_paths(fastclip.folder / "embeddings")[:3]:
        path.unlink()
    some = fastclip.here("status", *base, *fp32)
    assert some.code == 4 and "small, tiny: 3 shards: not embedded yet." in some.out
    assert sum(int(line.split()[4]) for line in some.out.splitlines() if "small/" in line) == 6
    damaged = part_paths(fastclip.folder / "embeddings")[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    score(setup_of(small, fastclip.folder / "embeddings", precision="fp32"))
    shown = fastclip.here("status", *base, *fp32)
    assert "1 shard: its part was damaged" in shown.out, shown.out


def test_another_shard_of_the_same_name_reuses_nothing(small: Sharded, fastclip: Program):
    files = {path.relative_to(small.source).as_posix(): path.read_bytes() for path in small.source.glob("*/*/*")}
    first = min(files)
    with Image.open(io.BytesIO(files[first])) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(fastclip.folder / "changed.png")
    files[first] = (fastclip.folder / "changed.png").read_bytes()
    other = shard(write(fastclip.folder / "source", files), fastclip.folder / "shards", "small", shard_images=2)
    before, after = (read_manifest(each.folder).shards for each in (small, other))
    changed = [shard.name for shard, old in zip(after, before, strict=True) if shard.sha256 != old.sha256]
    assert len(changed) == 1
    assert fastclip.here("eval", "small", "-b", "tiny", "--shards", small.shards).code == 0
    shown = fastclip.here("status", "small", "-b", "tiny")
    assert (
        shown.code == 4 and "small, tiny: 1 shard: not embedded yet, or its shard is another one now." in shown.out
    ), shown.out
    outcome = fastclip.here("eval", "small", "-b", "tiny")
    line = "embeddings holds 1 part of tiny for no shards in shards. If shards were written anew,"
    assert outcome.code == 0 and outcome.err.startswith(line) and "\nEmbedded 2 images" in outcome.err, outcome.err


def test_a_storm_leaves_the_bytes_of_a_calm_run(small: Sharded, tmp_path: Path):
    """`tests/storms.py` runs as many as are wanted."""
    shutil.copytree(small.shards, tmp_path / "shards")
    done = storms.storms(tmp_path, range(1), ["small", *SLOW], rounds=1)
    assert done["launches"] >= 2 and sum(done.values()) > done["launches"]


def test_what_is_embedded_is_published_while_the_next_shard_is_waited_for(small: Sharded, tmp_path: Path):
    """Else two processes that wait for each other's shards would."""
    setup = setup_of(small, tmp_path)
    engine = setup.engine
    assert engine
    first, second = setup.units[:2]

    def units() -> Iterator[Unit]:
        yield first
        wait_until(lambda: not is_missing(setup, first), "the first is published", 60)
        yield second

    with launching(engine) as launch:
        towers = load_towers(engine, list(engine.candidates.values()), launch)
        make_loop(setup, engine, towers, Attempts(tmp_path), launch).run(units())
    assert not is_missing(setup, first) and not is_missing(setup, second)
