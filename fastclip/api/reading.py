"""`fastclip.load` and `fastclip.compare`: results that were kept, or made in this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastclip.api.border import Names, border, names_of
from fastclip.api.result import Result

if TYPE_CHECKING:
    from fastclip.api.comparison import Comparison
    from fastclip.results.files.kept import KeptResult


def load(results: Names) -> Result:
    """The result at a path, or those at several paths as one. Reads files only, and loads no torch.

    A path is the folder of a run, its `result.json` or its predictions, or a folder of several runs. Raises `UserError`
    for another file, and for results that cannot be one; `IntegrityError` for one that was changed.

        fastclip.load("results/eval-pacs-RN50-1f0c92ab").table()
    """
    with border():
        kept = _kept(names_of(results))
        found = Result(kept)
        _ = found.evaluation  # what cannot be read, or cannot be one result, is refused now
        return found


def compare(
    *results: Result | str | Path,
    to: str | None = None,
    of: str | None = None,
    prompts: str | None = None,
    correct: str = "holm",
) -> Comparison:
    """Exact paired tests across results, or within one: is A better than B on the same images, or only lucky?

    Results are those of `evaluate`, `probe` and `load`, or paths. Several with the same columns are compared as runs;
    otherwise the columns of all of them. See `Result.compare` for the options.

        fastclip.compare("results/A", "results/B", to="ViT-B/32")
    """
    with border():
        from fastclip.api.comparison import compared

        kept = [each for result in results for each in _of(result)]
        return compared(kept, to, of, prompts, correct)


def _of(result: Result | str | Path) -> Sequence[KeptResult]:
    return result._kept if isinstance(result, Result) else _kept([str(result)])


def _kept(paths: Iterable[str]) -> list[KeptResult]:
    from fastclip.results.files.kept import find_results

    return find_results([Path(each) for each in paths])
