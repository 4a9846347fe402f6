"""The result file, `fastclip.result/1`: integer counts, and all that a reader needs to know what they are counts of.

Equal work gives equal bytes: no time, host, path or speed is in it. All that follows from the counts (accuracies,
intervals, averages, pairs) is written for readers of other programs, and worked out anew by our own. Within version 1
fields are only added. The last one, `digest`, is the SHA-256 of all others in canonical JSON: no count can be changed
without being noticed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from fastclip.files import canonical_json, digest
from fastclip.results.averages import averages
from fastclip.results.cells import Cell, DatasetFacts, Evaluation, UsedHead
from fastclip.results.comparing.columns import heads_beside_zero_shot
from fastclip.results.comparing.file import comparison_document
from fastclip.results.statistics import Interval, wilson

SCHEMA = "fastclip.result/1"
RESULT = "result.json"


def to_json(evaluation: Evaluation, **more: Any) -> bytes:
    """The result file of an evaluation; `more` are further entries, such as `published`."""
    return json.dumps(to_document(evaluation, **more), indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def to_document(evaluation: Evaluation, **more: Any) -> dict[str, Any]:
    """The result file as JSON has it."""
    document = {**_entries(evaluation), **more}
    return {**document, "digest": result_digest(document)}


def result_digest(document: Mapping[str, Any]) -> str:
    """The digest of everything else in a result. Raises `ValueError` for what no result holds, such as NaN."""
    return digest(canonical_json({name: value for name, value in document.items() if name != "digest"}))


def _entries(evaluation: Evaluation) -> dict[str, Any]:
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
            | ({"texts": each.texts, "sha256": each.sha256} if each.kind == "texts" else {})
            for name, each in evaluation.prompts.items()
        },
        "heads": [_head(each) for each in evaluation.heads],
        "cells": [_cell(each, evaluation.unreadable_policy) for each in evaluation.cells],
        "averages": [
            {
                "dataset": each.dataset,
                **each.column._asdict(),
                "domains": list(each.domains),
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
        "pairs": list(_pairs(evaluation)),
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


def _head(head: UsedHead) -> dict[str, Any]:
    document = {**asdict(head), "facts": head.facts.to_document()}
    del document["epochs"]
    # Without the entry, results of heads that no epoch made keep their bytes.
    return document | ({"epochs": [asdict(each) for each in head.epochs]} if head.epochs else {})


def _cell(cell: Cell, policy: str) -> dict[str, Any]:
    seen = cell.seen(policy)
    return {
        **asdict(cell),
        "accuracy": _number(cell.accuracy(policy)),
        "interval": _interval(wilson(cell.top1, seen)) if seen else None,
    }


def _pairs(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Fitted heads beside zero-shot."""
    for name, tests in heads_beside_zero_shot(evaluation).items():
        family = {"name": name, "tests": len(tests), "method": "holm"}
        yield from ({**comparison_document(each), "family": family} for each in tests)


def _number(value: Fraction | None) -> float | None:
    return None if value is None else float(value)


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    return asdict(interval) if interval else None
