"""Two runs compared: the same columns on the same images, by other recipes, code or templates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastclip.errors import UserError
from fastclip.results.answers import ColumnAnswers, PredictionRows
from fastclip.results.cells import Column, Evaluation
from fastclip.results.comparing.caveats import image_lines, left_out, left_out_lines
from fastclip.results.comparing.families import Comparison, Family
from fastclip.results.comparing.ordering import rows_in_order, take
from fastclip.results.comparing.tests import compared, corrected, counted, family_name, with_average
from fastclip.results.pairs import Pair
from fastclip.store.recipes import Recipe, fine_tuning

MOST_NAMED = 3
"""Differences of two recipes that are named."""


@dataclass(frozen=True)
class AnsweredRun:
    """A result, as the user called it, and its answers image by image."""

    name: str
    evaluation: Evaluation
    rows: PredictionRows


def compare_runs(
    first: AnsweredRun, second: AnsweredRun, *, correction: str = "holm", prompts: str | None = None
) -> list[Family]:
    """The answers of the second run against those of the first: a family for each dataset that both have.

    Images are found by their keys if both runs were over the same shards, else by their bytes. Raises `UserError`
    where the runs have no column in common, or are about other images.
    """
    policies = [each.evaluation.unreadable_policy for each in (first, second)]
    if policies[0] != policies[1] and any(cell.unreadable for cell in first.evaluation.cells + second.evaluation.cells):
        raise UserError(
            f"{first.name} was made with --unreadable {policies[0]}, {second.name} with {policies[1]}.",
            fix="Run one of them again with the policy of the other: nothing is embedded twice.",
        )
    places = [place for place in first.rows.domains if place in second.rows.domains]
    families = []
    for dataset in dict.fromkeys(dataset for dataset, _ in places):
        domains = [domain for name, domain in places if name == dataset]
        columns = _columns(first, second, dataset, domains, prompts)
        if columns:
            families.append(_family(first, second, dataset, domains, columns, correction))
    if not families:
        without = [
            line
            for evaluation in (first.evaluation, second.evaluation)
            for each in evaluation.datasets
            for line in left_out_lines(evaluation, each.name)
        ]
        problem = f"{first.name} and {second.name} have no answers of the same column for the same domain."
        raise UserError(
            " ".join(dict.fromkeys([problem, *without])),
            fix="Name two runs of the same backbones and prompts; leave out --of runs to compare columns of one.",
        )
    return families


def _columns(
    first: AnsweredRun, second: AnsweredRun, dataset: str, domains: Sequence[str], prompts: str | None
) -> list[tuple[Column, list[str]]]:
    """The columns that may be compared, with the domains where both runs have them."""
    without = {*left_out(first.evaluation, dataset), *left_out(second.evaluation, dataset)}
    found: dict[Column, list[str]] = {}
    for domain in domains:
        theirs = second.rows.domains[dataset, domain].columns
        for column in first.rows.domains[dataset, domain].columns:
            if column in theirs and column not in without and prompts in (None, column.prompts):
                found.setdefault(column, []).append(domain)
    return list(found.items())


def _family(
    first: AnsweredRun,
    second: AnsweredRun,
    dataset: str,
    domains: Sequence[str],
    columns: Sequence[tuple[Column, list[str]]],
    correction: str,
) -> Family:
    names = (first.name, second.name)
    rows = {each: rows_in_order(first.rows, second.rows, (dataset, each), names) for each in domains}
    tests: list[Comparison] = []
    images = changed = 0
    for column, scored in columns:
        own: list[Comparison] = []
        for domain in scored:
            before = first.rows.domains[dataset, domain].columns[column]
            after = take(second.rows.domains[dataset, domain].columns[column], rows[domain])
            own.append(compared(_pair(first.evaluation, dataset, domain, column, before, after)))
            images += len(before.rank)
            changed += int((before.predicted != after.predicted).sum())
        tests += with_average(own, domains)
    done = corrected(tests, correction)
    one = f"{columns[0][0].backbone}, {columns[0][0].way}" if len(columns) == 1 else ""
    subject = f"{'' if one else counted(len(columns), 'column') + ' of '}{second.name} against {first.name}"
    return Family(
        name=family_name((dataset, domains), one, subject, done),
        of="runs",
        reference=None,
        correction=correction,
        tests=done,
        at_once=(),
        ranks=(),
        notes=(
            f"{changed:,} of {images:,} predicted classes differ.",
            *_recipe_lines(first.evaluation, second.evaluation, dataset),
            *_prompt_lines(first.evaluation, second.evaluation, [column for column, _ in columns]),
            *dict.fromkeys(line for each in (first, second) for line in left_out_lines(each.evaluation, dataset)),
            *image_lines(first.evaluation, dataset, domains),
        ),
    )


def _pair(
    evaluation: Evaluation, dataset: str, domain: str, column: Column, before: ColumnAnswers, after: ColumnAnswers
) -> Pair:
    """One column in both runs; `a` is the later. Unreadable images are wrong, or left out, as the policy has it."""
    wrong = evaluation.unreadable_policy == "wrong"
    counted = np.ones(len(before.rank), bool) if wrong else before.classified & after.classified
    cell = evaluation.cell(dataset, domain, column)
    assert cell, "the answers of a result have its columns"
    return Pair(
        dataset=dataset,
        domain=domain,
        a=column,
        b=column,
        only_a=int((after.right & ~before.right & counted).sum()),
        only_b=int((before.right & ~after.right & counted).sum()),
        both=int((before.right & after.right & counted).sum()),
        images=cell.images if wrong else int(counted.sum()),
    )


def _recipe_lines(first: Evaluation, second: Evaluation, dataset: str) -> Iterator[str]:
    """A line for each way in which recipes differ, with its backbones."""
    theirs = {each.backbone: _facts(each.recipe) for each in second.recipes if each.dataset == dataset}
    found: dict[str, list[str]] = {}
    for used in first.recipes:
        if used.dataset == dataset and used.backbone in theirs:
            own, other = _facts(used.recipe), theirs[used.backbone]
            differing = [f"{name} {other[name]}, not {own[name]}" for name in own if own[name] != other[name]]
            shown = differing[:MOST_NAMED] + (["more"] if len(differing) > MOST_NAMED else [])
            found.setdefault("; ".join(shown), []).append(used.backbone)
    for differing_words, backbones in found.items():
        yield f"{', '.join(backbones)}: {differing_words or 'the same recipe'}."


def _facts(recipe: Recipe) -> dict[str, Any]:
    """The facts of a recipe. Fine-tuning comes first: it means more than any other."""
    return {"fine-tuning": fine_tuning(recipe), **replace(recipe, training=None).to_document()}


def _prompt_lines(first: Evaluation, second: Evaluation, columns: Sequence[Column]) -> list[str]:
    names = dict.fromkeys(column.prompts for column in columns if column.prompts)
    other = [name for name in names if first.prompts[name].identity != second.prompts[name].identity]
    known = [name for name in other if first.prompts[name].identity and second.prompts[name].identity]
    return [f"The prompts of {', '.join(known)} differ."] if known else []
