"""`fastclip track`: finished results, and trainings under way, in an experiment tracker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.errors import IncompleteError, UserError

if TYPE_CHECKING:
    import threading

    from fastclip.publish.runs import TrackedRun
    from fastclip.publish.sending import Sender, Sent
    from fastclip.publish.trackers import Files
    from fastclip.publish.training_log import TrainingFiles


def command(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT", help="A run that was kept: its folder or its result.json; or a folder in finetuned."
        ),
    ],
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="TRACKER:PLACE",
            help="wandb:PROJECT, mlflow:EXPERIMENT, mlflow:EXPERIMENT@URI (or @DIR), tensorboard:DIR, trackio:PROJECT. "
            "Repeatable.",
        ),
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Send the page of fastclip report too, without pictures.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Of a fine-tuning: go on until it ends, as its log grows.")
    ] = False,
    timeout: Annotated[float, typer.Option(metavar="S", min=1, help="Seconds that a tracker has for a run.")] = 120,
) -> None:
    """Show kept results and fine-tunings in an experiment tracker.

    Each backbone and head becomes a run. Tracking again adds nothing twice, and a tracker that fails costs nothing.
    """
    from fastclip.cli.console import err, out
    from fastclip.cli.progress import silence
    from fastclip.publish.sending import Sent, send_all, send_results
    from fastclip.publish.targets import find_targets
    from fastclip.publish.training_log import send_training

    targets = find_targets(to or ())
    trainings = _trainings(results, follow)
    runs = _runs([each for each in results if each not in trainings], page)
    if os.environ.get("RANK", "0") != "0":  # another process of a launcher; the first one tracks
        return

    def task(sender: Sender, sent: Sent, stopping: threading.Event) -> None:
        send_results(runs, sender, sent, stopping)
        for each in trainings.values():
            send_training(each, sender, sent, stopping, follow=follow)

    if follow:
        err().print("Following the log; Ctrl-C ends this, and not the training.")
    sent = [Sent(each) for each in targets]
    with silence.at(lambda: _progress(sent, follow=follow)):
        send_all(sent, timeout, task)
    for each in sent:
        if not each.error:
            out().print(_line(each), soft_wrap=True)
    if failed := [each for each in sent if each.error]:
        raise IncompleteError(
            " ".join(f"{each.target} failed: {each.error}." for each in failed),
            fix="Mend it and run the same command again: nothing is tracked twice, and no result was touched.",
        )


def _progress(sent: Sequence[Sent], *, follow: bool) -> str:
    """`following, mlflow:e has step 120`, or the trackers that are waited for."""
    at = [f"{each.target}{f' has step {each.step:,}' * (each.step >= 0)}" for each in sent if not each.done]
    return f"{'following' if follow else 'waiting for'} {', '.join(at)}"


def _line(sent: Sent) -> str:
    from fastclip.cli.console import counted
    from fastclip.errors import printable

    there = f"{sent.there:,} there already" if sent.there else ""
    new = f"{counted(sent.new, 'run')} tracked" if sent.new or not there else ""
    where = f" → {sent.where}" if sent.where else ""
    return printable(f"{sent.target}: {', '.join(filter(None, (new, there, sent.note)))}{where}")


def _trainings(paths: Sequence[Path], follow: bool) -> dict[Path, TrainingFiles]:
    """The fine-tunings among some paths: folders with a log, or log files."""
    from fastclip.publish.training_log import FACTS, LOG, TrainingFiles, check_training
    from fastclip.results.files.result import RESULT

    found = {}
    for path in paths:
        folder = path.parent if path.name == LOG else path
        begun = (folder / LOG).is_file() or (folder / FACTS).is_file()
        if begun or (follow and folder.is_dir() and not (folder / RESULT).is_file()):
            found[path] = TrainingFiles(folder)
            check_training(found[path], follow=follow)
    if follow and len(found) != 1:
        raise UserError("--follow is for one fine-tuning.", fix="fastclip track finetuned/RUN --to … --follow")
    return found


def _runs(paths: Sequence[Path], page: bool) -> list[tuple[TrackedRun, Files]]:
    """The runs of all results, each with its files."""
    from fastclip.publish.runs import runs_of
    from fastclip.results.files.kept import find_results
    from fastclip.results.files.result import RESULT, to_json

    found: list[tuple[TrackedRun, Files]] = []
    for kept in find_results(paths):
        if kept.result is None:
            raise UserError(f"{kept.name} holds predictions, and no result.", fix="Name the folder of the run.")
        files = {RESULT: to_json(kept.result).decode()}
        if page:
            files["report.html"] = _page(Path(kept.name))
        found += [(run, files) for run in runs_of(kept.result)]
    return found


def _page(path: Path) -> str:
    """The page of a result. Pictures stay here: the licences of images seldom allow to send them."""
    from fastclip.cli.report_inputs import read_inputs
    from fastclip.report.html.page import render_page
    from fastclip.report.numbers import TableStyle
    from fastclip.results.comparing.columns import all_families

    inputs = read_inputs([path], None, answers=True, patterns=False)
    return render_page(
        inputs.evaluation,
        answers=inputs.answers,
        against=None,
        families=list(all_families(inputs.evaluation)),
        style=TableStyle(),
        shards="shards",
        thumbnails=0,
    ).decode()
