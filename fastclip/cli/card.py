"""`fastclip card`: a model card of the Hugging Face hub for one backbone of a result."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from fastclip.errors import UserError

LEADERBOARD = {"rich_help_panel": "For the leaderboard of a benchmark"}
FOLDER = ".eval_results"


def command(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT", help="A run that was kept: its folder or its result.json. Several: as one."),
    ],
    backbone: Annotated[
        str | None, typer.Option("-b", "--backbone", metavar="NAME", help="If the result has several.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(metavar="NAME", help="If the result has several: zero-shot, or that of a fit.")
    ] = None,
    prompts: Annotated[str | None, typer.Option(metavar="SET", help="Only this prompt set.")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Of the model. Default: the backbone's.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Such as README.md. Default: -, standard output.")
    ] = Path("-"),
    leaderboard: Annotated[
        bool, typer.Option("--eval-results", help=f"Write {FOLDER}/TASK.yaml beside the card too.", **LEADERBOARD)
    ] = False,
    hub_dataset: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="The benchmark on the hub.", **LEADERBOARD)
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="Its task.", **LEADERBOARD)] = None,
    percent: Annotated[
        bool, typer.Option("--percent", help="If the benchmark lists percentages. Default: fractions.", **LEADERBOARD)
    ] = False,
) -> None:
    """Write a model card for the hub: its metadata, and tables.

    Nothing is uploaded; the command that does it is printed.
    """
    from fastclip.cli.console import err, write_bytes
    from fastclip.cli.report_inputs import read_inputs
    from fastclip.destinations import check_place
    from fastclip.files import digest, write_whole
    from fastclip.publish.card import choose_model, eval_results, model_card
    from fastclip.results.files.result import to_json

    written = str(output) != "-"
    folder = output.parent if written else Path()
    if written:
        check_place(output)
    entry = _entry(folder, hub_dataset, task, leaderboard, percent)
    merged = read_inputs(results, None, answers=False, patterns=False).merged
    own = choose_model(merged, backbone, head, prompts)
    card = model_card(own, digest(to_json(merged)), name)
    if entry:
        assert hub_dataset and task, "both were asked for"
        text = eval_results(own, hub_dataset, task, percent=percent)
        write_whole(entry, text.encode())
        err().print(f"Written: {entry}", soft_wrap=True)
    if written:
        write_whole(output, card.encode())
        err().print(f"Written: {output}", soft_wrap=True)
    else:
        write_bytes(card.encode())
    for path, place in ((output if written else None, "README.md"), (entry, f"{FOLDER}/{entry.name}" if entry else "")):
        if path:
            words = shlex.join(["hf", "upload", "OWNER/MODEL", str(path), place, "--create-pr"])
            err().print(f"Upload:  {words}", soft_wrap=True)


def _entry(folder: Path, dataset: str | None, task: str | None, wanted: bool, percent: bool) -> Path | None:
    """The file for the leaderboard; None if none is wanted."""
    from fastclip.destinations import check_place

    if not wanted:
        if dataset or task or percent:
            raise UserError("--hub-dataset, --task and --percent are for --eval-results.", fix="Add --eval-results.")
        return None
    if not dataset or not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset) or not task or not re.fullmatch(r"[\w.-]+", task):
        raise UserError(
            "--eval-results needs the benchmark's name on the hub and the id of its task.",
            fix="--eval-results --hub-dataset OWNER/NAME --task ID",
        )
    path = folder / FOLDER / f"{task}.yaml"
    check_place(path)
    return path
