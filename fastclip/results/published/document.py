"""Verdicts as the entry `published` of a result file."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from fastclip.results.published.verdicts import DIFFERS, NEAR_TIES, NOT_COMPARABLE, SAME, Against


def against_document(found: Against) -> dict[str, Any]:
    """The entry `published` of a result file. Accuracies are fractions of 1."""

    def number(value: Fraction | None) -> float | None:
        return None if value is None else float(value)

    return {
        "source": found.source,
        "commit": found.commit,
        "verdicts": {name: found.count(name) for name in (SAME, NEAR_TIES, DIFFERS, NOT_COMPARABLE)},
        "cells": [
            {
                "dataset": each.dataset,
                "domain": each.domain,
                **each.column._asdict(),
                "accuracy": number(each.published),
                "decimals": each.decimals,
                "candidates": list(each.candidates) if each.candidates else None,
                "images": each.images,
                "yours": each.yours,
                "verdict": each.verdict,
                "difference": each.difference,
                "epsilon": each.epsilon,
                "could_gain": each.could_gain,
                "could_lose": each.could_lose,
                "reasons": list(each.reasons),
            }
            for each in found.cells
        ],
        "averages": [
            {
                "dataset": each.dataset,
                **each.column._asdict(),
                "printed": number(each.printed),
                "of_cells": number(each.of_cells),
                "yours": number(each.yours),
                "yours_as_printed": number(each.yours_as_printed),
            }
            for each in found.averages
        ],
        "notes": list(found.notes),
    }
