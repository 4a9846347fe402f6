"""The page's first lines: is the result complete, what is it of, and what may not be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastclip.files import digest
from fastclip.report.html.words import called, interval_text, listed, plural
from fastclip.report.tables import NO_NUMBER, Row, Table
from fastclip.results.cells import ZERO_SHOT, Cell, Evaluation
from fastclip.results.comparing import Family
from fastclip.results.prediction_file import PredictionRows
from fastclip.results.result_file import to_json
from fastclip.results.verdicts import DIFFERS, NEAR_TIES, NOT_COMPARABLE, SAME, Against


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
    """What a reader has to know first."""

    title: str
    complete: bool
    state: str
    scope: str
    best: tuple[Best, ...]
    against: str
    """Empty if nothing is compared with a published table."""
    digest: str
    notes: tuple[str, ...]
    """What may not be compared, and why, a sentence each."""
    commands: tuple[tuple[str, str], ...]
    """What is not on this page → the command that adds it."""


def make_verdict(
    evaluation: Evaluation,
    tables: Sequence[Table],
    against: Against | None,
    families: Sequence[Family],
    answers: PredictionRows | None,
    decimals: int,
) -> Verdict:
    """The verdict of an evaluation."""
    datasets = [each.name for each in evaluation.datasets]
    backbones = list(dict.fromkeys(cell.backbone for cell in evaluation.cells))
    ways = list(dict.fromkeys(cell.column.way for cell in evaluation.cells))
    images = {(cell.dataset, cell.domain): cell.images for cell in evaluation.cells}
    one = backbones[0] if len(backbones) == 1 else plural(len(backbones), "backbone")
    noun = "prompt set" if not evaluation.heads else "way to answer|ways to answer"
    return Verdict(
        title=f"{listed(datasets)}: accuracy of {one}",
        complete=evaluation.complete and not evaluation.undecided,
        state=_state(evaluation),
        scope=f"{plural(sum(images.values()), 'image')} of {plural(len(datasets), 'dataset')} "
        f"({plural(len(images), 'domain')}); {plural(len(backbones), 'backbone')} × {plural(len(ways), noun)}: "
        f"{plural(len(evaluation.cells), 'cell')}.",
        best=tuple(_best(tables, decimals)),
        against=_against(against),
        digest=digest(to_json(evaluation)),
        notes=tuple(_notes(evaluation)),
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


def _best(tables: Sequence[Table], decimals: int) -> Iterator[Best]:
    """The best comparable row of each dataset, by its last number: the average, or the only domain."""
    for table in tables:
        rows = [row for section in table.sections for row in section.rows if row.comparable]
        numbered = [row for row in rows if row.numbers and row.numbers[-1].value is not None]
        if len(rows) > 1 and numbered:
            best: Row = max(numbered, key=lambda row: row.numbers[-1].value or 0)
            number = best.numbers[-1]
            names = called([row.column for row in rows])
            yield Best(
                dataset=table.dataset,
                what=table.headers[-1],
                row=names[best.column],
                number=number.text,
                interval=interval_text(number.interval, decimals),
            )


def _against(against: Against | None) -> str:
    if against is None:
        return ""
    counts = [(against.count(each), each) for each in (SAME, NEAR_TIES, NOT_COMPARABLE)]
    words = [f"{count:,} {verdict}" for count, verdict in counts if count]
    if differ := against.count(DIFFERS):
        words.insert(min(1, len(words)), f"{differ:,} differ")
    return f"Against the published table, {plural(len(against.cells), 'cell')}: {', '.join(words) or NO_NUMBER}."


def _notes(evaluation: Evaluation) -> Iterator[str]:
    random = dict.fromkeys(used.backbone for used in evaluation.recipes if used.recipe.random_weights)
    if random:
        yield f"{listed(list(random))}: random weights, whose numbers mean nothing and are never marked."
    for each in evaluation.datasets:
        if each.protocol != "full":
            yield f"{each.name}: only the images of the protocol {each.protocol}, not comparable with other protocols."
        elif each.has_variants and not each.variant:
            yield f"{each.name} is no known variant of {each.title}: not comparable with published numbers."
        if repeated := sum(each.duplicates.values()):
            yield (
                f"{each.name}: {plural(repeated, 'image has|images have')} the bytes of another of its domain; "
                "intervals take them for independent, and are a little too narrow."
            )
    samples = dict.fromkeys(cell.sample for cell in evaluation.cells if cell.sample)
    if samples:
        yield f"Some numbers are of a part of the images: {listed(list(samples))}."
    chosen = [name for name, each in evaluation.prompts.items() if each.selection is not None]
    if chosen:
        yield f"Prompt sets that were chosen with labels, so not zero-shot: {listed(chosen)}."
    fitted = dict.fromkeys(cell.head for cell in evaluation.cells if cell.head != ZERO_SHOT)
    if fitted:
        yield f"Fitted heads, most of them with labels, so not zero-shot: {listed(list(fitted))}."


def _commands(
    evaluation: Evaluation, against: Against | None, families: Sequence[Family], answers: PredictionRows | None
) -> Iterator[tuple[str, str]]:
    if answers is None:
        yield (
            "Classes, confusions and wrong images need the answers image by image",
            ("fastclip report RESULT --predictions FILE --html PAGE"),
        )
    if against is None:
        yield "A comparison with the published table", "fastclip report RESULT --against published --html PAGE"
    cells: Sequence[Cell] = evaluation.cells
    if not families and len({cell.column for cell in cells}) > 1:
        yield "Paired tests", "fastclip compare RESULT --of backbones --to NAME"
