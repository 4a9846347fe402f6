"""The result of a run, or of several as one: tables, comparisons, verdicts, answers, files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastclip.api.border import border
from fastclip.api.drawn import Drawn
from fastclip.errors import UserError

if TYPE_CHECKING:
    from fastclip.api.comparison import Comparison
    from fastclip.api.shown import Part
    from fastclip.api.table import Table
    from fastclip.api.verdicts import Verdicts
    from fastclip.report.document import Document
    from fastclip.report.numbers import TableStyle
    from fastclip.results.cells import Evaluation
    from fastclip.results.files.kept import KeptResult
    from fastclip.results.files.together import Together
    from fastclip.results.published.verdicts import Against


class Result(Drawn):
    """Counts of every backbone, prompt set or head in every domain, and all that follows from them.

    `evaluate`, `probe` and `load` return one. A notebook shows its tables; `print(result)` prints what
    `fastclip report` prints. Methods raise `fastclip.FastclipError` with the cure, print nothing and load no torch.
    """

    def __init__(self, kept: Sequence[KeptResult]) -> None:
        self._kept = tuple(kept)

    @property
    def evaluation(self) -> Evaluation:
        """The record behind everything: cells of integer counts, recipes, prompts, heads, patterns."""
        return self._counts.evaluation

    @property
    def names(self) -> tuple[str, ...]:
        """How the results are called: as they were loaded, or as the folder in which they would be kept."""
        return tuple(each.name for each in self._kept)

    @cached_property
    def _counts(self) -> Together:
        """The result with as few answers read as possible."""
        from fastclip.results.files.together import needed_for_patterns, together

        with border():
            return together(self._kept, needed_for_patterns(self._kept) if len(self._kept) > 1 else [])

    @cached_property
    def _answered(self) -> Together:
        """The result with all answers."""
        from fastclip.results.files.together import together

        return together(self._kept, self._kept)

    def tables(
        self, *, decimals: int = 2, mark: str = "best", average: str = "macro", intervals: bool = False
    ) -> list[Table]:
        """The tables of accuracies, one a dataset; before those of several datasets one with all of them.

        A row is a backbone with a prompt set or head, a column a domain. `mark` is best, tied (all that exact tests
        cannot tell from the best) or none; `average` is macro (the mean over domains), micro (over images) or both.
        """
        from fastclip.api.accuracies import accuracies

        with border():
            return accuracies(self.evaluation, _style(decimals, mark, average, intervals))

    def table(self, *, decimals: int = 2, mark: str = "best", average: str = "macro", intervals: bool = False) -> Table:
        """The first of `tables`: of the only dataset, or of all datasets with a column each."""
        return self.tables(decimals=decimals, mark=mark, average=average, intervals=intervals)[0]

    def cells(self) -> Table:
        """A row a backbone, prompt set or head, and domain: integer counts, the accuracy and its 95 % interval."""
        from fastclip.api.accuracies import cells

        with border():
            return cells(self.evaluation)

    def fits(self) -> Table:
        """A row a fitted head and tested domain: its training images and settings. Empty for zero-shot alone."""
        from fastclip.api.accuracies import fits

        with border():
            return fits(self.evaluation)

    def compare(
        self, to: str | None = None, *, of: str | None = None, prompts: str | None = None, correct: str = "holm"
    ) -> Comparison:
        """Exact paired tests on the same images: is one backbone, prompt set, head or run better than `to`?

        `of` is backbones, prompts, heads or runs, by default whichever differ. `to` is by default zero-shot for heads,
        else the best. `correct` is holm, bh (the false discovery rate) or none.
        """
        from fastclip.api.comparison import compared

        with border():
            return compared(self._kept, to, of, prompts, correct)

    def against_published(self, table: str | Path = "published", *, epsilon: float | None = None) -> Verdicts:
        """A verdict on each cell that a table has too: same count, within near ties, differs, not comparable.

        `table` is `published` (OpenAI's nine on eight datasets), a result, or a CSV file. Images whose best two cosines
        are less than `epsilon` apart are near ties.
        """
        from fastclip.api.verdicts import Verdicts

        with border():
            return Verdicts(self._against(table, epsilon))

    def predictions(self) -> Table:
        """A row an image and column of answers: its label, the predicted class, the rank of the true one, the margin.

        Unreadable images have no answer. Memory: about 200 bytes a row. Raises `UserError` if no answers were kept.
        """
        from fastclip.api.accuracies import predictions

        with border():
            answers = self._answered.answers
            if answers is None:
                raise UserError(
                    f"{self.names[0]} has no predictions beside it.",
                    fix="Load the folder that the run was kept in, or run it again: nothing is embedded twice.",
                )
            return predictions(answers)

    def to_html(
        self,
        path: str | Path | None = None,
        *,
        against: str | Path | None = None,
        shards: str | Path = "shards",
        thumbnails: int = 400,
    ) -> str:
        """The page of `fastclip report --html`: plots, tests, confusions, wrong images. Written to `path` if given.

        `shards` is where pictures of at most `thumbnails` images are read.
        """
        from fastclip.report.html.page import render_page
        from fastclip.results.comparing.columns import all_families

        with border():
            found = self._answered if any(each.has_answers for each in self._kept) else self._counts
            page = render_page(
                found.evaluation,
                answers=found.answers,
                against=None if against is None else self._against(against, None),
                families=list(all_families(found.evaluation)),
                style=_style(2, "best", "macro", False),
                shards=str(shards),
                thumbnails=thumbnails,
            )
            return _written(path, page.decode())

    def to_markdown(self, path: str | Path | None = None, **style: Any) -> str:
        """The tables of `fastclip report --markdown`, with their notes. Takes the options of `tables`."""
        from fastclip.report.markdown import markdown

        with border():
            return _written(path, markdown(self._document(style)))

    def to_latex(self, path: str | Path | None = None, **style: Any) -> str:
        """The tables of `fastclip report --latex` (booktabs). Takes the options of `tables`."""
        from fastclip.report.latex import latex

        with border():
            return _written(path, latex(self._document(style), as_float=False))

    def to_json(self, path: str | Path | None = None) -> str:
        """The result file, byte for byte as the command line writes it."""
        from fastclip.results.files.result import to_json

        with border():
            return _written(path, to_json(self._counts.merged).decode())

    def save(self, folder: str | Path) -> Path:
        """Keep the result in a folder: `load` and `fastclip report` read it. Answers are kept if one run made them."""
        from fastclip.api.saving import save

        with border():
            return save(self._kept, self._counts.merged, Path(folder))

    def _parts(self) -> list[Part]:
        """The tables, and the notes below them."""
        from fastclip.report.document import make_document
        from fastclip.report.heads import pair_tables
        from fastclip.report.terminal import tables
        from fastclip.report.transfers import is_adapted

        style = _style(2, "best", "macro", False)
        document = make_document(self.evaluation, style, "")
        shown = pair_tables(self.evaluation) if is_adapted(self.evaluation) else tables(self.evaluation, style)
        return [*shown, *document.signs, *document.labels, *document.made]

    def _document(self, style: dict[str, Any]) -> Document:
        from fastclip.report.document import make_document

        words = f"import fastclip; fastclip.load({', '.join(map(repr, self.names))})"
        return make_document(self.evaluation, _style(**style), words)

    def _against(self, table: str | Path, epsilon: float | None) -> Against:
        from fastclip.results.published.against import against
        from fastclip.results.published.files import find_table

        answers = self._answered.answers if epsilon is not None else None
        domains = answers.domains if answers else None
        return against(self._counts.merged, find_table(str(table)), epsilon=epsilon, answers=domains)


def _style(decimals: int = 2, mark: str = "best", average: str = "macro", intervals: bool = False) -> TableStyle:
    from fastclip.report.numbers import TableStyle

    return TableStyle(decimals=decimals, mark=mark, average=average, intervals=intervals)


def _written(path: str | Path | None, text: str) -> str:
    if path is not None:
        from fastclip.destinations import check_place
        from fastclip.files import write_whole

        check_place(Path(path))
        write_whole(Path(path), text.encode())
    return text
