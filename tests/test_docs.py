"""The pages that people read: links lead to files, and commands have names and options that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from helpers import REPOSITORY

from fastclip.cli.main import app

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *(REPOSITORY / folder / "README.md" for folder in ("launch", "shards", "benchmarks")),
]


def code_lines(text: str) -> Iterator[str]:
    """The lines of code blocks, indented or fenced, with continued ones joined."""
    fenced = False
    lines = []
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line)
    yield from re.sub(r" \\\n\s*", " ", "\n".join(lines)).splitlines()


def commands(line: str) -> list[str]:
    """The words after each `fastclip` that is called in a line, and no version: up to a comment or another column."""
    calls = re.findall(r"(?:^|(?<=[\s/]))fastclip (?!\d)((?:\S| (?![ #]))+)", line)
    return [re.sub(r"\s*(…|`.*)$", "", call) for call in calls]


def printed() -> list[str]:
    """Every command of a code block, and every one that stands between backticks in a sentence, of all pages."""
    found = []
    for path in PAGES:
        text = path.read_text("utf-8")
        found += [command for line in code_lines(text) for command in commands(line)]
        prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
        found += re.findall(r"`(?:\.venv/bin/)?fastclip ([^`]+)`", prose)
    return sorted(set(found))


def parse(words: list[str]) -> None:
    """Parse the words after `fastclip` as the program does, down to the last subcommand, without running any."""
    name, command, context = "fastclip", typer.main.get_command(app), None
    while True:
        context = command.make_context(name, list(words), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        words = [*context._protected_args, *context.args]
        if not words:
            assert command.invoke_without_command, f"{name} needs a subcommand"
            return
        name, command, words = command.resolve_command(context, words)


@pytest.mark.parametrize("command", printed())
def test_a_command_of_a_page_has_only_names_and_options_that_exist(command: str):
    try:
        parse(shlex.split(command.translate({ord("["): None, ord("]"): None})))  # options that may be left out
    except Exception as error:
        # `fastclip shard` alone, in a sentence, is the name of a command.
        if type(error).__name__ != "MissingParameter" or len(command.split()) > 2:
            raise


@pytest.mark.parametrize(
    "wrong", ["evaluate pacs", "eval pacs --backbones RN50", "shards prove", "shard a --shard-images x"]
)
def test_a_command_that_does_not_exist_is_noticed(wrong: str):
    with pytest.raises(Exception, match=r"(?i)no such (command|option)|valid integer"):
        parse(shlex.split(wrong))


def test_the_pages_commands_are_found():
    block = "    python -m fastclip demo\n\n```\nx.sh   fastclip eval a \\\n  -b tiny    # why\n```\nfastclip is fast"
    assert [command for line in code_lines(block) for command in commands(line)] == ["demo", "eval a -b tiny"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_links_and_files_of_a_page_exist(page: Path):
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", link)]
    missing = [link for link in links if not (page.parent / link.split("#")[0]).exists()]
    named = [name for name in re.findall(r"--config_file (\S+)", text) if name != "FILE"]
    named += re.findall(r"\b(?:benchmarks|launch|tests)/\w+\.(?:py|sh|yaml|sbatch)\b", text)
    assert not missing + [name for name in named if not (REPOSITORY / name).is_file()]


def test_every_page_of_docs_is_named_in_the_readme():
    text = (REPOSITORY / "README.md").read_text("utf-8")
    assert not [path.name for path in (REPOSITORY / "docs").glob("*.md") if f"(docs/{path.name})" not in text]


MARKED = [page for page in PAGES if "<!-- output:" in page.read_text("utf-8")]


@pytest.mark.slow
@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.name)
def test_pages_show_what_their_commands_print(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`.venv/bin/python docs/fill.py` writes it anew. Another processor's table may differ by a near tie."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    from fill import filled, output

    from fastclip.models.numerics import describe_machine

    text = page.read_text("utf-8")
    if describe_machine(torch.device("cpu")) not in " ".join(text.split()):
        pytest.skip("the page was written on another kind of processor")
    output("demo", tmp_path)
    assert filled(text, tmp_path) == text
