"""Predictions of several runs as one: of equal images in equal order, or of other domains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fastclip.errors import UserError
from fastclip.files import digest
from fastclip.results.answers import DomainAnswers
from fastclip.results.cells import PredictionFile
from fastclip.results.prediction_file import PredictionRows


def join_predictions(files: Sequence[PredictionRows]) -> PredictionRows | None:
    """All answers of several files; None if there is no file.

    Raises `UserError` where the images of one domain are not the same in two files.
    """
    if len(files) < 2:
        return files[0] if files else None
    domains: dict[tuple[str, str], DomainAnswers] = {}
    for each in files:
        for place, answers in each.domains.items():
            domains[place] = _join(domains[place], answers) if place in domains else answers
    digests = [each.facts.sha256 for each in files]
    facts = PredictionFile(
        file=files[0].facts.file, sha256=digest("".join(digests).encode()), rows=sum(each.facts.rows for each in files)
    )
    return PredictionRows(
        facts,
        domains,
        {name: {**known} for each in files for name, known in each.fingerprints.items()},
        {name: manifest for each in files for name, manifest in each.manifests.items()},
    )


def _join(first: DomainAnswers, second: DomainAnswers) -> DomainAnswers:
    same = len(first.labels) == len(second.labels) and np.array_equal(first.labels, second.labels)
    if not same or list(first.digests) != list(second.digests):
        raise UserError(
            f"The predictions of {first.dataset}/{first.domain} are not about the same images in two of the results.",
            fix="fastclip report RESULT --html FILE for each of them",
        )
    return replace(first, columns={**first.columns, **second.columns})
