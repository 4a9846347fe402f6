"""How a result was made: weights, templates, heads and datasets, each said once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fastclip.models.weights import describe_weights
from fastclip.report.head_notes import settings_text
from fastclip.report.html.words import listed
from fastclip.results.cells import Evaluation
from fastclip.store.recipes import Recipe

DEFINITIONS = {
    "Accuracy": "The images whose best class is the true one, divided by all images of the domain, once, from integer "
    "counts. Of equal scores the class that comes first is taken.",
    "Average": "The unweighted mean of the domains' accuracies, from exact fractions, and rounded at the end, "
    "half to even.",
    "Interval": "95%: Wilson's for a domain, Wilson's limits squared and added (MOVER) for an average, Newcombe's for "
    "a difference on the same images. It is about other images like these, and too narrow where images resemble each "
    "other: bursts, shots of one object, duplicates. Whether two intervals overlap is no test.",
    "Bold, underlined": "The best and the second number of a column, among comparable rows; numbers that print alike "
    "are marked alike.",
    "Paired test": "McNemar's exact test of the images that only one of two classifies correctly. Adjusted p: "
    "corrected over the named family of tests.",
    "Against a published number": "Both saw the same images, so nothing but the same count is the same. The counts "
    "that round to the printed number are its candidates.",
    "Margin": "The lead of the best class over the second, in cosine similarity for zero-shot. A near tie has so small "
    "a margin that the rounding of another machine could turn it.",
    "Recall": "The images of a class that are right, divided by its classified images, over all domains.",
}


@dataclass(frozen=True, kw_only=True)
class UsedWeights:
    """One backbone and the recipe of its embeddings."""

    backbone: str
    datasets: str
    weights: str
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """One fitted head."""

    name: str
    backbone: str
    tested: str
    trained: str
    images: int
    settings: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a result was made."""

    weights: tuple[UsedWeights, ...]
    heads: tuple[FittedHead, ...]


def make_method(evaluation: Evaluation) -> Method:
    """The weights and heads of a result. Equal recipes of several datasets are one row."""
    datasets: dict[tuple[str, str], list[str]] = {}
    recipes: dict[str, Recipe] = {}
    for used in evaluation.recipes:
        recipes[used.recipe.id] = used.recipe
        datasets.setdefault((used.backbone, used.recipe.id), []).append(used.dataset)
    return Method(
        weights=tuple(
            UsedWeights(backbone=backbone, datasets=listed(names), weights=describe_weights(recipes[id]),
                        recipe=recipes[id])
            for (backbone, id), names in datasets.items()
        ),
        heads=tuple(_heads(evaluation)),
    )  # fmt: skip


def _heads(evaluation: Evaluation) -> Iterator[FittedHead]:
    for each in evaluation.heads:
        facts = each.facts
        transductive = "; it saw the tested images, without labels" if each.transductive else ""
        yield FittedHead(
            name=each.name,
            backbone=facts.recipe.backbone,
            tested=listed([f"{each.dataset}/{domain}" for domain in each.domains]) + transductive,
            trained=listed([f"{one.dataset}/{one.domain}" for one in facts.training]),
            images=facts.images,
            settings=settings_text(each),
            sha256=each.sha256,
        )
