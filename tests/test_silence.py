"""A run that says nothing for ten seconds says what it is at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn_store import drawn
from helpers import Program, wait_until
from rich.console import Console

from fastclip.cli import progress
from fastclip.cli.progress import Silence, progress_bar, stages, training_bar, waiting
from fastclip.evaluate.embedding import embed
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import resolve


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silence]:
    """The silence of a process that runs no command yet."""
    fresh = Silence()
    monkeypatch.setattr(progress, "silence", fresh)
    yield fresh
    fresh.end()


def test_every_bar_says_without_a_terminal_how_far_it_is(silence: Silence, tmp_path: Path) -> None:
    console = Console(file=(tmp_path / "log").open("w"))
    with waiting(console, "looking at [red]source"), progress_bar(console, "embedding (bf16)", 5000) as advance:
        advance(1200)
        line = silence.line("fastclip eval", 20.0)
        assert line == "After 20 s: looking at [red]source; embedding (bf16), 1,200 of 5,000 images"
    with training_bar(console, "training", 2000) as train:
        train(100, None, gone_on=True)
        train(50, 0.5)
        assert silence.line("fastclip finetune", 1000.4) == "After 1,000 s: training, 150 of 2,000 images"
    with stages() as say:
        say("loading RN50")
        assert silence.line("fastclip eval", 10.0) == "After 10 s: loading RN50"
        say("")
        assert silence.line("fastclip eval", 10.0) == "After 10 s: fastclip eval is at work"


def test_escapes_in_names_reach_no_terminal(silence: Silence) -> None:
    with silence.at("looking at \x1b[31m"):
        assert "\x1b" not in silence.line("fastclip shard", 10.0)


def test_a_silent_process_speaks_and_one_that_prints_does_not(
    silence: Silence, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = []
    monkeypatch.setattr(progress, "SILENCE_S", 0.01)
    silence.broken()
    with silence.at("scoring"):
        silence.break_it("fastclip eval")
        wait_until(lambda: said.append(capfd.readouterr().err) or "scoring" in said[-1], "a line")
    assert "After 0 s: scoring\n" in "".join(said)
    monkeypatch.setattr(progress, "SILENCE_S", 1e6)
    silence.broken()
    wait_until(lambda: not capfd.readouterr().err, "the last line")
    assert not capfd.readouterr().err


def test_embedding_says_what_it_loads(tmp_path: Path) -> None:
    sharded = drawn(tmp_path, per_class=2)
    options = EvalOptions(
        targets=(sharded.name,), backbones=("tiny",), shards=str(sharded.shards), store=tmp_path / "store"
    )
    said: list[str] = []
    embed(resolve(options), on_stage=said.append)
    assert said == ["loading tiny", "", ""]


def test_a_command_ends_with_what_it_printed_before(fastclip: Program, tmp_path: Path) -> None:
    drawn(tmp_path, per_class=2)
    outcome = fastclip("status", "letters", "-b", "tiny")
    assert (outcome.code, outcome.err) == (4, "")
