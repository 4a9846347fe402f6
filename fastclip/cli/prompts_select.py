"""The run of `prompts select`: a forecast, bars, the table with the optimism in it, and the file of the chosen set."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from fastclip.cli.console import counted, err, out
from fastclip.cli.prompts_texts import describe, embed_texts, open_sources, title
from fastclip.destinations import check_place
from fastclip.errors import UserError, printable
from fastclip.files import write_whole
from fastclip.results.cells import mean

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fastclip.evaluate.options import EvalOptions
    from fastclip.prompts.candidates import Candidates
    from fastclip.prompts.selection import Selection, SelectOptions
    from fastclip.results.cells import Evaluation

GAP = "gap"


def select_and_print(
    options: EvalOptions,
    candidates: Candidates,
    references: Candidates,
    how: SelectOptions,
    *,
    output: Path | None,
    dry_run: bool,
) -> None:
    """Select an ensemble, print it beside the references, and write it. Nothing is written before all is known."""
    from fastclip.cli.progress import progress_bar
    from fastclip.evaluate.score import score
    from fastclip.prompts.candidates import both
    from fastclip.prompts.hold_out import find_hold_out
    from fastclip.prompts.select import Work, select
    from fastclip.prompts.selection import COLUMNS
    from fastclip.text.prompts import prompt_file

    messages, console = err(), out()
    if output:
        _check_output(output)
    setup, sources = open_sources(options, both(candidates, references))
    if len(setup.targets) > 1 or len(setup.backbones) > 1:
        raise UserError("A set is selected for one dataset and one backbone.", fix="Name one of each.")
    if taken := next((each.name for each in references.each if each.name in COLUMNS), None):
        raise UserError(f"A reference cannot be called {taken!r}, which is a column.", fix="Rename the file.")
    (backbone,) = setup.backbones
    (source,) = sources[backbone]
    if how.labels:
        find_hold_out(how.hold_out, source.target.domains, how.seed)
    if not setup.process.reports:
        return  # of several processes the first one works
    every = both(candidates, references)
    vectors = embed_texts(setup, backbone, every, sources[backbone], messages, select=how, dry_run=dry_run)
    if dry_run:
        return
    images = sum(shard.images for shard in source.target.shards)
    with progress_bar(messages, "selecting", images * (how.most + 1), unit="") as advance:
        work = Work(source, candidates, references.each, vectors, setup.process.cores, advance)
        found = select(work, how)
    prompts = found.prompts(output.stem if output else "chosen")
    evaluation, _ = score(replace(setup, prompts=(prompts,), unreadable="exclude"))
    console.print(_table(found))
    for line in [*_notes(found), *_chosen(found), _scored_again(evaluation), describe(source.recipe)]:
        console.print(printable(line), style="dim")
    if not output:
        console.print("--output FILE.json keeps the chosen set, for fastclip eval --prompts FILE.json.", style="dim")
        return
    write_whole(output, prompt_file(prompts))
    words = ["fastclip", "eval", *options.targets, "-b", backbone, "--prompts", str(output)]
    console.print(printable(shlex.join(words)), soft_wrap=True)


def _check_output(output: Path) -> None:
    from fastclip.text.prompts import BUILT_IN

    if output.suffix != ".json":
        raise UserError(f"--output {output} must end in .json, as --prompts wants it.", fix="--output chosen.json")
    if output.stem in BUILT_IN:
        raise UserError(f"{output} has the name of the built-in set {output.stem}.", fix="--output chosen.json")
    check_place(output)


def _table(found: Selection) -> RenderableType:
    from fastclip.prompts.selection import SAME
    from fastclip.report.style import plain_table, titled

    labels = found.options.labels
    names = {} if labels else {SAME: "chosen"}
    table = plain_table("domain", *(names.get(each, each) for each in found.columns), *([GAP] if labels else []))
    for domain in found.selected_on:
        numbers = [_percent(of_domain[domain].accuracy) for of_domain in found.columns.values()]
        table.add_row(domain, *numbers, *([_signed(found.gap(domain))] if labels else []))
    if len(found.selected_on) > 1:
        table.add_section()
        gaps = [each for each in map(found.gap, found.selected_on) if each is not None] if labels else []
        table.add_row(
            "average",
            *(_percent(found.average(each)) for each in found.columns),
            *([_signed(mean(gaps))] if labels else []),
        )
    way = {"domains": "by domain", "folds": "by fifths", "half": "by half"}[found.options.hold_out]
    how = f"held out {way}" if labels else "chosen without labels"
    return titled(title(found.source, how), table)


def _percent(accuracy: Fraction | None) -> str:
    return "——" if accuracy is None else f"{100 * float(accuracy):.2f}"


def _signed(difference: Fraction | None) -> str:
    return "——" if difference is None else f"{100 * float(difference):+.2f}"


def _difference(first: Fraction | None, second: Fraction | None) -> Fraction | None:
    return None if first is None or second is None else first - second


def _notes(found: Selection) -> Iterator[str]:
    from fastclip.prompts.selection import ALL, HELD_OUT

    if not found.options.labels:
        yield (
            "No label took part in the choice: the candidates with the highest score of zero-shot prompt ensembling "
            "(arXiv 2302.06235) were taken, in equal parts. The images themselves did take part."
        )
    else:
        yield {
            "domains": "Held out: each domain is answered by the ensemble that the other domains chose, and best "
            "single by the one candidate that they chose.",
            "folds": "Held out: each fifth of the images is answered by the ensemble that the other images chose, and "
            "best single by the one candidate that they chose.",
            "half": "Held out: one half of the images, by SHA-256, answered by the ensemble that the other half chose. "
            "Same images are that other half, and the gap compares gains over the mean of all in the two.",
        }[found.options.hold_out]
        yield (
            "Same images: the ensemble that is kept, on the images that chose it. The gap is what choosing alone "
            "adds: optimism."
        )
        held_out = found.average(HELD_OUT)
        for column in list(found.columns)[: list(found.columns).index(ALL) + 1]:
            difference = _signed(_difference(held_out, found.average(column)))
            yield f"Held out against {column}: {difference} points on average."
    if twice := found.candidates.twice:
        yield f"Given twice and counted once: {'; '.join(map(repr, twice[:3]))}{' …' if len(twice) > 3 else ''}."
    if found.unreadable:
        yield f"{counted(found.unreadable, 'unreadable image')} left out of the counts."


def _chosen(found: Selection) -> Iterator[str]:
    yield f"Chosen, {len(found.chosen)} of {counted(len(found.candidates), 'candidate')}, in this order:"
    for row in found.chosen:
        yield f"  {found.candidates.each[row].name}"


def _scored_again(evaluation: Evaluation) -> str:
    cells = evaluation.cells
    shown = ", ".join(f"{each.domain} {_percent(each.accuracy('exclude'))}" for each in cells)
    average = mean([each.accuracy("exclude") for each in cells])
    right, images = sum(each.top1 for each in cells), sum(each.classified for each in cells)
    several = f", average {_percent(average)}" if len(cells) > 1 else ""
    return f"The chosen set, scored as eval scores it: {shown}{several}; {right:,} of {images:,} images."
