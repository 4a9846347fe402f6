"""Several results as one: only of the same images, and never with two counts for one cell."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fastclip.errors import IntegrityError, UserError
from fastclip.results.cells import Evaluation, UsedHead

T = TypeVar("T")


def merge(results: Mapping[str, Evaluation]) -> Evaluation:
    """The cells of all `results`, which are called by their names, in the order in which they come.

    Raises `IntegrityError` where one cell has two counts, and `UserError` for results that are not about the same
    images, or not by the same recipes, heads or prompts.
    """
    names, evaluations = list(results), list(results.values())
    if len(evaluations) == 1:
        return evaluations[0]
    policies = [each.unreadable_policy for each in evaluations]
    if len(set(policies)) > 1:
        other = next(number for number, each in enumerate(policies) if each != policies[0])
        raise UserError(
            f"{names[0]} was made with --unreadable {policies[0]}, {names[other]} with {policies[other]}.",
            fix="Run one of them again with the policy of the other: nothing is embedded twice.",
        )
    _union(
        names,
        [{(c.dataset, c.domain): c.sample for c in result.cells} for result in evaluations],
        operator.eq,
        "of {} one has all images, or another part of them",
    )
    datasets = _union(
        names,
        [{each.name: each for each in result.datasets} for result in evaluations],
        lambda old, new: old.manifest_sha256 == new.manifest_sha256 and old.names == new.names,
        "the images or classes of {} are others (the digests of its manifest differ)",
    )
    cells = _union(
        names,
        [{(c.dataset, c.domain, c.column, c.sample): c for c in result.cells} for result in evaluations],
        operator.eq,
        "{} has other counts",
        integrity=True,
    )
    recipes = _union(
        names,
        [{(each.dataset, each.backbone): each for each in result.recipes} for result in evaluations],
        lambda old, new: old.id == new.id,
        "{} was embedded by another recipe",
    )
    _union(
        names,
        [{each.backbone: each.recipe for each in result.recipes} for result in evaluations],
        lambda old, new: old.weights == new.weights,
        "{} has other weights, and an average would mix them",
    )
    heads = _union(
        names,
        [_heads(result) for result in evaluations],
        lambda old, new: [each.sha256 for each in old] == [each.sha256 for each in new],
        "{} was fitted in both, in different ways",
    )
    prompts = _union(
        names,
        [dict(result.prompts) for result in evaluations],
        operator.eq,
        "the prompt set {} has other prompts, or was chosen in another way",
    )
    fingerprints: dict[Hashable, dict[str, str]] = {name: {} for name in datasets}
    duplicates: dict[Hashable, dict[str, int]] = {name: {} for name in datasets}
    for each in (facts for result in evaluations for facts in result.datasets):
        fingerprints[each.name] |= each.fingerprints
        duplicates[each.name] |= each.duplicates
    return Evaluation(
        unreadable_policy=policies[0],
        datasets=tuple(
            replace(each, fingerprints=fingerprints[name], duplicates=duplicates[name])
            for name, each in datasets.items()
        ),
        recipes=tuple(recipes.values()),
        prompts={str(name): each for name, each in prompts.items()},
        cells=tuple(cells.values()),
        unreadable=tuple(dict.fromkeys(image for result in evaluations for image in result.unreadable)),
        heads=tuple(head for each in heads.values() for head in each),
        patterns=tuple({(p.dataset, p.domain, p.columns): p for r in evaluations for p in r.patterns}.values()),
        near_ties=tuple({(t.dataset, t.domain, t.column): t for r in evaluations for t in r.near_ties}.values()),
    )


def _heads(evaluation: Evaluation) -> dict[tuple[str, str, str], list[UsedHead]]:
    """The heads of a row of its table: one, or of several folds and seeds one each."""
    found: dict[tuple[str, str, str], list[UsedHead]] = {}
    for each in evaluation.heads:
        row = re.sub(r"(, \d+ shots?), seed \d+$", r"\1", each.name)
        found.setdefault((each.facts.recipe.backbone, each.dataset, row), []).append(each)
    return found


def _union(
    names: Sequence[str],
    groups: Iterable[Mapping[Any, T]],
    same: Callable[[T, T], bool],
    problem: str,
    *,
    integrity: bool = False,
) -> dict[Hashable, T]:
    """All rows by their keys. Raises an error for two rows of one key that are not the same."""
    found: dict[Hashable, T] = {}
    owner: dict[Hashable, str] = {}
    for name, group in zip(names, groups, strict=True):
        for key, row in group.items():
            if key in found and not same(found[key], row):
                message = f"{owner[key]} and {name} cannot be one table: {problem.format(_say(key))}."
                if integrity:
                    raise IntegrityError(message, fix="fastclip compare shows where they differ; report one of them.")
                raise UserError(message, fix="fastclip report for each of them, or fastclip compare for both")
            if key not in found:
                found[key], owner[key] = row, name
    return found


def _say(key: Hashable) -> str:
    """`pacs/sketch, RN50, zero-shot, photo` of a key."""
    parts = [key] if isinstance(key, str) else list(key)  # type: ignore[call-overload]
    flat = [part for each in parts for part in (each if isinstance(each, tuple) else [each])]
    return ", ".join(str(part) for part in flat if part)
