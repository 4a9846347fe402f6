"""A table that a call returns: plain values for programs, text for a terminal, HTML for a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fastclip.api.drawn import Drawn
from fastclip.errors import UserError

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa

    from fastclip.api.shown import Part


class Table(Drawn):
    """Rows of plain values. Accuracies are fractions of 1, even where they are shown in percent.

    `for row in table` gives each row as a dictionary, `table["accuracy"]` a column as a list, `len(table)` the number
    of rows. `to_arrow()` and `to_pandas()` give all rows; a notebook shows at most 50 of them.
    """

    def __init__(self, arrow: pa.Table, parts: Callable[[], Sequence[Part]]) -> None:
        self._arrow = arrow
        self._parts = parts

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self._arrow.column_names)

    def to_arrow(self) -> pa.Table:
        """All rows as a table of pyarrow."""
        return self._arrow

    def to_pandas(self) -> pandas.DataFrame:
        """All rows as a data frame. Raises `UserError` where pandas is not installed."""
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise UserError(
                "pandas is not installed.\nFix:   pip install pandas, or to_arrow()", fix="pip install pandas"
            ) from None
        return self._arrow.to_pandas()

    def __len__(self) -> int:
        return int(self._arrow.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._arrow.to_batches(max_chunksize=1024):
            yield from batch.to_pylist()

    def __getitem__(self, column: str) -> list[Any]:
        if column not in self.columns:
            raise KeyError(f"There is no column {column!r}: choose from {', '.join(self.columns)}.")
        found: list[Any] = self._arrow.column(column).to_pylist()
        return found


def plain(title: str, arrow: pa.Table, *, hidden: Sequence[str] = ()) -> Table:
    """A table that is shown as it is: its first rows, without the columns in `hidden`.

    Texts that are the same in all rows stand in the title. Columns without a value are not shown.
    """

    def parts() -> list[Part]:
        from rich.text import Text

        from fastclip.api.shown import MOST_ROWS, drawn
        from fastclip.errors import printable

        first = arrow.slice(0, MOST_ROWS)
        shown, common = _shown_columns(arrow, hidden)
        rows = zip(*(first.column(name).to_pylist() for name in shown), strict=True)
        texts = sum(arrow.schema.field(name).type == "string" for name in shown)
        more = f"; {first.num_rows:,} of {arrow.num_rows:,} rows" if arrow.num_rows > first.num_rows else ""
        return [Text(printable(", ".join([title, *common]) + more), style="bold"), drawn(shown, rows, texts)]

    return Table(arrow, parts)


def _shown_columns(arrow: pa.Table, hidden: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns to show, texts first, and the texts that all rows share."""
    texts, numbers, common = [], [], []
    for name in arrow.column_names:
        column = arrow.column(name)
        if name in hidden or column.null_count == len(column):
            continue
        if column.type != "string":
            numbers.append(name)
        elif len(column) > 1 and len(column.unique()) == 1:
            common.append(column[0].as_py())
        else:
            texts.append(name)
    return [*texts, *numbers], list(filter(None, common))
