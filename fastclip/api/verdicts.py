"""A result against a published table: a row a cell, with its verdict in images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from fastclip.api.table import Table
from fastclip.report.against import verdict_parts
from fastclip.results.published.verdicts import Against

if TYPE_CHECKING:
    from fastclip.api.shown import Part

VERDICTS = pa.schema(
    [
        *((name, pa.string()) for name in ("dataset", "domain", "backbone", "head", "prompts", "verdict")),
        ("published", pa.float64()),
        *((name, pa.int64()) for name in ("least", "greatest", "yours", "difference", "images")),
        ("reasons", pa.string()),
    ]
)


class Verdicts(Table):
    """A row a cell that both have: `same`, `near ties`, `differs` or `not comparable`, and the reasons.

    `least` and `greatest` are the counts that the printed accuracy can stand for, `yours` is the result's count, and
    `difference` how many images lie between them.
    """

    def __init__(self, found: Against) -> None:
        self.found = found
        """The record behind the rows, with averages and notes."""
        rows = [
            {
                "dataset": each.dataset,
                "domain": each.domain,
                **each.column._asdict(),
                "verdict": each.verdict,
                "published": float(each.published),
                "least": each.candidates[0] if each.candidates else None,
                "greatest": each.candidates[1] if each.candidates else None,
                "yours": each.yours,
                "difference": each.difference,
                "images": each.images,
                "reasons": "; ".join(each.reasons),
            }
            for each in found.cells
        ]
        super().__init__(pa.Table.from_pylist(rows, VERDICTS), self._shown)

    def _shown(self) -> list[Part]:
        return list(verdict_parts(self.found))
