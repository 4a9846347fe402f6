"""All cells as CSV in the long form: a row a cell, with its integer counts."""

from __future__ import annotations

import csv
import io

from fastclip.report.numbers import RANDOM
from fastclip.results.cells import Evaluation
from fastclip.results.statistics import wilson

FIELDS = (
    "dataset", "domain", "backbone", "head", "prompts", "sample", "images", "classified", "right", "right_top5",
    "unreadable", "missing_shards", "unreadable_policy", "counted", "accuracy", "low", "high", "level", "method",
    "weights", "weights_fine_tuned_on",
)  # fmt: skip
"""`counted` are the images that the accuracy is a share of, a fraction of 1 with all its digits."""

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\0")
"""Beginnings of a text for which spreadsheets may run what follows."""


def csv_file(evaluation: Evaluation) -> str:
    """The file as RFC 4180 has it. A number that is not there is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(FIELDS)
    recipes = {(each.dataset, each.backbone): each.recipe for each in evaluation.recipes}
    tuned = {(each.dataset, domain, each.name): each.facts.recipe
             for each in evaluation.heads if each.is_backbone for domain in each.domains}  # fmt: skip
    policy = evaluation.unreadable_policy
    for cell in evaluation.cells:
        seen, accuracy = cell.seen(policy), cell.accuracy(policy)
        recipe = tuned.get((cell.dataset, cell.domain, cell.head)) or recipes.get((cell.dataset, cell.backbone))
        interval = wilson(cell.top1, seen) if seen else None
        weights = (RANDOM if recipe.random_weights else recipe.weights) if recipe else ""
        texts = (cell.dataset, cell.domain, cell.backbone, cell.head, cell.prompts, cell.sample)
        writer.writerow(
            [
                *map(text, texts),
                *(cell.images, cell.classified, cell.top1, cell.top5, cell.unreadable, cell.missing_shards),
                text(policy),
                "" if seen is None else seen,
                "" if accuracy is None else repr(float(accuracy)),
                *((repr(interval.low), repr(interval.high), interval.level, interval.method) if interval else [""] * 4),
                text(weights),
                text(recipe.training.places if recipe and recipe.training else ""),
            ]
        )
    return file.getvalue()


def text(value: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if value.startswith(FORMULA) else value
