"""The answer to TAB: the words that may follow on a command line. It loads no library but Typer and starts nothing.

A script of `fastclip completion` asks by the environment variable `_FASTCLIP_COMPLETE`, which names the shell.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastclip.cli.choices import choices
from fastclip.cli.help import first_sentence
from fastclip.errors import printable

ASKED = "_FASTCLIP_COMPLETE"
MOST_LETTERS = 60
"""Of the sentence beside a word."""


@dataclass
class _Line:
    """A command line up to the word that is being typed."""

    command: Any
    names: list[str] = field(default_factory=list)
    """Of the command, without the program's."""
    given: dict[str, str] = field(default_factory=dict)
    """Options that stand on the line, by their long name, with their value."""
    arguments: int = 0
    """Arguments that stand on the line."""
    waiting: Any = None
    """The option whose value is being typed."""
    options_end: bool = False
    """Whether `--` stands on the line."""


def answer(environment: Mapping[str, str] = os.environ, arguments: Sequence[str] | None = None) -> str:
    """A line for each word that may come next: the word, a tab and a sentence about it; for bash, only the word.

    Without any, the shell offers files.
    """
    import typer

    from fastclip.cli.main import app

    shell = environment[ASKED]
    words = list(sys.argv[1:] if arguments is None else arguments)
    if shell == "bash":
        words = _split(environment.get("COMP_LINE", ""))[1:]
    *before, current = words or [""]
    line = _read(typer.main.get_command(app), before)
    found = [each for each in _candidates(line, current) if each[0].startswith(current) and each[0].isprintable()]
    if shell == "bash":
        start = _broken_at(current, environment.get("COMP_WORDBREAKS", ""))
        return "".join(f"{word[start:]}\n" for word, _ in found)
    return "".join(f"{word}\t{_shortly(about)}\n" for word, about in found)


def _shortly(text: str) -> str:
    return printable(textwrap.shorten(first_sentence(text), MOST_LETTERS, placeholder=" …"))


def _split(line: str) -> list[str]:
    """The words of a line as a shell reads them; the last one, which may be empty or lack its quote, is being typed."""
    for quote in ("", "'", '"'):
        try:
            words = shlex.split(line + quote)
        except ValueError:
            continue
        return [*words, ""] if line[-1:].isspace() and not quote else words
    return line.split(" ")


def _broken_at(word: str, breaks: str) -> int:
    """Where the part of a word begins that bash replaces: it breaks words at `=`, `:` and `@` too."""
    return max((word.rfind(char) + 1 for char in breaks if char in "=:@"), default=0)


def _read(program: Any, words: Sequence[str]) -> _Line:
    line = _Line(program)
    for word in words:
        if line.waiting is not None:
            line.given[_long(line.waiting)] = word
            line.waiting = None
        elif word == "--" and not line.options_end:
            line.options_end = True
        elif word.startswith("-") and not line.options_end:
            name, equals, value = word.partition("=")
            option = _option(line.command, name)
            if option is not None:
                line.given[_long(option)] = value
                line.waiting = None if equals or option.is_flag else option
        elif word in getattr(line.command, "commands", ()):
            line = _Line(line.command.commands[word], [*line.names, word], line.given)
        else:
            line.arguments += 1
    return line


def _long(option: Any) -> str:
    return max(option.opts, key=len)


def _option(command: Any, name: str) -> Any:
    options = (each for each in command.params if each.param_type_name == "option")
    return next((each for each in options if name in (*each.opts, *each.secondary_opts)), None)


def _candidates(line: _Line, current: str) -> Iterator[tuple[str, str]]:
    """Words that may stand where `current` is being typed, each with a text about it."""
    if line.waiting is not None:
        yield from _values(line, line.waiting, current, "")
        return
    if match := re.match(r"(--[\w-]+)=", current):
        if (option := _option(line.command, match[1])) is not None and not option.is_flag:
            yield from _values(line, option, current[match.end() :], match[0])
        return
    if current.startswith("-") and not line.options_end:
        yield from _options(line)
        return
    for name, command in getattr(line.command, "commands", {}).items():
        yield name, command.help or ""
    arguments = [each for each in line.command.params if each.param_type_name == "argument"]
    if line.arguments < len(arguments):
        yield from _values(line, arguments[line.arguments], current, "")
    elif arguments and arguments[-1].nargs == -1:
        yield from _values(line, arguments[-1], current, "")


def _values(line: _Line, param: Any, current: str, prefix: str) -> Iterator[tuple[str, str]]:
    for value in choices(" ".join(line.names), param, current, line.given):
        yield prefix + value, ""


def _options(line: _Line) -> Iterator[tuple[str, str]]:
    """The options that may still be given."""
    for option in line.command.params:
        if option.param_type_name == "option" and (option.multiple or _long(option) not in line.given):
            for name in (*option.opts, *option.secondary_opts):
                if name.startswith("--"):
                    yield name, option.help or ""
    yield "--help", "Show this message and exit."
