"""Several kept results as one question: the runs, or the columns of all of them on the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fastclip.errors import UserError
from fastclip.results.cells import ZERO_SHOT, Evaluation
from fastclip.results.comparing.aligning import join, with_patterns
from fastclip.results.comparing.columns import compare
from fastclip.results.comparing.families import Family
from fastclip.results.comparing.runs import compare_runs
from fastclip.results.files.kept import Kept
from fastclip.results.files.merging import merge


def together(kept: Sequence[Kept]) -> Evaluation:
    """The results as one. Columns of several results can be compared where their predictions are there, too."""
    alone = [each for each in kept if each.result is None]
    if alone and len(alone) < len(kept):
        raise UserError(
            f"{alone[0].name} is a file of predictions alone; {next(e for e in kept if e.result).name} is a result.",
            fix="Name the folders of all runs, or the predictions of all.",
        )
    evaluation = merge({each.name: each.evaluation for each in kept})
    owners = Counter(dataset.name for each in kept for dataset in each.evaluation.datasets)
    needed = [
        each
        for each in kept
        if not each.evaluation.patterns or any(owners[dataset.name] > 1 for dataset in each.evaluation.datasets)
    ]
    return with_patterns(evaluation, join({each.name: each.rows for each in needed if each.predictions}))


def compare_kept(
    kept: Sequence[Kept], of: str | None, *, to: str | None, correction: str, prompts: str | None
) -> tuple[list[Family], Evaluation]:
    """The families of one or several kept results, and the result that they are about (of runs, that of the first).

    Without `of`, results of the same cells, or with other counts for one, are runs. Otherwise fitted heads are compared
    if there are any, else backbones if there are several, else prompt sets.
    """
    if of == "runs" or (of is None and _are_runs(kept)):
        return _runs(kept, to, correction, prompts)
    evaluation = together(kept)
    return compare(evaluation, of or _differing(evaluation), to=to, correction=correction, prompts=prompts), evaluation


def _are_runs(kept: Sequence[Kept]) -> bool:
    """Whether all results have the same cells, or one cell has several counts, so that they cannot be one result."""
    found = [{(cell.dataset, cell.domain, cell.column): cell for cell in each.evaluation.cells} for each in kept]
    if all(each.keys() == found[0].keys() for each in found):
        return len(found) > 1
    first = {key: cell for each in reversed(found) for key, cell in each.items()}
    return any(first[key] != cell for each in found for key, cell in each.items())


def _runs(
    kept: Sequence[Kept], to: str | None, correction: str, prompts: str | None
) -> tuple[list[Family], Evaluation]:
    names = {each.name: each for each in kept}
    if len(names) < 2:
        raise UserError("--of runs compares two results of the same columns.", fix="fastclip compare RESULT RESULT")
    if to is not None and to not in names:
        raise UserError(f"--to {to} is none of the results.", fix=f"--to {' | '.join(names)}")
    first = names[to] if to else kept[0]
    others = [each for each in kept if each.name != first.name]
    families = [
        family for each in others for family in compare_runs(first, each, correction=correction, prompts=prompts)
    ]
    return families, first.evaluation


def _differing(evaluation: Evaluation) -> str:
    cells = evaluation.cells
    if any(cell.head != ZERO_SHOT for cell in cells):
        return "heads"
    return "backbones" if len({cell.backbone for cell in cells}) > 1 else "prompts"
