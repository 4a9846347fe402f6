"""Rankings as files: JSON with all counts, and CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from fastclip import __version__
from fastclip.prompts.rank import Ranked, Ranking
from fastclip.report.csv_file import text

SCHEMA = "fastclip.prompt-ranking/1"


def ranking_json(rankings: Sequence[Ranking]) -> bytes:
    """Every candidate with its counts by domain. Equal work gives equal bytes."""
    document = {"schema": SCHEMA, "program": __version__, "labels_used": True, "rankings": [*map(_document, rankings)]}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def ranking_csv(rankings: Sequence[Ranking]) -> str:
    """A row a candidate and domain, as RFC 4180 has it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(("dataset", "domain", "backbone", "candidate", "kind", "control", "right", "images"))
    for ranking in rankings:
        place = ranking.source.target.name, ranking.source.recipe.backbone
        for each in ranking.ranked:
            prompts = each.candidate.prompts
            for domain, images in ranking.images.items():
                names = (place[0], domain, place[1], prompts.name, prompts.kind)
                row = (int(each.candidate.control), each.right[domain], images)
                writer.writerow([*map(text, names), *row])
    return file.getvalue()


def _document(ranking: Ranking) -> dict[str, Any]:
    target, recipe = ranking.source.target, ranking.source.recipe
    fingerprints = {each.name: each.fingerprint for each in target.manifest.domains if each.name in ranking.images}
    return {
        "dataset": target.name,
        "backbone": recipe.backbone,
        "weights": recipe.weights,
        "recipe": recipe.id,
        "fingerprints": fingerprints,
        "images": dict(ranking.images),
        "unreadable": ranking.unreadable,
        "candidates": {"number": len(ranking.given), "sha256": ranking.candidates.sha256},
        "not_told_from_the_best": ranking.tied,
        "ranked": [*map(_candidate, ranking.ranked)],
    }


def _candidate(each: Ranked) -> dict[str, Any]:
    prompts = each.candidate.prompts
    what = {"sha256": prompts.texts_sha256} if prompts.texts else {"templates": list(prompts.templates)}
    return {
        "name": prompts.name,
        "kind": prompts.kind,
        **what,
        "control": each.candidate.control,
        "right": dict(each.right),
        "average": float(each.average),
        "tied": each.tied,
    }
