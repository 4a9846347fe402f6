"""Results and predictions as users name them: folders of runs, result files, and files of predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fastclip.errors import UserError
from fastclip.faults import open_steadily
from fastclip.files import is_copy
from fastclip.results.cells import Cell, DatasetFacts, Evaluation, UsedPrompts
from fastclip.results.files.result import RESULT
from fastclip.results.files.result_reader import read_result

if TYPE_CHECKING:
    from fastclip.results.answers import PredictionRows

PARQUET = b"PAR1"


@dataclass(frozen=True)
class KeptResult:
    """A result that was kept, and the file of its answers."""

    name: str
    """As the user named it."""
    result: Evaluation | None
    """None for a file of predictions alone."""
    predictions: Path | None

    @property
    def has_answers(self) -> bool:
        """Whether `rows` are there."""
        return self.predictions is not None

    @cached_property
    def rows(self) -> PredictionRows:
        """The answers, image by image. Raises an error where there are none, or those of another run."""
        from fastclip.results.files.prediction_reader import read_predictions

        if self.predictions is None:
            raise UserError(
                f"{self.name} has no predictions beside it, which say on which images each column is right.",
                fix="Name the folder that the run was kept in, or run it again: nothing is embedded twice.",
            )
        return read_predictions(self.predictions, self.result.predictions if self.result else None)

    @cached_property
    def evaluation(self) -> Evaluation:
        """The result; for predictions alone as much of it as they tell."""
        return self.result or evaluation_of(self.rows)


def find_results(paths: Sequence[Path]) -> list[KeptResult]:
    """The results at `paths`, each a file or a folder; a folder of several runs is all of them."""
    return [each for path in dict.fromkeys(paths) for each in _find(path)]


def _find(path: Path) -> Iterator[KeptResult]:
    name = str(path)
    if path.is_dir() and not (path / RESULT).exists():
        runs = sorted(each.parent for each in path.glob(f"*/{RESULT}") if not is_copy(each.parent.name))
        if not runs:
            raise UserError(f"{name} holds no result.", fix="fastclip eval keeps one in results/ and says where.")
        for each in runs:
            yield from _find(each)
        return
    if path.is_file() and _begins(path, PARQUET):
        beside = path.parent / RESULT
        result = read_result(beside) if beside.exists() else None
        theirs = result.predictions.file if result and result.predictions else None
        yield KeptResult(name, result if theirs == path.name else None, path)
        return
    result = read_result(path)
    folder = path if path.is_dir() else path.parent
    file = folder / Path(result.predictions.file).name if result.predictions else None
    yield KeptResult(name, result, file if file and file.is_file() else None)


def _begins(path: Path, letters: bytes) -> bool:
    with open_steadily(path) as file:
        return file.read(len(letters)) == letters


def evaluation_of(rows: PredictionRows) -> Evaluation:
    """The result that predictions tell of. Weights, templates and rejected images are not known from them.

    Unreadable images are left out, as under `--unreadable exclude`.
    """
    datasets: dict[str, dict[str, int]] = {}
    cells = []
    for (dataset, domain), answers in rows.domains.items():
        datasets.setdefault(dataset, {})[domain] = len(answers.digests) - len(set(answers.digests))
        for column, own in answers.columns.items():
            images, classified = len(own.rank), int(own.classified.sum())
            cells.append(
                Cell(
                    dataset=dataset,
                    domain=domain,
                    backbone=column.backbone,
                    prompts=column.prompts,
                    head=column.head,
                    images=images,
                    classified=classified,
                    top1=int(own.right.sum()),
                    top5=int(((own.rank < 5) & own.classified).sum()),
                    unreadable=images - classified,
                    shards=1,
                    missing_shards=0,
                )
            )
    facts = [
        DatasetFacts(
            name=name,
            title=name,
            variant=None,
            protocol="full",
            manifest_sha256=rows.manifests.get(name, ""),
            names={},
            fingerprints=rows.fingerprints.get(name, {}),
            has_variants=False,
            duplicates=duplicates,
        )
        for name, duplicates in datasets.items()
    ]
    names = dict.fromkeys(cell.prompts for cell in cells if cell.prompts)
    return Evaluation(
        unreadable_policy="exclude",
        datasets=tuple(facts),
        recipes=(),
        prompts={name: UsedPrompts(templates=()) for name in names},
        cells=tuple(cells),
        unreadable=(),
    )
