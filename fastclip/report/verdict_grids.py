"""A result against a table, for Markdown and LaTeX: a grid a dataset, and the sentences around them."""

from __future__ import annotations

from dataclasses import dataclass

from fastclip.report.against import difference, reasons, verdict_line
from fastclip.results.published.verdicts import NOT_COMPARABLE, Against


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Texts in rows. They are not escaped."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def verdict_grids(found: Against) -> tuple[Grid, ...]:
    """For each dataset, how many images more or fewer than in the table each cell has right."""
    grids = []
    for dataset in dict.fromkeys(each.dataset for each in found.cells):
        cells = [each for each in found.cells if each.dataset == dataset]
        if all(each.verdict == NOT_COMPARABLE for each in cells):
            continue
        domains = tuple(dict.fromkeys(each.domain for each in cells))
        several = len({each.column.way for each in cells}) > 1
        rows = []
        for column in dict.fromkeys(each.column for each in cells):
            row = {each.domain: difference(each) for each in cells if each.column == column}
            name = column.full_name if several else column.backbone
            rows.append((name, *(row.get(domain, "") for domain in domains)))
        title = f"{dataset}: right answers, more or fewer than in the table"
        grids.append(Grid(title=title, headers=("backbone", *domains), rows=tuple(rows)))
    return tuple(grids)


def verdict_notes(found: Against) -> tuple[str, ...]:
    """The verdict in one line, the signs of the grids, why cells are not comparable, and notes on the table."""
    signs = ("=: same count; ≈: within near ties; + and −: images more and fewer; ?: not comparable.",)
    reasons_why = tuple(f"Not comparable, {where}: {reason}." for where, reason in reasons(found.cells))
    return (verdict_line(found), *(signs if verdict_grids(found) else ()), *reasons_why, *found.notes)
