"""`fastclip doctor`: what of this machine keeps fastclip from working, and how that is mended."""

from __future__ import annotations

import json as formats
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastclip.cli.options import PLACE
from fastclip.errors import EXIT_INCOMPLETE, printable

if TYPE_CHECKING:
    from fastclip.doctor.finding import Finding

SCHEMA = "fastclip.doctor/1"
MARGIN, NAME = 8, 18
"""Columns before a finding's name, and those that the name takes."""


def command(
    store: Annotated[Path, typer.Option(metavar="DIR", help="Folder of embeddings.", **PLACE)] = Path("embeddings"),
    shards: Annotated[str, typer.Option(metavar="DIR", help="Folder of all sharded datasets.", **PLACE)] = "shards",
    weights: Annotated[
        list[str] | None, typer.Option(metavar="[BACKBONE=]FILE", help="Hash this file. Repeatable.", **PLACE)
    ] = None,
    online: Annotated[bool, typer.Option("--online", help="Ask the hub, and shards at an address, too.")] = False,
    limit: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="A longer check has hung.")] = 60.0,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the findings to this file; - for the screen.")
    ] = None,
) -> None:
    """Find what is wrong on this machine, each finding with its cure.

    Asks no network without --online, leaves no file behind and shows no secret, so that all of it may be sent to
    others. Exit code 4 if a check failed.
    """
    from fastclip.cli.console import say, write_bytes
    from fastclip.cli.progress import silence
    from fastclip.destinations import check_place
    from fastclip.doctor.checks import CHECKS
    from fastclip.doctor.examine import examine
    from fastclip.doctor.finding import FAIL, Asked
    from fastclip.files import write_whole

    on_screen = json is not None and str(json) == "-"
    if json and not on_screen:
        check_place(json)
    asked = Asked(store=str(store), shards=shards, weights=tuple(weights or ()), online=online)
    rows: list[dict[str, Any]] = []
    group = ""
    with silence.at("checking this machine"):
        for check, findings in examine(asked, CHECKS, limit):
            rows += [{"group": check.group, **asdict(each)} for each in findings]
            if findings and not on_screen:
                if group != check.group:
                    say(f"{'' if not group else chr(10)}{check.group}")
                    group = check.group
                for each in findings:
                    say("\n".join(lines(each)))
    levels = Counter(row["level"] for row in rows)
    document = {"schema": SCHEMA, "failed": levels[FAIL], "findings": rows}
    data = (formats.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    if on_screen:
        write_bytes(data)
    else:
        say(f"\n{_summary(levels)}")
    if json and not on_screen:
        write_whole(json, data)
    if levels[FAIL]:
        raise typer.Exit(EXIT_INCOMPLETE)


def lines(finding: Finding) -> list[str]:
    """The lines of a finding, 80 columns wide: its level, its name and its text, and below it its cure."""
    from fastclip.cli.console import indented

    blanks = MARGIN + NAME
    name = printable(finding.name)
    first, *rest = indented(printable(" ".join(finding.text.split())), blanks, 80).split("\n")
    result = [f"  {finding.level:<{MARGIN - 2}}{name:<{NAME}}{first.lstrip()}".rstrip(), *rest]
    if len(name) >= NAME:
        result = [f"  {finding.level:<{MARGIN - 2}}{name}", first, *rest]
    if finding.cure:
        cure, *more = indented(printable(" ".join(finding.cure.split())), blanks + 2, 80).split("\n")
        result += [f"{' ' * blanks}→ {cure.lstrip()}", *more]
    return result


def _summary(levels: Counter[str]) -> str:
    """The last line: how many checks failed and warn."""
    from fastclip.doctor.finding import FAIL, WARN

    if not levels[FAIL] and not levels[WARN]:
        return "All is well."
    return f"{levels[FAIL]} failed, {levels[WARN]} to look at, {levels['ok']} well."
