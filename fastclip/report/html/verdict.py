"""The page's first lines: is the result complete, what is it of, and what may not be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastclip.files import digest
from fastclip.report.against import verdict_line
from fastclip.report.document import Document
from fastclip.report.html.words import called, listed, plural
from fastclip.report.numbers import MACRO, MICRO, interval_text
from fastclip.results.answers import PredictionRows
from fastclip.results.cells import Evaluation
from fastclip.results.comparing.caveats import image_lines
from fastclip.results.comparing.families import Family
from fastclip.results.files.result import to_json
from fastclip.results.published.embedded import published_table
from fastclip.results.published.verdicts import Against


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best row of a dataset."""

    dataset: str
    what: str
    """The header of its number: a domain, or the average."""
    row: str
    number: str
    interval: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The first things to know of a result."""

    title: str
    complete: bool
    state: str
    scope: str
    best: tuple[Best, ...]
    against: str
    """Empty if nothing is compared with a published table."""
    digest: str
    notes: tuple[str, ...]
    """Limits of comparison and their reasons, a sentence each."""
    commands: tuple[tuple[str, str], ...]
    """A part that the page lacks → the command that adds it."""


def make_verdict(
    evaluation: Evaluation,
    document: Document,
    against: Against | None,
    families: Sequence[Family],
    answers: PredictionRows | None,
) -> Verdict:
    """The verdict of an evaluation."""
    datasets = [each.name for each in evaluation.datasets]
    backbones = list(dict.fromkeys(cell.backbone for cell in evaluation.cells))
    ways = list(dict.fromkeys(cell.column.way for cell in evaluation.cells))
    images = {(cell.dataset, cell.domain, cell.sample): cell.images for cell in evaluation.cells}
    one = backbones[0] if len(backbones) == 1 else plural(len(backbones), "backbone")
    noun = "prompt set" if not evaluation.heads else "way to answer|ways to answer"
    return Verdict(
        title=f"{listed(datasets)}: accuracy of {one}",
        complete=evaluation.complete and not evaluation.undecided,
        state=_state(evaluation),
        scope=f"{plural(sum(images.values()), 'image')} of {plural(len(datasets), 'dataset')} "
        f"({plural(len(images), 'domain')}); {plural(len(backbones), 'backbone')} × {plural(len(ways), noun)}: "
        f"{plural(len(evaluation.cells), 'cell')}.",
        best=tuple(_best(document)),
        against=verdict_line(against) if against else "",
        digest=digest(to_json(evaluation)),
        notes=tuple(dict.fromkeys((*_notes(evaluation), *document.labels))),
        commands=tuple(_commands(evaluation, against, families, answers)),
    )


def _state(evaluation: Evaluation) -> str:
    missing = [cell for cell in evaluation.cells if cell.missing_shards]
    if missing:
        shards = plural(len(missing), "cell has no number|cells have no number")
        return f"Incomplete: shards are missing, and {shards}. The command that made it goes on where it was."
    unreadable = plural(len(evaluation.unreadable), "image is unreadable|images are unreadable")
    if evaluation.undecided:
        return f"Undecided: {unreadable}. Choose --unreadable wrong or exclude; until then their cells have no number."
    if evaluation.unreadable:
        meaning = "counted as wrong" if evaluation.unreadable_policy == "wrong" else "left out of the counts"
        return f"Complete. {unreadable}, and {meaning}."
    return "Complete: every image was classified."


def _best(document: Document) -> Iterator[Best]:
    """The best comparable row of each table, by the macro average, or else by the last number."""
    for table in document.tables:
        # Averages come last: a domain may have the name of one.
        last = len(table.headers) - 1
        place = last - table.headers[::-1].index(MACRO) if MACRO in table.headers else last
        averages = {MACRO: f"average over {'domains' if table.dataset else 'datasets'}", MICRO: "average over images"}
        rows = [row for row in table.rows if row.comparable]
        numbered = [row for row in rows if row.numbers[place].value is not None]
        if len(rows) > 1 and numbered:
            best = max(numbered, key=lambda row: row.numbers[place].value or 0)
            yield Best(
                dataset=f"{table.dataset or table.subject}{f', {table.sample}' if table.sample else ''}",
                what=averages.get(table.headers[place], table.headers[place]),
                row=called([row.column for row in rows])[best.column],
                number=best.numbers[place].text,
                interval=interval_text(best.numbers[place].interval, document.style.decimals),
            )


def _notes(evaluation: Evaluation) -> Iterator[str]:
    if random := evaluation.random_backbones():
        yield f"{listed(random)}: random weights, whose numbers mean nothing and are never marked."
    for each in evaluation.datasets:
        if each.protocol != "full":
            yield f"{each.name}: only the images of the protocol {each.protocol}, not comparable with other protocols."
        elif each.has_variants and not each.variant:
            yield f"{each.name} is no known variant of {each.title}: not comparable with published numbers."
        domains = tuple(dict.fromkeys(cell.domain for cell in evaluation.cells if cell.dataset == each.name))
        for line in image_lines(evaluation, each.name, domains):
            yield line if f"for {each.name}:" in line else f"{each.name}: {line}"
    samples = dict.fromkeys(cell.sample for cell in evaluation.cells if cell.sample)
    if samples:
        yield f"Some numbers are of a part of the images: {listed(list(samples))}."


def _commands(
    evaluation: Evaluation, against: Against | None, families: Sequence[Family], answers: PredictionRows | None
) -> Iterator[tuple[str, str]]:
    if answers is None:
        yield (
            "Classes, confusions and wrong images need the answers image by image",
            ("fastclip report RESULT --predictions FILE --html PAGE"),
        )
    if against is None and any(each.name in published_table().datasets for each in evaluation.datasets):
        yield "A comparison with the published table", "fastclip report RESULT --against published --html PAGE"
    if not families and len({cell.column for cell in evaluation.cells}) > 1:
        yield "Paired tests", "fastclip compare RESULT"
