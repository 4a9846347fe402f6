"""Inputs that are replaced or rewritten while a command runs: the right numbers or exit 5, and no store is poisoned.

Each attack holds a command before one of its calls, puts another file in the place of an input, for good or until the
next such call, and lets the command go on. Then the right file is back, and the same command must give what it gives
undisturbed. `tests/attacks.py` goes through all of them; here are a few of each input.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from faults.replaced import CASES, Window, disturbed, every_attack, poisoned, resolved, right_answers, wrong
from faults.world import COMMANDS, World, add_fine_tuned, world

QUICK = [name for name, case in CASES.items() if not COMMANDS[case.command].slow]
SLOW = [name for name in CASES if name not in QUICK]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


def attack(made: World, name: str, number: int) -> None:
    """The window after which nothing of the input is looked at again, a flash of other bytes, and `number` others."""
    case = resolved(made, CASES[name])
    right = right_answers(made, case)
    every = list(every_attack(made, case))
    assert every, f"{case.command} never looks at {case.input}"
    chosen = [(Window(call, 1, paths), "by rename", False) for call, paths in case.elsewhere[:1]]
    if case.elsewhere:  # other bytes for one read alone, after the hash: no later look at the file shows them
        flashes = [each for each in every if each[0].call == "read" and each[1:] == ("in place", True)]
        chosen.append(flashes[2 * len(flashes) // 3])
    for window, way, back in chosen + random.Random(name).sample(every, min(number, len(every))):
        reached, ended, folder = disturbed(made, case, window, way, back=back)
        assert reached, window
        where = f"{case.input} {way}{' and back' if back else ''} before {window.call} {window.number}"
        assert not (why := wrong(right, ended, folder, case)), f"{where}: {why}"
        assert not (why := poisoned(made, right, folder, case)), f"{where}: {why}"


@pytest.mark.parametrize("name", QUICK)
def test_an_input_that_is_replaced_gives_the_right_numbers_or_exit_5(name: str, made: World):
    attack(made, name, number=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_at_many_moments(name: str, made: World):
    if COMMANDS[CASES[name].command].arguments[0] == "wise":
        add_fine_tuned(made)
    attack(made, name, number=12)
