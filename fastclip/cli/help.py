"""How commands show their help: the whole program as a tour, each command with an example.

Flags and arguments show no type beside them: Typer 0.29 writes `--overwrite <bool>`.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from fastclip.cli.tour import TITLE, TOUR, example

MOST_COLUMNS = 80


class _Helpful:
    help: str | None
    epilog: str | None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.help:  # Rich would break lines where the docstring does, and again at the terminal's edge
            self.help = "\n\n".join(" ".join(each.split()) for each in self.help.split("\n\n"))

    def get_params(self, context: Any) -> list[Any]:
        params: list[Any] = super().get_params(context)  # type: ignore[misc]
        for each in params:
            if getattr(each, "is_flag", False):
                each.metavar = ""
            elif isinstance(each, TyperArgument):
                each.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
        return params

    def format_help(self, context: Any, formatter: Any) -> None:
        if line := example(_words(context)):
            self.epilog = f"Example: {line}"
        super().format_help(context, formatter)  # type: ignore[misc]


def _words(context: Any) -> str:
    """The names of a command and of the group that it is in, without the program's: `store copy`."""
    names = []
    while context.parent is not None:
        names.append(context.info_name)
        context = context.parent
    return " ".join(reversed(names))


class Command(_Helpful, TyperCommand):
    """One command."""


class Group(_Helpful, TyperGroup):
    """A command that has commands."""

    context_class = typer.Context  # a callback that asks for one is given the class that it names


class Tour(Group):
    """The whole program. Its help needs no Rich, which takes as long to load as all the rest."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        return super().parse_args(context, args or ["--help"])

    def format_help(self, context: Any, formatter: Any) -> None:
        columns = min(MOST_COLUMNS, shutil.get_terminal_size().columns)
        formatter.write("\n".join(self._lines(context, columns)) + "\n")

    def _lines(self, context: Any, columns: int) -> Iterator[str]:
        yield f"Usage: {context.command_path} COMMAND [OPTIONS]\n"
        yield TITLE
        placed = {name for names in TOUR.values() for name in names}
        others = tuple(name for name in self.commands if name not in placed)
        for group, names in [*TOUR.items(), *([("Others", others)] if others else [])]:
            there = [name for name in names if name in self.commands]
            yield f"{group}, such as: {example(there[0])}" if example(there[0]) else group
            for name in there:
                yield textwrap.fill(
                    first_sentence(self.commands[name].help or ""),
                    columns,
                    initial_indent=f"  {name:<12}",
                    subsequent_indent=" " * 14,
                )
            yield ""
        yield "Options: --version, and -h or --help after any command for what it takes."


def first_sentence(text: str) -> str:
    """The first sentence of a text, on one line."""
    return re.split(r"(?<=[.!?])\s", " ".join(text.split()), maxsplit=1)[0]
