"""What runs survive: signals, killed and frozen processes, vanished launchers, shards that kill, a full GPU."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import storms
import torch
from helpers import Program, Sharded, image_bytes, shard, write
from PIL import Image
from storms import Launch, contents, send

from fastclip.cli.signals import Stopped
from fastclip.data.shards.manifest import read_manifest
from fastclip.embed import attempts as attempts_module
from fastclip.embed.attempts import Attempts
from fastclip.embed.plan import Unit
from fastclip.embed.processes import find_process
from fastclip.errors import GO_ON, IncompleteError, UserError
from fastclip.evaluate import run as run_module
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.run import Run
from fastclip.evaluate.scoring import score
from fastclip.models.tower import Embedded, ImageTower
from fastclip.report.terminal import footnotes
from fastclip.threads import threads

SLOW = ["-b", "RN50", "--random-weights", "--batch-size", "4", "--precision", "fp32"]
"""About a second a shard: long enough to be interrupted in the middle."""


@pytest.fixture(scope="module")
def small(shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    """24 images in six shards of four."""
    folder = tmp_path_factory.mktemp("small")
    paths = [path for domain in ("flat", "night") for path in sorted((shapes.source / domain).glob("*/*"))[::5]]
    files = {path.relative_to(shapes.source).as_posix(): path.read_bytes() for path in paths}
    return shard(write(folder / "source", files), folder / "shards", "small", shard_images=4)


@pytest.fixture(scope="module")
def calm(small: Sharded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run leaves that nobody disturbs."""
    program = Program(tmp_path_factory.mktemp("calm"))
    outcome = program("eval", "small", "--shards", small.shards, *SLOW)
    assert outcome.code == 0, outcome.err
    return contents(program.folder / "embeddings")


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def parts(folder: Path, store: str = "embeddings") -> list[Path]:
    return list((folder / store / "parts").rglob("*.safetensors"))


def leftovers(folder: Path) -> list[Path]:
    """Temporary files, and notes of processes that are at a unit."""
    store = folder / "embeddings"
    return [*store.rglob("*.tmp"), *(store / "attempts").glob("*")]


SOMETIMES = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["SIGTERM", pytest.param("SIGINT", marks=SOMETIMES), pytest.param("SIGHUP", marks=SOMETIMES)]
)
def test_a_signal_ends_a_run_at_once_and_the_same_command_goes_on(
    name: str, small: Sharded, calm: dict[str, bytes], fastclip: Program
):
    number = signal.Signals[name]
    process = fastclip.start("eval", "small", "--shards", small.shards, *SLOW)
    until(lambda: parts(fastclip.folder))
    process.send_signal(number)
    out, err = process.communicate(timeout=25)
    assert (process.returncode, out) == (128 + number, ""), err
    assert err.splitlines()[-2:] == [
        f"Error: Stopped by {name}.",
        "Fix:   Run the same command again; it goes on where it was.",
    ]
    done = contents(fastclip.folder / "embeddings")
    assert done and done.items() < calm.items() and not leftovers(fastclip.folder)
    again = fastclip("eval", "small", "--shards", small.shards, *SLOW)
    assert again.code == 0 and contents(fastclip.folder / "embeddings") == calm


