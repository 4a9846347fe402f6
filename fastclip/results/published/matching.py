"""The cells of a result and of a published table that are about the same: dataset, domain, backbone and prompts."""

from __future__ import annotations

from fastclip.errors import UserError
from fastclip.results.cells import ZERO_SHOT, Cell, Evaluation
from fastclip.results.published.comparable import same_prompts
from fastclip.results.published.table import PublishedCell, PublishedTable

Pair = tuple[Cell, PublishedCell]


def choose(evaluation: Evaluation, table: PublishedTable) -> tuple[list[Pair], list[str]]:
    """The zero-shot cells that the table has too, and sentences that count the others."""
    rows: dict[tuple[str, str, str], list[PublishedCell]] = {}
    for row in table.cells:
        rows.setdefault((row.dataset, row.domain, row.backbone), []).append(row)
    chosen: list[Pair] = []
    others: dict[str, int] = {}

    def leave_out(why: str) -> None:
        others[why] = others.get(why, 0) + 1

    for cell in evaluation.cells:
        found = rows.get((cell.dataset, cell.domain, cell.backbone), [])
        own = [row for name in (cell.prompts, "") for row in found if row.prompts == name]
        if cell.head != ZERO_SHOT:
            leave_out("of fitted heads")
        elif not found:
            leave_out(f"of {_missing(cell, table)}")
        elif not own:
            leave_out(f"with the prompts {cell.prompts}")
        else:
            chosen.append((cell, own[0]))
    chosen, surplus = _one_way(evaluation, table, chosen)
    for cell in surplus:
        leave_out(f"with the prompts {cell.prompts}")
    notes = [f"{_cells(number)} {what}" for what, number in others.items()]
    return chosen, [f"Not in {table.called}: {', '.join(notes)}."] if notes else []


def _missing(cell: Cell, table: PublishedTable) -> str:
    """The word for what the table does not have: the dataset, the backbone, or the domain."""
    if all(row.dataset != cell.dataset for row in table.cells):
        return cell.dataset
    if all((row.dataset, row.backbone) != (cell.dataset, cell.backbone) for row in table.cells):
        return cell.backbone
    return f"{cell.dataset}/{cell.domain}"


def _cells(number: int) -> str:
    return f"{number:,} {'cell' if number == 1 else 'cells'}"


def _one_way(evaluation: Evaluation, table: PublishedTable, chosen: list[Pair]) -> tuple[list[Pair], list[Cell]]:
    """Of several prompt sets those with the published prompts, if there are any; and the cells of the other ones."""
    groups: dict[tuple[str, str, str], list[Pair]] = {}
    for cell, row in chosen:
        groups.setdefault((cell.dataset, cell.domain, cell.backbone), []).append((cell, row))
    kept: list[Pair] = []
    surplus: list[Cell] = []
    for group in groups.values():
        known = table.datasets.get(group[0][0].dataset)
        if known is None and len(group) > 1 and any(not row.prompts for _, row in group):
            names = [cell.prompts for cell, _ in group]
            raise UserError(
                f"{table.source} does not say whether its numbers are of {' or '.join(names)}.",
                fix="Give it a column: prompts.",
            )
        same = [(cell, row) for cell, row in group if known and same_prompts(evaluation, cell, known)]
        kept += same or group
        surplus += [cell for cell, row in group if same and (cell, row) not in same]
    return kept, surplus
