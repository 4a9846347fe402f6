"""The result file, `fastclip.result/1`: integer counts, and all that a reader needs to know what they are counts of.

Equal work gives equal bytes: no time, host, path or speed is in it. What follows from the counts (accuracies,
intervals, averages, pairs) is written for readers of other programs, and worked out anew by our own. Within version 1
fields are only added.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from fastclip.results.averages import averages
from fastclip.results.cells import Cell, DatasetFacts, Evaluation
from fastclip.results.pairs import pairs_with_zero_shot
from fastclip.results.statistics import Interval, holm, mcnemar, newcombe, wilson

SCHEMA = "fastclip.result/1"
RESULT = "result.json"


def to_json(evaluation: Evaluation, **more: Any) -> bytes:
    """The result file of an evaluation; `more` are further entries, such as `published`."""
    return (
        json.dumps({**to_document(evaluation), **more}, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    )


def to_document(evaluation: Evaluation) -> dict[str, Any]:
    """The result file as JSON has it."""
    return {
        "schema": SCHEMA,
        "fastclip": evaluation.program,
        "complete": evaluation.complete,
        "unreadable_policy": evaluation.unreadable_policy,
        "datasets": [_dataset(each) for each in evaluation.datasets],
        "recipes": [
            {**asdict(each), "activation": each.recipe.activation, "recipe": each.recipe.to_document()}
            for each in evaluation.recipes
        ],
        "prompts": {
            name: {"kind": each.kind, "templates": list(each.templates), "selection": each.selection}
            for name, each in evaluation.prompts.items()
        },
        "heads": [{**asdict(each), "facts": each.facts.to_document()} for each in evaluation.heads],
        "cells": [_cell(each, evaluation.unreadable_policy) for each in evaluation.cells],
        "averages": [
            {
                "dataset": each.dataset,
                **each.column._asdict(),
                "macro": _number(each.macro),
                "micro": _number(each.micro),
                "worst": _number(each.worst),
                "interval": _interval(each.interval),
            }
            for each in averages(evaluation)
        ],
        "patterns": [
            {**asdict(each), "columns": [column._asdict() for column in each.columns]} for each in evaluation.patterns
        ],
        "pairs": _pairs(evaluation),
        "near_ties": [
            {
                "dataset": each.dataset,
                "domain": each.domain,
                **each.column._asdict(),
                "epsilon": each.epsilon,
                "could_gain": each.could_gain,
                "could_lose": each.could_lose,
            }
            for each in evaluation.near_ties
        ],
        "unreadable": [asdict(each) for each in evaluation.unreadable],
        "predictions": asdict(evaluation.predictions) if evaluation.predictions else None,
    }


def _dataset(facts: DatasetFacts) -> dict[str, Any]:
    return {
        "name": facts.name,
        "title": facts.title,
        "variant": facts.variant,
        "has_variants": facts.has_variants,
        "protocol": facts.protocol,
        "manifest_sha256": facts.manifest_sha256,
        "fingerprints": dict(facts.fingerprints),
        "duplicates": dict(facts.duplicates),
        "licence": facts.licence,
        "hub_id": facts.hub_id,
        "classes": list(facts.names),
        "names": list(facts.names.values()),
    }


def _cell(cell: Cell, policy: str) -> dict[str, Any]:
    seen = cell.seen(policy)
    return {
        **asdict(cell),
        "accuracy": _number(cell.accuracy(policy)),
        "interval": _interval(wilson(cell.top1, seen)) if seen else None,
    }


def _pairs(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Fitted heads beside zero-shot, with Holm's correction over the domains of one dataset, backbone and head."""
    pairs = pairs_with_zero_shot(evaluation)
    rows: list[dict[str, Any]] = []
    families: dict[tuple[str, str, str], list[int]] = {}
    for number, each in enumerate(pairs):
        test, images = mcnemar(each.only_a, each.only_b), each.images
        families.setdefault((each.dataset, each.a.backbone, each.a.head), []).append(number)
        rows.append(
            {
                "dataset": each.dataset,
                "domain": each.domain,
                "a": each.a._asdict(),
                "b": each.b._asdict(),
                "only_a": each.only_a,
                "only_b": each.only_b,
                "images": images,
                "difference": (each.only_a - each.only_b) / images if images else None,
                "interval": _interval(newcombe(each.both, each.only_a, each.only_b, each.neither)) if images else None,
                "p_exact": test.exact,
                "p_mid": test.mid,
            }
        )
    for (dataset, backbone, head), numbers in families.items():
        name = f"{head} against zero-shot, the domains of {dataset}, {backbone}"
        family = {"name": name, "tests": len(numbers), "method": "holm"}
        for number, p in zip(numbers, holm([rows[each]["p_exact"] for each in numbers]), strict=True):
            rows[number] |= {"p_adjusted": p, "family": family}
    return rows


def _number(value: Fraction | None) -> float | None:
    return None if value is None else float(value)


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    return asdict(interval) if interval else None
