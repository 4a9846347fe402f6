"""The forecast of `prompts`: measured times are scaled to positions, images, candidates and steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from drawn_prompts import TEXT_RECIPE, TOWER, letters

from fastclip.prompts import forecast, texts
from fastclip.prompts.forecast import Rates, measure, ranking_s, selecting_s
from fastclip.prompts.selection import SelectOptions
from fastclip.prompts.texts import OpenTower


class Clock:
    """A clock that moves only when work is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class FakeTower:
    """A tower that takes a millisecond a position of its padded batches, and a second for its first call."""

    def __init__(self, clock: Clock, batch: int) -> None:
        self.clock, self.batch, self.first = clock, batch, 1.0

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        return list(map(len, prompts))

    def __call__(self, prompts: Sequence[str], workers: int) -> None:
        batches = -(-len(prompts) // self.batch)
        self.clock.now += self.first + batches * self.batch * max(map(len, prompts)) / 1000
        self.first = 0.0


@pytest.mark.parametrize("lengths", [[8] * 100, [8, 16, 24] * 50, [16]])
def test_texts_are_forecast_by_their_positions_and_without_the_first_call(
    lengths: list[int], monkeypatch: pytest.MonkeyPatch
):
    clock = Clock()
    monkeypatch.setattr(texts, "time", clock)
    setup = SimpleNamespace(process=SimpleNamespace(cores=2))
    tower = object.__new__(OpenTower)
    for name, value in (
        ("tower", FakeTower(clock, 16)), ("recipe", TEXT_RECIPE), ("name", TOWER), ("setup", setup), ("batch", 16)
    ):  # fmt: skip
        object.__setattr__(tower, name, value)
    assert tower.seconds(["x" * each for each in lengths]) == pytest.approx(sum(lengths) / 1000)


def test_scoring_takes_reading_once_and_a_product_a_candidate():
    rates = Rates(read_s=2.0, score_s=3.0, images=10)
    assert rates.seconds(5) == 10 * (2 + 5 * 3)
    assert rates.seconds(5, reads=4) == 10 * (4 * 2 + 5 * 3)


def test_a_selection_is_forecast_by_its_steps_and_by_products_where_similarities_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = letters(tmp_path)
    monkeypatch.setattr(forecast, "_step_s", lambda *_: 0.5)
    rates = Rates(read_s=2.0, score_s=3.0, images=10)
    options = SelectOptions(hold_out="half", most=3)
    steps = 10 * 7 * (1 + 2 * 0.5) * 0.5  # the first step asks one ensemble on all, two more steps one on a half
    assert selecting_s(source, rates, 7, options, 1) == pytest.approx(rates.seconds(7, reads=2) + steps)
    monkeypatch.setattr(forecast, "KEPT_BYTES", 0)
    again = rates.seconds(7 * 3, reads=5) + steps
    assert selecting_s(source, rates, 7, options, 1) == pytest.approx(again)
    without = replace(options, labels=False)
    assert selecting_s(source, rates, 7, without, 1) == rates.seconds(7, reads=4)


def test_a_measurement_is_of_all_images_of_the_domains_that_are_asked_for(tmp_path: Path):
    source = letters(tmp_path, per_class=8)
    assert measure(source, 3, 2).images == 3 * 3 * 8
    one = replace(source, target=replace(source.target, domains=("sketch",)))
    rates = measure(one, 3, 1)
    assert rates.images == 3 * 8 and rates.read_s > 0 and rates.score_s > 0
    assert ranking_s(one, rates, 2) > rates.seconds(2)
