"""Help reads like a tour: groups of commands, and an example of each that works."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from helpers import Program
from test_docs import parse

from fastclip.cli.help import first_sentence
from fastclip.cli.main import app
from fastclip.cli.tour import EXAMPLES, TOUR, example


def commands(command: object = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    """Every command of the program, and every command of a command, by its words."""
    for name, each in (command or typer.main.get_command(app)).commands.items():
        yield " ".join((*words, name)), each
        if hasattr(each, "commands"):
            yield from commands(each, (*words, name))


COMMANDS = dict(commands())


def test_every_command_is_in_one_group():
    placed = [name for names in TOUR.values() for name in names]
    assert len(placed) == len(set(placed))
    missing = [name for name in COMMANDS if " " not in name and name not in placed]
    assert not missing, "give it a group in fastclip/cli/tour.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_that_can_be_typed(command: str):
    assert command in EXAMPLES, "give it an example in fastclip/cli/tour.py"
    line = example(command)
    assert len(line) <= 70
    parse(shlex.split(line)[1:])


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_begins_with_a_sentence_and_ends_with_the_example(command: str, fastclip: Program):
    sentence = first_sentence(COMMANDS[command].help)
    assert sentence.endswith(".") and sentence[0].isupper() and len(sentence) <= 132, "two lines of the tour at most"
    # In this process the tests would check the types of a group's function, whose context is of Typer's own class.
    run = fastclip if " " in command else fastclip.here
    outcome = run(*command.split(), "--help")
    lines = [line.strip() for line in outcome.out.splitlines() if line.strip()]
    assert outcome.code == 0 and max(map(len, outcome.out.splitlines())) <= 80
    assert sentence in " ".join(lines)
    assert lines[-1] == f"Example: {example(command)}"


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ()])
def test_the_program_alone_shows_every_command_once_below_its_group(arguments: tuple[str, ...], fastclip: Program):
    outcome = fastclip.here(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert listed == [name for names in TOUR.values() for name in names if name in COMMANDS]
    headings = [line.partition(", such as: ") for line in lines if ", such as: fastclip " in line]
    assert [name for name, _, _ in headings] == list(TOUR)
    for name, _, line in headings:
        assert shlex.split(line)[1] in TOUR[name]


def test_narrow_terminals_get_narrow_help(fastclip: Program):
    fastclip.environment["COLUMNS"] = "60"
    listed = [line for line in fastclip("--help").out.splitlines() if line.startswith("  ")]
    assert listed and max(map(len, listed)) <= 60


def test_a_misspelt_command_is_answered_with_the_nearest(fastclip: Program):
    outcome = fastclip.here("shrad", "mine")
    assert outcome.code == 2 and "Did you mean 'shard'" in outcome.err


def test_the_tour_loads_no_library_of_formats_or_numbers():
    code = (
        "import sys\n"
        "heavy = ('rich', 'markdown_it', 'pygments', 'numpy', 'torch', 'pyarrow', 'PIL')\n"
        "sys.argv = ['fastclip', '--help']\n"
        "from fastclip.cli.main import app\n"
        "try: app(standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "print('loaded:', [name for name in heavy if name in sys.modules])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Data, such as" in out and out.splitlines()[-1] == "loaded: []"
