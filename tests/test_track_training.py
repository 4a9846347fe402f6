"""`fastclip track` of a fine-tuning: the steps of its live log, each once, whatever is killed in between."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_trackers import draw_trackers, kept
from helpers import Program, training, wait_until

from fastclip.files import canonical_json, digest
from fastclip.finetune.log import LOG, Log, open_log
from fastclip.finetune.published import FACTS
from fastclip.publish import training_log
from fastclip.publish.training_log import LogReader, TrainingFiles, read_facts

PER_EPOCH = 3


def train(log: Log, first: int, last: int) -> None:
    """Steps after `first` up to `last`, with an epoch after each three, as a training writes them."""
    log("start", step=first, processes=1, device="cpu")
    for step in range(first + 1, last + 1):
        log(
            "step", lr=1e-5, step=step, epoch=(step - 1) // PER_EPOCH, images=16, loss=1 / step, seconds=0.1, wait_s=0.0
        )
        if step % PER_EPOCH == 0:
            epoch = step // PER_EPOCH
            log("epoch", step=step, epoch=epoch, loss=0.5, right=epoch, images=10)
            log("checkpoint", step=step)


def expected(last: int) -> dict[int, dict[str, float]]:
    rows = {}
    for step in range(1, last + 1):
        rows[step] = {"train/lr": 1e-5, "train/loss": 1 / step, "train/epoch": float((step - 1) // PER_EPOCH)}
        if step % PER_EPOCH == 0:
            epoch = step // PER_EPOCH
            rows[step] |= {"epoch/number": float(epoch), "epoch/loss": 0.5, "epoch/accuracy": epoch / 10}
    return rows


def publish(folder: Path) -> None:
    document: dict[str, Any] = {
        "schema": "fastclip.finetune/1", "run": folder.name, "weights": "f" * 64, "precision": "fp32",
        "training": training().to_document(), "recipe": {"learning_rate": 1e-5, "select": "held-out"},
    }  # fmt: skip
    document["digest"] = digest(canonical_json(document))
    (folder / FACTS).write_text(json.dumps(document))


def read(reader: LogReader, *, ended: bool = False) -> dict[int, dict[str, float]]:
    return {row.step: dict(row.metrics) for row in reader.rows(ended=ended)}


def test_the_files_are_called_as_finetune_calls_them():
    assert (training_log.LOG, training_log.FACTS) == (LOG, FACTS)


def test_each_step_is_read_once_with_its_epoch_and_the_last_one_waits(tmp_path: Path):
    reader = LogReader(tmp_path / LOG)
    assert read(reader) == {}
    with open_log(tmp_path / LOG, 0, 0) as log:
        train(log, 0, 4)
        assert read(reader) == {step: row for step, row in expected(4).items() if step < 4}
        assert read(reader) == {}
        train(log, 4, 6)
    assert read(reader, ended=True) == {step: row for step, row in expected(6).items() if step > 3}


def test_a_torn_line_waits_for_its_end_and_a_line_of_garbage_is_no_step(tmp_path: Path):
    reader = LogReader(tmp_path / LOG)
    whole = json.dumps({"event": "step", "step": 1, "lr": 0.1, "loss": 2.0, "epoch": 0}) + "\n"
    (tmp_path / LOG).write_text("garbage\n[1]\n" + whole[:20])
    assert read(reader, ended=True) == {}
    with (tmp_path / LOG).open("a") as file:
        file.write(whole[20:])
    assert read(reader, ended=True) == {1: {"train/lr": 0.1, "train/loss": 2.0, "train/epoch": 0.0}}


def test_a_training_that_is_killed_and_goes_on_writes_the_same_steps_again(tmp_path: Path):
    reader = LogReader(tmp_path / LOG)
    with open_log(tmp_path / LOG, 0, 0) as log:
        train(log, 0, 5)
    with (tmp_path / LOG).open("a") as file:
        file.write('{"event": "st')  # killed
    first = read(reader)
    with open_log(tmp_path / LOG, 3, 2) as log:  # epoch 0 and 1 are counted
        train(log, 3, 7)
    assert first | read(reader, ended=True) == expected(7)


def start(fastclip: Program, tmp_path: Path, *words: object) -> Any:
    fakes = draw_trackers(tmp_path / "fakes", "import time; time.sleep(600)")
    path = os.pathsep.join([str(fakes), *sys.path])
    program = Program(fastclip.folder, {"PYTHONPATH": path, "FAKE_TRACKIO": str(tmp_path / "kept")})
    return program.start("track", tmp_path / "run", "--to", "trackio:p", *words)


def logged(tmp_path: Path) -> list[tuple[int, dict[str, float]]]:
    return [(each[2], each[3]) for each in kept(tmp_path / "kept") if each[0] == "log"]


def test_follow_ends_with_the_training_and_has_every_step_once(fastclip: Program, tmp_path: Path):
    """The training is killed and goes on; the tracking is killed, and is started again."""
    run = tmp_path / "run"
    with open_log(run / LOG, 0, 0) as log:
        train(log, 0, 5)
        process = start(fastclip, tmp_path, "--follow")
        wait_until(lambda: len(logged(tmp_path)) == 4, "four steps")
        process.kill()
        process.communicate()
    with open_log(run / LOG, 3, 2) as log:
        train(log, 3, 7)
        process = start(fastclip, tmp_path, "--follow", "--to", "wandb:hangs", "--timeout", 3)
        wait_until(lambda: len(logged(tmp_path)) == 6, "six steps")
        train(log, 7, 9)
    publish(run)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4 and "wandb:hangs failed: no answer within 3 s" in err
    assert out.startswith("trackio:p: 1 run tracked")
    assert logged(tmp_path) == list(expected(9).items())


def test_ctrl_c_ends_the_following_and_not_what_was_sent(fastclip: Program, tmp_path: Path):
    with open_log(tmp_path / "run" / LOG, 0, 0) as log:
        train(log, 0, 5)
    process = start(fastclip, tmp_path, "--follow")
    wait_until(lambda: len(logged(tmp_path)) == 4, "four steps")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-2:-1] == ["Error: Stopped by SIGINT."]
    process = start(fastclip, tmp_path)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "trackio:p: 1 there already → trackio show --project p\n")
    assert logged(tmp_path) == list(expected(4).items())


def test_a_loss_that_is_not_finite_ends_the_following(fastclip: Program, tmp_path: Path):
    with open_log(tmp_path / "run" / LOG, 0, 0) as log:
        train(log, 0, 2)
        log("not finite", step=3, epoch=0, images=[])
    process = start(fastclip, tmp_path, "--follow")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "1 run tracked, the training ended at a number that is not finite" in out
    assert logged(tmp_path) == list(expected(2).items())


def test_the_facts_of_a_training_are_proven(fastclip: Program, tmp_path: Path):
    with open_log(tmp_path / LOG, 0, 0) as log:
        train(log, 0, 3)
    publish(tmp_path)
    facts = read_facts(TrainingFiles(tmp_path))
    assert facts and facts.config["weights"] == "f" * 64 and facts.config["recipe/learning_rate"] == 1e-5
    assert facts.metrics == {"chosen/epoch": 3.0}
    (tmp_path / FACTS).write_text((tmp_path / FACTS).read_text().replace("fp32", "bf16"))
    draw_trackers(tmp_path / "fakes", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path / "fakes"))
        outcome = fastclip.here("track", tmp_path, "--to", "trackio:p")
    assert outcome.code == 5 and "its digest differs" in outcome.err


@pytest.mark.parametrize("words", [("r",), ("run", "run2")])
def test_only_one_training_is_followed(words: tuple[str, ...], fastclip: Program, tmp_path: Path):
    for name in ("run", "run2"):
        with open_log(tmp_path / name / LOG, 0, 0):
            pass
    draw_trackers(tmp_path / "fakes", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path / "fakes"))
        outcome = fastclip.here("track", *(tmp_path / word for word in words), "--to", "trackio:p", "--follow")
    assert outcome.code == 2 and "--follow is for one fine-tuning" in outcome.err
