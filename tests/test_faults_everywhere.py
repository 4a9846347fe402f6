"""Calls of every command that fail: a documented exit code, the path by name, no traceback, and a rerun completes.

`tests/attacks.py` goes on for as long as one likes; here are a few faults of each command.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from faults.failing import calm, choose, failed
from faults.world import COMMANDS, World, world

QUICK = [name for name, command in COMMANDS.items() if not command.slow]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


def fail(made: World, name: str, number: int) -> None:
    command = COMMANDS[name]
    right = calm(made, command)
    for fault in choose(made, command, number, random.Random(name)):
        code, why = failed(made, command, fault, right)
        assert not why, f"{fault.errno} at {fault.call} {fault.first} of {fault.paths}, exit {code}: {why}"


@pytest.mark.parametrize("name", QUICK)
def test_a_call_that_fails_is_named_and_costs_nothing_else(name: str, made: World):
    fail(made, name, number=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_many_calls_that_fail(name: str, made: World):
    fail(made, name, number=25)
