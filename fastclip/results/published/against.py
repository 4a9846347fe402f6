"""Holds a result against a published table: a verdict on each cell and each average that both have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fastclip.errors import UserError
from fastclip.results.cells import Cell, Column, Evaluation, NearTies, mean
from fastclip.results.published.comparable import why_not
from fastclip.results.published.matching import choose
from fastclip.results.published.table import PublishedCell, PublishedTable
from fastclip.results.published.verdicts import (
    DIFFERS,
    NEAR_TIES,
    NOT_COMPARABLE,
    SAME,
    Against,
    AverageVerdict,
    CellVerdict,
)

if TYPE_CHECKING:
    from fastclip.results.answers import DomainAnswers


def against(
    evaluation: Evaluation,
    table: PublishedTable,
    *,
    epsilon: float | None = None,
    answers: Mapping[tuple[str, str], DomainAnswers] | None = None,
) -> Against:
    """Verdicts on all zero-shot cells that `table` has too.

    Near ties are those of the result, or are counted anew from `answers` where `epsilon` is another. Raises `UserError`
    where there are no answers to count, and for a table that does not say which prompt set it is about.
    """
    ties = _near_ties(evaluation, epsilon, answers or {})
    chosen, notes = choose(evaluation, table)
    cells = tuple(_verdict(evaluation, cell, published, table, ties) for cell, published in chosen)
    datasets = dict.fromkeys(each.dataset for each in cells)
    return Against(
        source=table.source,
        commit=table.commit,
        cells=cells,
        averages=tuple(_averages(evaluation, cells, table)),
        called=table.called,
        notes=(*(note for name in datasets for note in table.notes.get(name, ())), *notes, *_tie_notes(cells)),
    )


def _near_ties(
    evaluation: Evaluation, epsilon: float | None, answers: Mapping[tuple[str, str], DomainAnswers]
) -> dict[tuple[str, str, Column], NearTies]:
    known = {(each.dataset, each.domain, each.column): each for each in evaluation.near_ties}
    if epsilon is None or (known and all(each.epsilon == epsilon for each in known.values())):
        return known
    if not answers:
        stored = " and ".join(f"{each:g}" for each in sorted({each.epsilon for each in known.values()}))
        raise UserError(
            f"The result counts near ties below {stored} only, not below {epsilon:g}."
            if known
            else "The result counts no near ties.",
            fix="--predictions FILE, from which they are counted anew, or leave out --epsilon",
        )
    from fastclip.results.patterns import near_ties  # it needs NumPy

    counted = (tie for each in answers.values() for tie in near_ties(each.dataset, each.domain, each.columns, epsilon))
    return {(each.dataset, each.domain, each.column): each for each in counted}


def _verdict(
    evaluation: Evaluation,
    cell: Cell,
    published: PublishedCell,
    table: PublishedTable,
    ties: Mapping[tuple[str, str, Column], NearTies],
) -> CellVerdict:
    candidates = published.candidates(cell.seen(evaluation.unreadable_policy) or cell.images)
    near = ties.get((cell.dataset, cell.domain, cell.column))
    yours = None if cell.accuracy(evaluation.unreadable_policy) is None else cell.top1
    reasons = why_not(evaluation, cell, published, table)
    if candidates is None and not reasons:
        reasons = (f"no number of {cell.images:,} images is printed so",)
    plain = CellVerdict(
        dataset=cell.dataset,
        domain=cell.domain,
        column=cell.column,
        published=published.printed.value,
        decimals=published.printed.decimals,
        candidates=candidates,
        images=cell.images,
        yours=yours,
        verdict=NOT_COMPARABLE,
        difference=None,
        could_gain=near.could_gain if near else 0,
        could_lose=near.could_lose if near else 0,
        epsilon=near.epsilon if near else None,
        reasons=reasons,
    )
    if reasons or yours is None or candidates is None:
        return plain
    least, greatest = candidates
    difference = yours - greatest if yours > greatest else min(0, yours - least)
    # Near ties that are right now can be lost, which takes an excess away; those that are wrong can be gained.
    within = -plain.could_gain <= difference <= plain.could_lose
    verdict = SAME if not difference else NEAR_TIES if within else DIFFERS
    return replace(plain, verdict=verdict, difference=difference)


def _averages(evaluation: Evaluation, cells: Sequence[CellVerdict], table: PublishedTable) -> Iterator[AverageVerdict]:
    accuracies = {
        (each.dataset, each.domain, each.column): each.accuracy(evaluation.unreadable_policy)
        for each in evaluation.cells
    }
    comparable = {(each.dataset, each.domain, each.column) for each in cells if each.verdict != NOT_COMPARABLE}
    for dataset, column in dict.fromkeys((each.dataset, each.column) for each in cells):
        rows = [
            row
            for row in table.cells
            if (row.dataset, row.backbone) == (dataset, column.backbone) and row.prompts in ("", column.prompts)
        ]
        if len(rows) < 2:
            continue
        yours = {
            row.domain: accuracies[place] if (place := (dataset, row.domain, column)) in comparable else None
            for row in rows
        }
        printed = table.averages.get((dataset, column.backbone))
        yield AverageVerdict(
            dataset=dataset,
            column=column,
            printed=printed.value if printed else None,
            of_cells=mean([row.printed.value for row in rows]),
            yours=mean(list(yours.values())),
            yours_as_printed=mean([yours[name] for name in printed.domains]) if printed else None,
        )


def _tie_notes(cells: Sequence[CellVerdict]) -> Iterator[str]:
    epsilons = sorted({each.epsilon for each in cells if each.epsilon is not None})
    if any(each.verdict in (NEAR_TIES, DIFFERS) for each in cells) and epsilons:
        below = " or ".join(f"{each:g}" for each in epsilons)
        yield (
            f"Near ties: images whose best two cosines are less than {below} apart, so that another machine may decide "
            "otherwise. Those whose true class is third or later are not known."
        )
