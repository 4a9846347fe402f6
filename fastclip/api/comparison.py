"""A comparison as a table of tests, and as the families that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from fastclip.api.table import Table, plain
from fastclip.report.comparisons import family_tables, legend
from fastclip.results.averages import averages
from fastclip.results.cells import Column, Evaluation
from fastclip.results.comparing.families import Comparison as Test
from fastclip.results.comparing.families import Family
from fastclip.results.files.kept import KeptResult
from fastclip.results.files.together import compare_kept

if TYPE_CHECKING:
    from fastclip.api.shown import Part

TESTS = pa.schema(
    [
        *((name, pa.string()) for name in ("family", "dataset", "domain")),
        *((name, pa.string()) for name in ("backbone", "head", "prompts")),
        *((f"other_{name}", pa.string()) for name in ("backbone", "head", "prompts")),
        *((name, pa.int64()) for name in ("images", "gained", "lost", "net")),
        *((name, pa.float64()) for name in ("difference", "low", "high", "p", "p_corrected")),
    ]
)
RANKS = pa.schema(
    [
        *((name, pa.string()) for name in ("family", "dataset", "backbone", "head", "prompts")),
        ("average", pa.float64()),
        ("best", pa.float64()),
        ("low", pa.int64()),
        ("high", pa.int64()),
    ]
)


class Comparison(Table):
    """Exact paired tests, a row each: a column of answers against another one, on the same images.

    `difference`, `low` and `high` are fractions of 1, `gained` and `lost` images; the domain `average` is the mean over
    the domains. `p_corrected` is corrected over the tests of a family.
    """

    def __init__(self, families: Sequence[Family], evaluation: Evaluation) -> None:
        self.families = tuple(families)
        """The records behind the rows, with notes."""
        self._means = {(each.dataset, each.column): each.macro for each in averages(evaluation)}
        rows = [_row(family, test) for family in families for test in family.tests]
        super().__init__(pa.Table.from_pylist(rows, TESTS), self._shown)

    def ranks(self) -> Table:
        """A row a column: how often it is best in a joint bootstrap of the images, and an interval of its rank."""
        rows = []
        for family in self.families:
            for rank in family.ranks:
                mean = self._means.get((rank.dataset, rank.column))
                rows.append(
                    {
                        "family": family.name,
                        "dataset": rank.dataset,
                        **_column(rank.column),
                        "average": None if mean is None else float(mean),
                        "best": rank.best,
                        "low": rank.low,
                        "high": rank.high,
                    }
                )
        return plain("Ranks", pa.Table.from_pylist(rows, RANKS))

    def _shown(self) -> list[Part]:
        parts = [part for family in self.families for part in family_tables(family, self._means)]
        return [*parts, *legend(self.families)]  # type: ignore[list-item]  # texts, groups and tables


def compared(
    kept: Sequence[KeptResult], to: str | None, of: str | None, prompts: str | None, correct: str
) -> Comparison:
    """The comparison of one result, or of several with each other. Raises `UserError` where nothing can be compared."""
    return Comparison(*compare_kept(kept, of, to=to, correction=correct, prompts=prompts))


def _row(family: Family, test: Test) -> dict[str, object]:
    pair = test.pair
    return {
        "family": family.name,
        "dataset": pair.dataset,
        "domain": pair.domain,
        **_column(pair.a),
        **{f"other_{name}": value for name, value in _column(pair.b).items()},
        "images": pair.images,
        "gained": pair.only_a,
        "lost": pair.only_b,
        "net": pair.only_a - pair.only_b,
        "difference": test.difference,
        "low": test.interval.low if test.interval else None,
        "high": test.interval.high if test.interval else None,
        "p": test.p_exact,
        "p_corrected": test.p_adjusted,
    }


def _column(column: Column) -> dict[str, str | None]:
    return {name: value or None for name, value in column._asdict().items()}
