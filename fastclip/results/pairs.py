"""Two columns on the same images: how often only one of them is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

from fastclip.results.cells import ZERO_SHOT, Column, Evaluation, Patterns


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two columns, `a` and `b`, on the images of one domain that both answered."""

    dataset: str
    domain: str
    a: Column
    b: Column
    only_a: int
    """Images that only `a` classifies correctly."""
    only_b: int
    both: int
    """Images that both classify correctly."""
    images: int

    @property
    def neither(self) -> int:
        """Images that neither classifies correctly."""
        return self.images - self.both - self.only_a - self.only_b


def find_patterns(evaluation: Evaluation, dataset: str, domain: str, columns: Collection[Column]) -> Patterns | None:
    """The patterns of one domain that hold all `columns`; None if the result has no such group."""
    return next(
        (
            each
            for each in evaluation.patterns
            if (each.dataset, each.domain) == (dataset, domain) and set(columns) <= set(each.columns)
        ),
        None,
    )


def find_pair(evaluation: Evaluation, dataset: str, domain: str, a: Column, b: Column) -> Pair | None:
    """`a` and `b` in one domain; None where the result does not say on which images both are right."""
    found = find_patterns(evaluation, dataset, domain, (a, b))
    if found is None:
        return None
    only_a, only_b = found.only(a, b)
    return Pair(
        dataset=dataset,
        domain=domain,
        a=a,
        b=b,
        only_a=only_a,
        only_b=only_b,
        both=found.right(a) - only_a,
        images=found.images,
    )


def discordant(
    evaluation: Evaluation, dataset: str, domain: str, columns: Sequence[Column]
) -> dict[tuple[Column, Column], tuple[int, int, int]]:
    """Of every two columns in one domain: images that only the first, only the second has right, and all images.

    The first of two comes first in `columns`. Those of which the result does not say it are left out.
    """
    found = find_patterns(evaluation, dataset, domain, columns)
    if found is None:
        pairs = [find_pair(evaluation, dataset, domain, a, b) for a, b in combinations(columns, 2)]
        return {(each.a, each.b): (each.only_a, each.only_b, each.images) for each in pairs if each}
    only = Counter[tuple[int, int]]()
    for bits, images in found.project(columns).items():
        right = [place for place, bit in enumerate(bits) if bit == "1"]
        wrong = [place for place, bit in enumerate(bits) if bit == "0"]
        only.update({(one, other): images for one in right for other in wrong})
    places = combinations(range(len(columns)), 2)
    return {(columns[i], columns[j]): (only[i, j], only[j, i], found.images) for i, j in places}


def pairs_with_zero_shot(evaluation: Evaluation) -> list[Pair]:
    """Every fitted head beside zero-shot with the first prompt set, domain by domain."""
    prompts = next(iter(evaluation.prompts), "")
    pairs = []
    names = {(head.facts.recipe.backbone, head.dataset, head.name) for head in evaluation.heads}
    for cell in evaluation.cells:
        if cell.head != ZERO_SHOT and (cell.backbone, cell.dataset, cell.head) in names:
            beside = Column(cell.backbone, ZERO_SHOT, prompts)
            if pair := find_pair(evaluation, cell.dataset, cell.domain, cell.column, beside):
                pairs.append(pair)
    return pairs
