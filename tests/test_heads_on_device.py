"""Logistic regression by PyTorch, as on a GPU, reaches the optimum that NumPy reaches."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_store import drawn as drawn_dataset
from drawn_store import fill
from helpers import Program
from test_logistic import agree, drawn, linear, objective
from test_probe import COMMON, result, two_lines

from fastclip.heads import on_device
from fastclip.heads.logistic import BOUND, Logistic
from fastclip.heads.softmax import Softmax
from fastclip.heads.wise import Wise
from fastclip.transfer.jobs import device_of
from fastclip.transfer.jobs import on_device as move

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("exact", [False, True])
def test_an_evaluation_is_that_of_numpy(exact: bool, device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(on_device, "ROWS", 300)
    data, origin = drawn(1000, 24, 6), np.random.default_rng(3).normal(size=(6, 24))
    plain, moved = (Softmax(data.vectors, data.labels, origin, 1, each) for each in (None, device))
    parameters = np.random.default_rng(4).normal(size=(6, 25))
    ours, theirs = (each.at(parameters, 3.0, exact=exact) for each in (plain, moved))
    tolerance = 1e-12 if exact else 1e-5
    assert theirs.value == pytest.approx(ours.value, rel=tolerance)
    for name in ("gradient", "spread"):
        assert np.abs(getattr(theirs, name) - getattr(ours, name)).max() < tolerance, name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("strength", [10.0, 0.1])
def test_the_optimum_is_that_of_numpy(strength: float, device: str):
    data, other = drawn(1500, 32, 7), drawn(500, 32, 7, seed=1)
    plain, moved = (Logistic(strength, device=each).fit(data) for each in (None, device))
    assert moved.facts["gradient"] <= BOUND
    difference = objective(linear(moved), data, strength) - objective(linear(plain), data, strength)
    assert abs(difference) < 1e-8 and agree(linear(plain), linear(moved), other)
    chosen = [Logistic(device=each).choose(data, other).strength for each in (None, device)]
    assert chosen[0] == chosen[1]


def test_a_method_is_moved_wherever_its_regression_stands():
    for method in (Logistic(), Wise(Logistic())):
        assert device_of(method) is None and device_of(move(method, "cuda:0")) == "cuda:0"


def test_a_head_says_on_which_device_it_was_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill(drawn_dataset(tmp_path), tmp_path / "embeddings")
    program = Program(tmp_path)
    words = ("letters/photo", "--test", "letters/night", "--strength", "1")
    plain = result(program, *words)
    monkeypatch.setattr("fastclip.cli.transfer._device", lambda *_: "cpu")
    moved = result(program, *words)
    assert moved["cells"] == plain["cells"]
    (ours,), (theirs,) = (each["heads"] for each in (plain, moved))
    assert theirs["facts"]["made_by"] == f"{ours['facts']['made_by']}; torch {torch.__version__} on cpu"


def test_a_gpu_that_is_not_there_is_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    fill(drawn_dataset(tmp_path), tmp_path / "embeddings")
    said = two_lines(
        Program(tmp_path), "probe", "letters/photo", "--test", "letters/night", "--device", "cuda", *COMMON
    )
    assert re.search("no GPU", said)
    none = ("probe", "letters/photo", "--test", "letters/night", "--head", "knn", "--device", "cuda", *COMMON)
    assert "None of these heads" in two_lines(Program(tmp_path), *none)
