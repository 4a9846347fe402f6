"""Trainings that are killed, stopped and started again: the same images in the same order, the same weights."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from drawn_jobs import ALONE, small_job
from faults import Fault, Faults
from helpers import Program, Sharded, shard, wait_until
from test_finetune import load_bytes, the_run

from fastclip.data.shapes import draw_shapes
from fastclip.errors import IntegrityError
from fastclip.finetune.checkpoint import Checkpoint, find_checkpoint, save_checkpoint
from fastclip.finetune.job import Progress, Trained, Watch
from fastclip.finetune.loop import train
from fastclip.finetune.team import Team
from fastclip.results.cells import Epoch

pytestmark = pytest.mark.usefixtures("one_core")


@dataclass(frozen=True)
class Work:
    """A training, and the bytes that come of it when nothing happens."""

    arguments: list[str]
    tensors: dict[str, bytes]
    facts: dict


@pytest.fixture(scope="module")
def work(one_core: None, shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("work")
    draw_shapes(folder / "source", seed=3, images_per_class=10, domains=["outline"])
    new = shard(folder / "source", folder / "shards", "new", shard_images=25)
    shutil.copytree(shapes.folder, new.shards / "shapes")
    arguments = ["finetune", "new", "--test", "shapes/outline", "-b", "tiny", "--shards", str(new.shards), "--lr",
                 "1e-4", "--epochs", "2", "--batch-size", "16", "--save-every", "0"]  # fmt: skip
    program = Program(folder)
    outcome = program.here(*arguments)
    assert outcome.code == 0, outcome.err
    return Work(arguments, load_bytes(the_run(program)), facts_of(the_run(program)))


def facts_of(folder: Path) -> dict:
    facts = json.loads((folder / "finetune.json").read_text())
    return {name: facts[name] for name in ("run", "training", "recipe", "epochs", "unreadable")}


def steps_in(folder: Path) -> list[int]:
    """The steps that the log of the only run in a folder names, so far."""
    lines = []
    for path in folder.glob("finetuned/*/log.jsonl"):
        for line in path.read_text().splitlines():
            with suppress(ValueError):
                lines.append(json.loads(line))
    return [line["step"] for line in lines if line["event"] == "step"]


def same(program: Program, work: Work) -> None:
    folder = the_run(program)
    assert facts_of(folder) == work.facts
    assert load_bytes(folder) == work.tensors, "other weights"


@pytest.mark.parametrize("at", [3, pytest.param(9, marks=pytest.mark.slow)])
def test_a_killed_training_goes_on_to_the_same_bytes(at: int, work: Work, fastclip: Program):
    process = fastclip.start(*work.arguments)
    wait_until(lambda: len(steps_in(fastclip.folder)) >= at, f"{at} steps")
    process.kill()
    process.communicate()
    assert process.returncode == -9, "it was at work"
    outcome = fastclip(*work.arguments)
    assert outcome.code == 0 and "Going on after step" in outcome.err, outcome.err
    same(fastclip, work)


@pytest.mark.slow
def test_killed_after_every_single_step_it_ends_with_the_same_bytes(work: Work, fastclip: Program):
    for at in range(1, 11):
        process = fastclip.start(*work.arguments)
        wait_until(lambda at=at: max(steps_in(fastclip.folder), default=0) >= at, f"step {at}")  # type: ignore[misc]
        process.kill()
        process.communicate()
    assert fastclip(*work.arguments).code == 0
    same(fastclip, work)


def test_sigterm_saves_and_ends_within_its_grace(work: Work, fastclip: Program):
    words = [each if each != "0" else "600" for each in work.arguments]  # no checkpoint but that of the signal
    process = fastclip.start(*words)
    wait_until(lambda: len(steps_in(fastclip.folder)) >= 4, "four steps")
    process.terminate()
    asked = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and time.monotonic() - asked < 25
    assert "Stopped by SIGTERM" in err and "goes on where it was" in err
    (saved,) = fastclip.folder.glob("finetuned/*/checkpoints/step-*")
    assert int(saved.name[5:]) >= 4
    assert fastclip(*work.arguments).code == 0
    same(fastclip, work)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(work: Work, fastclip: Program):
    process = fastclip.start(*work.arguments)
    wait_until(lambda: len(steps_in(fastclip.folder)) >= 3, "three steps")
    process.kill()
    process.communicate()
    newest = max(fastclip.folder.glob("finetuned/*/checkpoints/step-*"))
    file = newest / "learning.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    outcome = fastclip(*work.arguments)
    assert outcome.code == 0, outcome.err
    assert f"{newest.name} is damaged" in " ".join(outcome.err.split())
    same(fastclip, work)


# Several processes


@dataclass
class Group:
    """A launch of several processes."""

    process: subprocess.Popen[str]

    def workers(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [each for each in psutil.Process(self.process.pid).children() if "fastclip" in each.cmdline()]
        return []


@pytest.fixture
def launched(fastclip: Program, launch: Callable[[int], list[str]]) -> Iterator[Callable[..., Group]]:
    started: list[Group] = []

    def begin(processes: int, restarts: int, arguments: list[str]) -> Group:
        prefix = launch(processes)
        place = prefix.index("-m", 3)
        prefix[place:place] = ["--max_restarts", str(restarts), "--monitor_interval", "0.2"]
        started.append(Group(fastclip.start(*arguments, prefix=prefix)))
        return started[-1]

    yield begin
    for group in started:
        for each in group.workers():
            with suppress(psutil.NoSuchProcess):
                each.kill()
        group.process.kill()
        group.process.communicate()


def apart(ours: dict[str, bytes], theirs: dict[str, bytes]) -> float:
    """The largest difference of two sets of weights."""
    pairs = ((torch.frombuffer(bytearray(ours[name]), dtype=torch.float32),
              torch.frombuffer(bytearray(theirs[name]), dtype=torch.float32))
             for name in ours if len(ours[name]) > 8)  # fmt: skip
    return max(float((one - other).abs().max()) for one, other in pairs)


def test_two_processes_train_the_same_model_to_rounding(work: Work, fastclip: Program, launched: Callable[..., Group]):
    group = launched(2, 0, work.arguments)
    out, err = group.process.communicate(timeout=300)
    assert group.process.returncode == 0, err
    folder = the_run(fastclip)
    facts, theirs = facts_of(folder), work.facts
    assert {**facts, "epochs": 0, "training": 0} == {**theirs, "epochs": 0, "training": 0}
    assert [each["images"] for each in facts["epochs"]] == [each["images"] for each in theirs["epochs"]]
    for ours, other in zip(facts["epochs"][1:], theirs["epochs"][1:], strict=True):
        assert ours["loss"] == pytest.approx(other["loss"], rel=1e-3)
    assert 0 < apart(load_bytes(folder), work.tensors) < 2e-4, "a step moves a weight by 1e-4"
    assert out.count("shapes: accuracy") == 1, "one process prints"


@pytest.mark.slow
def test_a_killed_process_is_started_again_by_its_launcher_and_training_goes_on(
    work: Work, fastclip: Program, launched: Callable[..., Group]
):
    group = launched(2, 2, work.arguments)
    wait_until(lambda: len(steps_in(fastclip.folder)) >= 3 and len(group.workers()) == 2, "three steps of two")
    group.workers()[1].kill()
    _, err = group.process.communicate(timeout=300)
    assert group.process.returncode == 0, err
    assert "Going on after step" in err
    facts = facts_of(the_run(fastclip))
    assert facts["run"] == work.facts["run"] and len(facts["epochs"]) == 3


@pytest.mark.slow
def test_another_number_of_processes_goes_on_with_the_same_images(
    work: Work, fastclip: Program, launched: Callable[..., Group]
):
    group = launched(3, 0, work.arguments)
    wait_until(lambda: len(steps_in(fastclip.folder)) >= 4, "four steps of three")
    for each in group.workers():
        each.kill()
    group.process.communicate(timeout=300)
    outcome = fastclip(*work.arguments)
    assert outcome.code == 0 and "Going on after step" in outcome.err, outcome.err
    assert facts_of(the_run(fastclip))["run"] == work.facts["run"]
    assert apart(load_bytes(the_run(fastclip)), work.tensors) < 2e-4


@pytest.mark.slow
def test_sigterm_to_a_launcher_saves_once_and_ends_all(work: Work, fastclip: Program, launched: Callable[..., Group]):
    group = launched(2, 0, [each if each != "0" else "600" for each in work.arguments])
    wait_until(lambda: len(steps_in(fastclip.folder)) >= 4, "four steps of two")
    workers = group.workers()
    group.process.terminate()
    group.process.communicate(timeout=60)
    wait_until(lambda: not any(each.is_running() for each in workers), "both have ended", 30)
    assert len(list(fastclip.folder.glob("finetuned/*/checkpoints/step-*"))) == 1
    assert fastclip(*work.arguments).code == 0


@pytest.mark.slow
def test_three_processes_that_are_killed_and_go_on_end_with_the_bytes_of_three_that_are_not(
    work: Work, fastclip: Program, launched: Callable[..., Group]
):
    calm = launched(3, 0, [*work.arguments, "--out", "calm"])
    assert calm.process.wait(300) == 0
    group = launched(3, 0, work.arguments)
    wait_until(lambda: len(steps_in(fastclip.folder)) >= 4, "four steps of three")
    for each in group.workers():
        each.kill()
    group.process.communicate(timeout=300)
    again = launched(3, 0, work.arguments)
    _, err = again.process.communicate(timeout=300)
    assert again.process.returncode == 0 and "Going on after step" in err, err
    assert load_bytes(the_run(fastclip)) == load_bytes(the_run(fastclip, "calm"))


@pytest.mark.slow
def test_when_one_of_two_processes_is_asked_to_stop_both_do_and_say_so(work: Work, fastclip: Program):
    words = [each if each != "0" else "600" for each in work.arguments]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "fastclip", *words]
    both = [
        subprocess.Popen(
            command, cwd=fastclip.folder, env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]  # fmt: skip
    wait_until(lambda: len(steps_in(fastclip.folder)) >= 3, "three steps")
    both[1].terminate()
    ends = [(each.communicate(timeout=60)[1], each.returncode) for each in both]
    assert [code for _, code in ends] == [4, 143], ends
    assert "Another process of this training was stopped; a checkpoint is there" in " ".join(ends[0][0].split())
    assert len(list(fastclip.folder.glob("finetuned/*/checkpoints/step-*"))) == 1


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


# Checkpoints


def checkpoint(step: int) -> Checkpoint:
    tensors = {"learning": {"w": torch.full((3,), float(step))}, "optimizer": {"exp_avg/w": torch.ones(3)}}
    return Checkpoint(step, (Epoch(number=0, loss=None, right=1, images=2),), 0.25, tensors)


def test_a_checkpoint_comes_back_and_old_ones_go(tmp_path: Path):
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, "a" * 64, checkpoint(step), keep=[1])
    found = find_checkpoint(tmp_path, "a" * 64)
    assert found and (found.step, found.loss_sum, found.epochs) == (4, 0.25, checkpoint(4).epochs)
    assert torch.equal(found.tensors["learning"]["w"], torch.full((3,), 4.0))
    assert sorted(path.name[-1] for path in (tmp_path / "checkpoints").iterdir()) == ["1", "3", "4"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    save_checkpoint(tmp_path, "a" * 64, checkpoint(1), keep=[])
    with pytest.raises(IntegrityError, match="checkpoint of another run"):
        find_checkpoint(tmp_path, "b" * 64)


@pytest.mark.parametrize("name", ["state.json", "learning.safetensors", "optimizer.safetensors"])
def test_every_byte_of_a_checkpoint_counts(name: str, tmp_path: Path):
    save_checkpoint(tmp_path, "a" * 64, checkpoint(7), keep=[])
    (path,) = tmp_path.rglob(name)
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        told: list[Exception] = []
        assert find_checkpoint(tmp_path, "a" * 64, told.append) is None and len(told) == 1, place
    path.unlink()
    assert find_checkpoint(tmp_path, "a" * 64) is None


def test_a_training_that_dies_at_a_step_goes_on_to_the_same_bytes(tmp_path: Path):
    class DiedError(Exception):
        pass

    def run(folder: Path, dies_at: int | None = None) -> Trained | None:
        def on_step(progress: Progress) -> None:
            if progress.step == dies_at:
                raise DiedError

        job = small_job(tmp_path, folder)
        return train(job, Team(ALONE, torch.device("cpu")), Watch(on_step=on_step))

    calm = run(tmp_path / "calm")
    assert calm
    for step in (1, 2, 5, 6, 9):  # in both epochs, and at the ends of one
        with pytest.raises(DiedError):
            run(tmp_path / f"{step}", step)
        found = run(tmp_path / f"{step}")
        assert found and found.epochs == calm.epochs and found.chosen == calm.chosen
        assert all(torch.equal(found.tensors[name], calm.tensors[name]) for name in calm.tensors), step


def test_if_the_best_epochs_checkpoint_is_damaged_training_begins_anew_and_not_at_its_end(tmp_path: Path):
    class DiedError(Exception):
        pass

    def run(dies_at: int) -> tuple[Trained | None, list[Exception]]:
        damaged: list[Exception] = []

        def on_step(progress: Progress) -> None:
            if progress.step == dies_at:
                raise DiedError

        watch = Watch(on_step=on_step, on_damaged=damaged.append)
        return train(small_job(tmp_path, tmp_path / "run"), Team(ALONE, torch.device("cpu")), watch), damaged

    steps = -(-len(small_job(tmp_path, tmp_path).samples) // 8)
    with pytest.raises(DiedError):
        run(2 * steps)
    kept = tmp_path / "run" / "checkpoints" / f"step-{steps:08d}" / "learning.safetensors"
    kept.write_bytes(kept.read_bytes()[:-1])
    found, damaged = run(10**9)
    assert found and len(found.epochs) == 3 and len(damaged) == 1 and f"step-{steps:08d}" in str(damaged[0])


@pytest.mark.parametrize("name", ["state.json", "learning.safetensors"])
def test_a_checkpoint_that_the_machine_cannot_read_is_not_called_damaged(name: str, faults: Faults, tmp_path: Path):
    save_checkpoint(tmp_path, "a" * 64, checkpoint(7), keep=[])
    look = (
        "import sys; from pathlib import Path; from fastclip.finetune.checkpoint import find_checkpoint\n"
        "find_checkpoint(Path(sys.argv[1]), 'a' * 64)"
    )
    environment = {**os.environ, **faults.env(Fault(f"*/{name}", "read", 1, 0, errno="EIO"))}
    command = [sys.executable, "-c", look, str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "MachineError" in ended.stderr and "Damaged" not in ended.stderr