STUCK = """
import ctypes
from fastclip.cli.signals import stop_on_signals
stop_on_signals()
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


@pytest.mark.parametrize("after_s", [0.3, 0.8, 1.3, 2.0])
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
    until(lambda: parts(fastclip.folder))
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(gap_s)
    _, err = process.communicate(timeout=25)
    assert process.returncode == 128 + signal.SIGINT
    assert set(err.splitlines()) <= {"Error: Stopped by SIGINT.", f"Fix:   {GO_ON}"}


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
        until(lambda: parts(tmp_path))
        launch.workers()[rank].kill()
        assert launch.wait() == 0, launch.output
        assert launch.output.count("small: accuracy") == 1, launch.output
    assert contents(tmp_path / "embeddings") == calm


@SOMETIMES
def test_the_table_is_printed_when_the_process_that_prints_it_is_killed_while_it_scores(
    small: Sharded, calm: dict[str, bytes], tmp_path: Path
):
    with Launch(tmp_path, 2, "embeddings", ["small", "--shards", str(small.shards), *SLOW]) as launch:
        until(lambda: len(parts(tmp_path)) == 6)
        send(launch.workers()[:1], signal.SIGKILL)
        assert launch.wait() == 0 and launch.output.count("small: accuracy") == 1, launch.output
    assert contents(tmp_path / "embeddings") == calm


def test_no_process_outlives_its_launcher(small: Sharded, calm: dict[str, bytes], tmp_path: Path):
    with Launch(tmp_path, 2, "embeddings", ["small", "--shards", str(small.shards), *SLOW]) as launch:
        until(lambda: parts(tmp_path))
        launch.process.kill()
        launch.process.wait()
        until(lambda: not launch.alive(), 10)
    assert contents(tmp_path / "embeddings").items() <= calm.items()


@pytest.mark.parametrize("processes", [pytest.param(1, marks=SOMETIMES), 2])
def test_a_mistake_or_an_open_decision_is_told_once_however_often_the_launcher_restarts(processes: int, tmp_path: Path):
    files = {f"all/{name}/{n}.png": image_bytes(size=(9 + n, 9)) for name in ("a", "b") for n in range(3)}
    files["all/a/0.png"] = b"<html>"
    sharded = shard(write(tmp_path / "source", files), tmp_path / "shards", "broken")
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
    until(lambda: list((fastclip.folder / "embeddings" / "attempts").glob("*")))
    frozen.send_signal(signal.SIGSTOP)
    others = [start(2), start(3)]
    ends = [worker.communicate(timeout=200) for worker in others]
    assert [worker.returncode for worker in others] == [0, 0], ends
    assert all("Everything is embedded" in err and not out for out, err in ends)
    assert len(parts(fastclip.folder)) == 6
    frozen.send_signal(signal.SIGCONT)
    out, _ = frozen.communicate(timeout=200)
    assert frozen.returncode == 0 and "small: accuracy" in out
    assert contents(fastclip.folder / "embeddings") == calm and not leftovers(fastclip.folder)


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
    files = {f"all/a/{n:02}.png": image_bytes(size=(9 + n, 9)) for n in range(24)}
    # Cut, so that torchvision gives up and Pillow is asked.
    files["all/a/13.png"] = image_bytes(size=(40, 40))[:60] + b"POISON"
    sharded = shard(write(tmp_path / "source", files), tmp_path / "shards", "poisoned", shard_images=4, verify=False)
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
    assert len(parts(fastclip.folder)) == 5, "the other shards are done"
    (reason,) = (fastclip.folder / "embeddings" / "given_up").iterdir()
    assert json.loads(reason.read_text()) == {
        "dataset": "poisoned",
        "shard": "all/3.tar",
        "reason": "ended by SIGKILL",
    }
    again = deadly(*command)
    assert again.code == 4 and "Embedded" not in again.err
    shown = fastclip("status", "poisoned", "-b", "tiny")
    assert shown.code == 4 and "kills the process" in shown.out
    reason.unlink()
    mended = fastclip(*command)
    assert mended.code == 3 and "a/13.png" in mended.out, mended
    # Temporary files may be left: a process was killed at any moment.
    assert not list((fastclip.folder / "embeddings" / "attempts").iterdir())


def test_a_shard_that_kills_takes_down_two_of_many_processes_and_no_other_shard(poisoned: Sharded, fastclip: Program):
    deadly = dataclasses.replace(fastclip, environment={"PYTHONPATH": str(fastclip.folder / "patch")})
    command = ["eval", "poisoned", "-b", "tiny", "--workers", "1"]
    workers = [deadly.start(*command, "--share", f"{share}/4") for share in (1, 2, 3, 4)]
    ends = [worker.communicate(timeout=280) for worker in workers]
    codes = sorted(worker.returncode for worker in workers)
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 4, 4], ends
    assert len(parts(fastclip.folder)) == 5
    assert len(list((fastclip.folder / "embeddings" / "given_up").iterdir())) == 1


@SOMETIMES
def test_a_shard_that_kills_does_not_end_a_launch(poisoned: Sharded, tmp_path: Path):
    prefix = ("env", f"PYTHONPATH={tmp_path / 'patch'}")
    with Launch(tmp_path, 2, "embeddings", ["poisoned", "-b", "tiny"], restarts=3, prefix=prefix) as launch:
        assert launch.wait() != 0
        assert launch.output.count("all/3.tar kills the process") == 1, launch.output
        assert "run the same command again" not in launch.output
    assert len(parts(tmp_path)) == 5


def test_two_processes_keep_out_of_each_others_way_and_help_at_the_end(small: Sharded, tmp_path: Path):
    run = Run(EvalOptions(backbones=("tiny",), shards=small.shards, store=tmp_path))
    units = run.units()
    mine, other = Attempts(tmp_path), Attempts(tmp_path, process=1)
    for unit in units[:2]:
        other.begin(unit)
    order = list(mine.in_good_order(units, run.is_missing))
    assert order == [*units[2:], *units[:2]] and not mine.deadly
    other.end_all()
    assert list(mine.in_good_order(units, run.is_missing)) == units


@pytest.mark.parametrize(("silent", "deadly"), [(True, 1), (False, 0)])
def test_processes_of_other_machines_are_dead_when_their_hearts_stop(
    silent: bool, deadly: int, small: Sharded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = Run(EvalOptions(backbones=("tiny",), shards=small.shards, store=tmp_path))
    units = run.units()
    monkeypatch.setattr(attempts_module, "HEARTBEAT_S", 60.0 if silent else 0.05)
    others = [Attempts(tmp_path, machine=f"elsewhere{n}", process=7) for n in range(2)]
    for other in others:
        other.begin(units[3])
    monkeypatch.setattr(attempts_module, "HEARTBEAT_S", 0.5)
    monkeypatch.setattr(attempts_module, "LONGEST_WAIT_S", 4.0)
    mine = Attempts(tmp_path)
    order = list(mine.in_good_order(units, run.is_missing))
    assert (len(mine.deadly), len(order)) == (deadly, 6 - deadly)
    for other in others:
        other.end_all(closed=True)


class FullTower(ImageTower):
    """Embeds as the real one does, but its GPU holds eight images."""

    def __call__(self, crops: torch.Tensor) -> Embedded:
        if len(crops) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(crops)


@pytest.fixture
def full_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    real = run_module.load_image_tower

    def load(*arguments: object, **options: object) -> ImageTower:
        tower = real(*arguments, **options)
        tower.__class__ = FullTower
        return tower

    monkeypatch.setattr(run_module, "load_image_tower", load)


def test_a_batch_that_does_not_fit_is_halved_and_never_mixed(
    small: Sharded, tmp_path: Path, full_gpu: None, monkeypatch: pytest.MonkeyPatch
):
    options = EvalOptions(backbones=("tiny",), shards=small.shards, store=tmp_path / "full", precision="fp32")
    run = Run(options)
    assert run.batch_size == 32
    run.embed()
    evaluation, _ = score(run)
    assert run.batch_size == 8 and evaluation.complete and "batches of 8" in footnotes(evaluation)[0]
    later = Run(options)
    assert later.batch_size == 8 and not any(map(later.is_missing, later.units())), "a later run knows"
    monkeypatch.undo()
    plain = Run(dataclasses.replace(options, store=tmp_path / "plain", batch_size=8))
    plain.embed()
    assert contents(tmp_path / "full").items() >= contents(tmp_path / "plain").items()
    assert len(parts(tmp_path, "full")) == len(parts(tmp_path, "plain")), "nothing of another batch size"


def test_a_batch_size_that_was_asked_for_is_not_changed(small: Sharded, tmp_path: Path, full_gpu: None):
    run = Run(EvalOptions(backbones=("tiny",), shards=small.shards, store=tmp_path, batch_size=16))
    with pytest.raises(IncompleteError, match="does not hold a batch of 16") as error:
        run.embed()
    assert "--batch-size 8" in error.value.fix


class LateTower(ImageTower):
    """Embeds as the real one does, but for the fourth batch the memory is full for a while."""

    batches = 0

    def __call__(self, crops: torch.Tensor) -> Embedded:
        LateTower.batches += 1
        if LateTower.batches == 4:
            raise RuntimeError("CUDA error: out of memory")
        return super().__call__(crops)


def test_memory_that_is_full_later_on_is_tried_once_more_and_no_other_batch_is_begun(
    small: Sharded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = run_module.load_image_tower

    def load(*arguments: object, **options: object) -> ImageTower:
        tower = real(*arguments, **options)
        tower.__class__ = LateTower
        return tower

    monkeypatch.setattr(run_module, "load_image_tower", load)
    LateTower.batches = 0
    run = Run(EvalOptions(backbones=("tiny",), shards=small.shards, store=tmp_path, workers=1))
    run.embed()
    assert run.batch_size == 32 and not run.missing_units() and len(list((tmp_path / "parts").rglob("*.s*"))) == 6


def test_processes_agree_on_the_smallest_batch_that_any_of_them_holds(
    small: Sharded, tmp_path: Path, full_gpu: None, monkeypatch: pytest.MonkeyPatch
):
    options = EvalOptions(backbones=("tiny",), shards=small.shards, store=tmp_path, precision="fp32")
    roomy = Run(options)
    Run(dataclasses.replace(options, targets=("small/flat",))).embed()
    monkeypatch.undo()
    roomy.embed()
    assert roomy.batch_size == 8 and score(roomy)[0].complete
    assert len(list((tmp_path / "parts").rglob("*.s*"))) == 6, "nothing was embedded twice"
    both = Run(dataclasses.replace(options, backbones=("tiny", "ViT-B/32"), random_weights=True))
    assert both.batch_size == 8, "what is known of one backbone holds for it in any company"


def test_status_says_what_is_missing_and_why(small: Sharded, fastclip: Program):
    base = ["small", "-b", "tiny", "--shards", small.shards]
    assert fastclip("eval", *base, "--precision", "fp32").code == 0
    whole = fastclip("status", *base, "--precision", "fp32")
    assert whole.code == 0 and whole.err == "" and whole.out.count("3/3") == 2
    weights = fastclip.folder / "other.safetensors"
    shutil.copy(storms.oracle.TINY / "tiny.safetensors", weights)
    with weights.open("ab") as file:
        file.write(b"\0")
    for arguments, reason in (
        (["--precision", "bf16"], "precision differs: fp32 there, bf16 now"),
        (["--precision", "fp32", "--batch-size", 5], "batch size differs: 32 there, 5 now"),
        (["--precision", "fp32", "--decoder", "dali"], "decoder differs: torchvision"),
        (["--precision", "fp32", "--weights", weights], "weights differ: 76034d4969fa there"),
    ):
        shown = fastclip("status", *base, *arguments)
        assert shown.code == 4 and reason in " ".join(shown.out.split()), shown.out
        assert max(map(len, shown.out.splitlines())) <= 80
    for path in parts(fastclip.folder)[:3]:
        path.unlink()
    some = fastclip("status", *base, "--precision", "fp32")
    assert some.code == 4 and "small, tiny: 3 shards: not embedded yet" in some.out
    assert sum(int(line.split()[4]) for line in some.out.splitlines() if "small/" in line) == 12
    damaged = parts(fastclip.folder)[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    run = Run(
        EvalOptions(backbones=("tiny",), shards=small.shards, store=fastclip.folder / "embeddings", precision="fp32")
    )
    score(run)
    shown = fastclip("status", *base, "--precision", "fp32")
    assert "1 shard: its part was damaged" in shown.out, shown.out


def test_another_shard_of_the_same_name_reuses_nothing_and_says_so(small: Sharded, fastclip: Program):
    files = {path.relative_to(small.source).as_posix(): path.read_bytes() for path in small.source.glob("*/*/*")}
    first = min(files)
    with Image.open(io.BytesIO(files[first])) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(fastclip.folder / "changed.png")
    files[first] = (fastclip.folder / "changed.png").read_bytes()
    other = shard(write(fastclip.folder / "source", files), fastclip.folder / "shards", "small", shard_images=4)
    before, after = (read_manifest(each.folder).shards for each in (small, other))
    changed = [shard.name for shard, old in zip(after, before, strict=True) if shard.sha256 != old.sha256]
    assert len(changed) == 1
    assert fastclip("eval", "small", "-b", "tiny", "--shards", small.shards).code == 0
    shown = fastclip("status", "small", "-b", "tiny")
    assert shown.code == 4
    assert "1 shard: not embedded yet, or its shard is another one now" in " ".join(shown.out.split()), shown.out
    outcome = fastclip("eval", "small", "-b", "tiny")
    assert outcome.code == 0 and outcome.err.startswith("Embedded 4 images"), outcome.err


def test_a_storm_leaves_the_bytes_of_a_calm_run(small: Sharded, tmp_path: Path):
    """`tests/storms.py` runs as many as are wanted."""
    shutil.copytree(small.shards, tmp_path / "shards")
    done = storms.storms(tmp_path, range(1), ["small", *SLOW], rounds=1)
    assert done["launches"] >= 2 and sum(done.values()) > done["launches"]


def test_what_is_embedded_is_published_while_the_next_shard_is_waited_for(small: Sharded, tmp_path: Path):
    """Else two processes that wait for each other's shards would."""
    run = Run(EvalOptions(backbones=("tiny",), shards=small.shards, store=tmp_path))
    first, second = run.units()[:2]

    def units() -> Iterator[Unit]:
        yield first
        until(lambda: not run.is_missing(first), 30)
        yield second

    loop = run.loop(run.load_towers(run.candidates))
    loop.run(units())
    assert not run.is_missing(first) and not run.is_missing(second)
