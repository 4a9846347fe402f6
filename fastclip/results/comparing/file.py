"""The file of a comparison, `fastclip.comparison/1`: equal results give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastclip import __version__
from fastclip.results.comparing.families import Comparison, Family

SCHEMA = "fastclip.comparison/1"


def to_json(families: Sequence[Family]) -> bytes:
    """All tests, ranks and notes of the families. Fractions of 1; null where there is nothing."""
    document = {"schema": SCHEMA, "fastclip": __version__, "families": [_family(each) for each in families]}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _family(family: Family) -> dict[str, Any]:
    return {
        "name": family.name,
        "of": family.of,
        "reference": family.reference._asdict() if family.reference else None,
        "correction": family.correction,
        "tests": [comparison_document(each) for each in family.tests],
        "at_once": [asdict(each) for each in family.at_once],
        "ranks": [{**asdict(each), "column": each.column._asdict()} for each in family.ranks],
        "notes": list(family.notes),
    }


def comparison_document(test: Comparison) -> dict[str, Any]:
    """One test as JSON has it, here and in a result file."""
    pair = test.pair
    return {
        **asdict(pair),
        "a": pair.a._asdict(),
        "b": pair.b._asdict(),
        "over": list(test.over),
        "difference": test.difference,
        "interval": asdict(test.interval) if test.interval else None,
        "p_exact": test.p_exact,
        "p_mid": test.p_mid,
        "p_adjusted": test.p_adjusted,
    }
