"""Groups of columns that differ in one thing only, so that a comparison says something about that thing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from fastclip.errors import UserError
from fastclip.results.cells import ZERO_SHOT, Column, Evaluation, mean
from fastclip.results.comparing.caveats import left_out

OF = ("backbones", "prompts", "heads")

Accuracies: TypeAlias = Mapping[str, Fraction | None]
"""Of one column by domain, in the order of the cells."""


@dataclass(frozen=True)
class Group:
    """Columns on the images of one dataset, what they have in common, and the one that they are compared with."""

    dataset: str
    common: str
    """As a reader is told: `prompts photo`, or `RN50`."""
    columns: Mapping[Column, Accuracies]
    reference: Column
    chosen: bool
    """Whether the reference was chosen by the very numbers that are compared."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that any of the columns was scored on."""
        return tuple(dict.fromkeys(domain for each in self.columns.values() for domain in each))


def label(of: str, column: Column) -> str:
    """The part of a column in which a group differs: its backbone, its prompt set, its head; of runs, all of it."""
    if of == "runs":
        return column.full_name
    return {"backbones": column.backbone, "prompts": column.way, "heads": column.head}[of]


def groups(evaluation: Evaluation, of: str, to: str | None = None, prompts: str | None = None) -> Iterator[Group]:
    """The groups of at least two columns, without random weights and columns that have no number.

    Raises `UserError` for a group without the reference `to`.
    """
    for dataset in dict.fromkeys(cell.dataset for cell in evaluation.cells):
        without = left_out(evaluation, dataset)
        columns = {column: found for column, found in accuracies(evaluation, dataset).items() if column not in without}
        for common, found in _split(list(columns), of, prompts):
            if len(found) > 1:
                own = {each: columns[each] for each in found}
                reference = _reference(dataset, common, own, of, to)
                yield Group(dataset, common, own, reference or _best(own), chosen=reference is None)


def _split(columns: Sequence[Column], of: str, prompts: str | None) -> Iterator[tuple[str, list[Column]]]:
    """The columns of each group of one dataset, after what they have in common."""
    if of == "backbones":
        wanted = [each for each in columns if prompts in (None, each.prompts)]
        for head, name in dict.fromkeys((each.head, each.prompts) for each in wanted):
            common = f"prompts {name}" if head == ZERO_SHOT else f"head {head}"
            yield common, [each for each in wanted if (each.head, each.prompts) == (head, name)]
        return
    for backbone in dict.fromkeys(each.backbone for each in columns):
        own = [each for each in columns if each.backbone == backbone]
        zero_shot = [each for each in own if each.head == ZERO_SHOT]
        if of == "prompts":
            yield backbone, zero_shot
        else:
            beside = [each for each in zero_shot if prompts in (None, each.prompts)][:1]
            named = f"{backbone}, prompts {beside[0].prompts}" if beside else backbone
            yield named, [*beside, *(each for each in own if each.head != ZERO_SHOT)]


def _reference(
    dataset: str, common: str, columns: Mapping[Column, Accuracies], of: str, to: str | None
) -> Column | None:
    """The column that is named, or zero-shot for heads; None where the numbers have to choose."""
    known = {label(of, each): each for each in columns}
    if to is not None and to not in known:
        raise UserError(f"{dataset}, {common}: there is no {to} to compare with.", fix=f"--to {' | '.join(known)}")
    return known.get(to or (ZERO_SHOT if of == "heads" else ""))


def _best(columns: Mapping[Column, Accuracies]) -> Column:
    """The best average. Averages over other domains are other questions, so the widest come first."""
    return max(columns, key=lambda each: (len(columns[each]), mean(list(columns[each].values())) or Fraction(0)))


def accuracies(evaluation: Evaluation, dataset: str) -> dict[Column, dict[str, Fraction | None]]:
    """The accuracies of a dataset by column and domain, in the order of the cells."""
    found: dict[Column, dict[str, Fraction | None]] = {}
    for cell in evaluation.cells:
        if cell.dataset == dataset:
            found.setdefault(cell.column, {})[cell.domain] = cell.accuracy(evaluation.unreadable_policy)
    return found
