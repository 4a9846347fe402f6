"""Combinations of right and wrong answers, and near ties: what comparisons need, in kilobytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fastclip.results.answers import ColumnAnswers
from fastclip.results.cells import NEAR_TIE, ZERO_SHOT, Column, Evaluation, NearTies, Patterns

MOST_PATTERNS = 4096
"""Combinations that are kept of one group of columns."""


def with_patterns(
    evaluation: Evaluation, answers: Iterable[tuple[tuple[str, str], Mapping[Column, ColumnAnswers]]]
) -> Evaluation:
    """The evaluation with the combinations of all columns that miss no shard, and their near ties if it has none.

    `answers` are of one (dataset, domain) after the other, of columns that may come from several runs.
    """
    patterns: list[Patterns] = []
    ties: list[NearTies] = []
    for (dataset, domain), columns in answers:
        cells = {column: evaluation.cell(dataset, domain, column) for column in columns}
        images = {column: cell.images for column, cell in cells.items() if cell and not cell.missing_shards}
        whole = {column: columns[column] for column in images}
        if whole:
            first = next(iter(whole))
            rejected = images[first] - len(whole[first].rank)
            patterns += count_patterns(dataset, domain, whole, evaluation.unreadable_policy, rejected)
            ties += near_ties(dataset, domain, whole)
    return replace(
        evaluation,
        patterns=(*patterns, *evaluation.patterns),
        near_ties=evaluation.near_ties or tuple(ties),
    )


def count_patterns(
    dataset: str, domain: str, answers: Mapping[Column, ColumnAnswers], policy: str, rejected: int
) -> tuple[Patterns, ...]:
    """The combinations of all columns in one domain; if they are too many, those of smaller groups of columns.

    `rejected` images are in no shard. They and unreadable ones count as wrong under the policy `wrong`, and otherwise
    not at all.
    """
    counted = []
    for columns in _groups(tuple(answers), answers):
        counts = _counts([answers[each] for each in columns], policy, rejected)
        counted.append(Patterns(dataset=dataset, domain=domain, columns=columns, counts=counts))
    return tuple(counted)


def near_ties(
    dataset: str, domain: str, answers: Mapping[Column, ColumnAnswers], epsilon: float = NEAR_TIE
) -> tuple[NearTies, ...]:
    """The near ties of each zero-shot column. Of images whose true class is third or later no lead is known."""
    found = []
    for column, each in answers.items():
        if column.head == ZERO_SHOT:
            near = each.margin < epsilon
            gain, lose = int((near & (each.rank == 1)).sum()), int((near & (each.rank == 0)).sum())
            found.append(
                NearTies(
                    dataset=dataset, domain=domain, column=column, epsilon=epsilon, could_gain=gain, could_lose=lose
                )
            )
    return tuple(found)


def _groups(columns: tuple[Column, ...], answers: Mapping[Column, ColumnAnswers]) -> Iterator[tuple[Column, ...]]:
    """All columns together if their combinations are few enough, else by way and by backbone, else by pairs."""
    if not columns:
        return
    if _few(columns, answers):
        yield columns
        return
    seen: set[tuple[Column, ...]] = set()
    by_way = [tuple(c for c in columns if c.way == way) for way in dict.fromkeys(c.way for c in columns)]
    by_backbone = [
        tuple(c for c in columns if c.backbone == name) for name in dict.fromkeys(c.backbone for c in columns)
    ]
    for group in [*by_way, *by_backbone]:
        zero_shot = [c for c in group if c.head == ZERO_SHOT]
        smaller = [group] if _few(group, answers) else [(*zero_shot[:1], c) for c in group if c not in zero_shot[:1]]
        for each in smaller:
            if each not in seen:
                seen.add(each)
                yield each


def _few(columns: Sequence[Column], answers: Mapping[Column, ColumnAnswers]) -> bool:
    return len(np.unique(_codes([answers[each] for each in columns]))) <= MOST_PATTERNS


def _codes(answers: Sequence[ColumnAnswers]) -> np.ndarray:
    """Bits of right answers, the first column first, as bytes: equal for equal combinations."""
    bits = np.packbits(np.stack([each.right for each in answers], axis=1), axis=1)
    return np.ascontiguousarray(bits).view(f"V{bits.shape[1]}").ravel()


def _counts(answers: Sequence[ColumnAnswers], policy: str, rejected: int) -> dict[str, int]:
    kept = np.ones(len(answers[0].rank), bool)
    for each in answers if policy != "wrong" else ():
        kept &= each.classified
    found, images = np.unique(_codes(answers)[kept], return_counts=True)
    counts: dict[str, int] = {}
    for code, number in zip(found, images.tolist(), strict=True):
        bits = np.unpackbits(np.frombuffer(code.tobytes(), np.uint8), count=len(answers))
        counts["".join(map(str, bits))] = number
    if policy == "wrong" and rejected:
        none = "0" * len(answers)
        counts[none] = counts.get(none, 0) + rejected
    return dict(sorted(counts.items()))
