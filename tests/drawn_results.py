"""Results that are made of records: any counts of any dataset of the catalogue, without an image."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from helpers import recipe

from fastclip.data.catalogue import find_card
from fastclip.models.backbones import OPENAI_BACKBONES
from fastclip.results.cells import (
    NEAR_TIE,
    ZERO_SHOT,
    Cell,
    Column,
    DatasetFacts,
    Evaluation,
    NearTies,
    Patterns,
    UsedPrompts,
    UsedRecipe,
)
from fastclip.results.published.embedded import published_table

TRANSFERLEARNING = {"transferlearning": ("a picture of a {folder}",)}
DOMAINNET = {"clipart": 48837, "infograph": 53201, "painting": 75759, "quickdraw": 172500, "real": 175327,
             "sketch": 70386}  # fmt: skip


def evaluation(
    datasets: Sequence[str] = ("pacs",),
    backbones: Sequence[str] = tuple(OPENAI_BACKBONES),
    *,
    prompts: Mapping[str, Sequence[str]] = TRANSFERLEARNING,
    right: Callable[[str, str, str], int] | None = None,
    ties: tuple[int, int] = (0, 0),
) -> Evaluation:
    """A result with OpenAI's weights on the published images.

    `right` gives the right answers of a dataset, domain and backbone: the published ones if it is not given. Of `ties`
    as many images could be gained, and lost, in every cell. Columns err on the same images as far as they can.
    """
    known = {(each.dataset, each.domain, each.backbone): each for each in published_table().cells}
    facts = {name: _facts(name) for name in datasets}
    cells: list[Cell] = []
    for name, (_, images) in facts.items():
        for backbone in backbones:
            for way in prompts:
                for domain, number in images.items():
                    counts = right and right(name, domain, backbone)
                    if counts is None:
                        candidates = known[name, domain, backbone].candidates(number)
                        assert candidates
                        counts = candidates[0]
                    cells.append(
                        Cell(dataset=name, domain=domain, backbone=backbone, prompts=way, images=number,
                             classified=number, top1=counts, top5=number, unreadable=0, shards=2, missing_shards=0)
                    )  # fmt: skip
    return Evaluation(
        unreadable_policy="stop",
        datasets=tuple(each for each, _ in facts.values()),
        recipes=tuple(_recipe(name, backbone) for name in datasets for backbone in backbones),
        prompts={name: UsedPrompts(templates=tuple(templates)) for name, templates in prompts.items()},
        cells=tuple(cells),
        unreadable=(),
        patterns=tuple(
            _patterns([each for each in cells if (each.dataset, each.domain) == place])
            for place in dict.fromkeys((each.dataset, each.domain) for each in cells)
        ),
        near_ties=tuple(
            NearTies(dataset=each.dataset, domain=each.domain, column=each.column, epsilon=NEAR_TIE,
                     could_gain=ties[0], could_lose=ties[1])
            for each in cells
        ),
    )  # fmt: skip


def with_cell(result: Evaluation, place: str, backbone: str, **changes: Any) -> Evaluation:
    """The result with another cell at DATASET/DOMAIN."""
    cells = [
        replace(each, **changes) if (f"{each.dataset}/{each.domain}", each.backbone) == (place, backbone) else each
        for each in result.cells
    ]
    assert any((f"{each.dataset}/{each.domain}", each.backbone) == (place, backbone) for each in result.cells)
    return replace(result, cells=tuple(cells))


def with_facts(result: Evaluation, **changes: Any) -> Evaluation:
    """The result with other facts of its only dataset."""
    (facts,) = result.datasets
    return replace(result, datasets=(replace(facts, **changes),))


def _facts(name: str) -> tuple[DatasetFacts, dict[str, int]]:
    card = find_card(name)
    assert card
    images = DOMAINNET if name == "domainnet" else dict(card.variants[0].images)
    facts = DatasetFacts(
        name=name,
        title=card.title,
        variant="original" if name == "domainnet" else card.variants[0].name,
        protocol="full",
        manifest_sha256="a" * 64,
        names=dict(zip(card.classes, card.names, strict=True)),
        fingerprints={domain: f"{place:064x}" for place, domain in enumerate(images)},
        has_variants=True,
        licence=card.licence,
    )
    return facts, images


def _recipe(dataset: str, backbone: str) -> UsedRecipe:
    known = OPENAI_BACKBONES.get(backbone)
    archive = known.archive_sha256 if known else None
    used = recipe(
        backbone=backbone, weights=archive or "0" * 64, architecture=known.architecture if known else "RN50-quickgelu"
    )
    return UsedRecipe(dataset=dataset, backbone=backbone, id=used.id, recipe=used)


def _patterns(cells: Sequence[Cell]) -> Patterns:
    """Of columns that are right on the first images of the domain: as alike as their counts allow."""
    edges = sorted({0, cells[0].images, *(each.top1 for each in cells)})
    counts = {
        "".join("1" if each.top1 >= end else "0" for each in cells): end - start
        for start, end in itertools.pairwise(edges)
    }
    return Patterns(
        dataset=cells[0].dataset,
        domain=cells[0].domain,
        columns=tuple(Column(each.backbone, ZERO_SHOT, each.prompts) for each in cells),
        counts=dict(sorted(counts.items())),
    )
