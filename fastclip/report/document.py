"""All that a format prints of a result: tables, the notes below them, and how the numbers were made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastclip.files import digest
from fastclip.report.against import verdict_notes
from fastclip.report.finetuning import epoch_table
from fastclip.report.head_notes import labels_notes
from fastclip.report.numbers import BEST, MACRO, MICRO, NO_NUMBER, TIED, Table, TableStyle
from fastclip.report.prompt_notes import prompt_notes
from fastclip.report.tables import accuracy_tables
from fastclip.report.terminal import footnotes, random_warning
from fastclip.report.training_notes import training_notes
from fastclip.report.verdict_grids import Grid, verdict_grids
from fastclip.results.cells import Evaluation
from fastclip.results.files.result import to_json
from fastclip.results.published.verdicts import Against


@dataclass(frozen=True, kw_only=True)
class Document:
    """The texts in it are not escaped."""

    tables: tuple[Table, ...]
    style: TableStyle
    signs: tuple[str, ...]
    """The meaning of marks, averages and intervals, a sentence or two each."""
    labels: tuple[str, ...]
    """For heads that were fitted and prompts that were chosen: who saw labels, a sentence each."""
    made: tuple[str, ...]
    """How the numbers were made, a sentence or two each."""
    warning: str
    """The end of every title where weights were drawn; empty otherwise."""
    origin: str
    """The program, the digest of the result, and the command that wrote the document."""

    epochs: tuple[Grid, ...] = ()
    """Of backbones that were fine-tuned."""
    grids: tuple[Grid, ...] = ()
    verdicts: tuple[str, ...] = ()
    """Of the result against a table, a sentence or two each."""

    @property
    def notes(self) -> tuple[str, ...]:
        """For the reader of the tables."""
        return (*self.signs, *self.labels)


def make_document(evaluation: Evaluation, style: TableStyle, command: str, against: Against | None = None) -> Document:
    """The document of a result that `command` writes."""
    tables = tuple(accuracy_tables(evaluation, style))
    return Document(
        tables=tables,
        style=style,
        signs=tuple(signs_of(tables, style)),
        labels=tuple(_labels(evaluation)),
        made=tuple(footnotes(evaluation, can_go_on=False)),
        warning=random_warning(evaluation),
        origin=f"fastclip {evaluation.program}, result {digest(to_json(evaluation))[:12]}: {command}",
        epochs=epoch_table(evaluation),
        grids=verdict_grids(against) if against else (),
        verdicts=verdict_notes(against) if against else (),
    )


def _labels(evaluation: Evaluation) -> Iterator[str]:
    yield from prompt_notes(evaluation)
    if evaluation.heads:
        yield from labels_notes(evaluation)
    yield from training_notes(evaluation)


def average_notes(tables: Sequence[Table]) -> Iterator[str]:
    """The meaning of macro averages, where there are any."""
    if any(table.dataset and MACRO in table.headers for table in tables):
        yield "Averages are unweighted means over the domains."
    if not all(table.dataset for table in tables):
        yield (
            "The number of a dataset among several is its average over its domains, and their average is unweighted "
            "too: each dataset counts once, however many domains and images it has."
        )


def signs_of(tables: Sequence[Table], style: TableStyle) -> Iterator[str]:
    """The meaning of the marks, averages and intervals of some tables, a sentence or two each."""
    numbers = [number for table in tables for row in table.rows for number in row.numbers]
    marks, several = {number.mark for number in numbers}, any(len(table.sections) > 1 for table in tables)
    part = " within each part" if several else ""
    if BEST in marks:
        yield f"Bold: the best of its column{part}; underlined: the second."
    if TIED in marks:
        yield f"Bold: the best of its column{part}, and all that Holm-corrected exact tests cannot tell from it."
    elif style.mark == "tied" and any(len(section.rows) > 1 for table in tables for section in table.sections):
        yield "Nothing is marked: of rows of several seeds, or without answers image by image, no test says anything."
    if any("±" in number.text for number in numbers):
        yield "±: the sample standard deviation over the seeds."
    yield from average_notes(tables)
    if any(MICRO in table.headers for table in tables):
        yield "Micro averages: all right answers divided by all images."
    if style.intervals and (interval := next((number.interval for number in numbers if number.interval), None)):
        yield (
            f"[low, high]: {interval.level * 100:g}% confidence intervals, by Wilson; of averages by MOVER. "
            "They are about other images like these."
        )
    if any(number.text == NO_NUMBER for number in numbers):
        yield f"{NO_NUMBER}: not evaluated, or without a number until all its images are."
