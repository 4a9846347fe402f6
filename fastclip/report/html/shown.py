"""Which answers the page shows image by image: of each dataset those of its best column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from fastclip.results.answers import DomainAnswers, PredictionRows
from fastclip.results.averages import averages
from fastclip.results.cells import Column, DatasetFacts, Evaluation


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The answers of one dataset, and the column whose classes, confusions and wrong images are shown."""

    dataset: DatasetFacts
    column: Column
    beside: tuple[Column, ...]
    """All backbones that answered in the same way, `column` among them; without random weights, unless all are."""
    side: int
    """Of the crop that the column's backbone sees, in pixels."""
    domains: tuple[DomainAnswers, ...]

    def class_name(self, label: int) -> str:
        """The readable name of a class, or its number where a result of before does not name it."""
        names = tuple(self.dataset.names.values())
        return names[label] if label < len(names) else f"class {label}"

    @property
    def classes(self) -> int:
        """How many classes there are."""
        answered = (max(each.labels.max(initial=-1), each.columns[self.column].predicted.max(initial=-1))
                    for each in self.domains)  # fmt: skip
        return max(len(self.dataset.names), 1 + max(map(int, answered), default=-1))


def shown_answers(evaluation: Evaluation, answers: PredictionRows) -> Iterator[Shown]:
    """The answers of each dataset that has some, with its best column by macro average."""
    for dataset in evaluation.datasets:
        domains = tuple(each for (name, _), each in answers.domains.items() if name == dataset.name)
        everywhere = [c for c in domains[0].columns if all(c in each.columns for each in domains)] if domains else []
        if not everywhere:
            continue
        random = evaluation.random_backbones(dataset.name)
        comparable = [each for each in everywhere if each.backbone not in random] or everywhere
        column = _best(evaluation, dataset.name, comparable)
        recipes = {u.backbone: u.recipe for u in evaluation.recipes if u.dataset == dataset.name}
        side = recipes[column.backbone].preprocessing.side if column.backbone in recipes else 224
        beside = tuple(each for each in comparable if each.way == column.way)
        yield Shown(dataset=dataset, column=column, beside=beside, side=side, domains=domains)


def _best(evaluation: Evaluation, dataset: str, columns: Sequence[Column]) -> Column:
    """The column with the highest macro average; the first of equal ones, and of those without a number."""
    macros = {each.column: each.macro for each in averages(evaluation) if each.dataset == dataset}
    return max(columns, key=lambda column: -1 if (macro := macros.get(column)) is None else macro)


def confusion_counts(shown: Shown) -> Int64[np.ndarray, "classes classes"]:
    """Classified images by true class (rows) and predicted class, over all domains."""
    classes = shown.classes
    counts = np.zeros(classes * classes, np.int64)
    for each in shown.domains:
        answers = each.columns[shown.column]
        kept = answers.classified
        places = each.labels[kept].astype(np.int64) * classes + answers.predicted[kept]
        counts += np.bincount(places, minlength=classes * classes)
    return counts.reshape(classes, classes)
