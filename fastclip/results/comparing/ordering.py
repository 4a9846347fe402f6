"""Answers of several files in one order, image by image: never by row, but by key, or by the bytes of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from fastclip.errors import IntegrityError, UserError
from fastclip.files import digest
from fastclip.results.answers import ColumnAnswers, DomainAnswers, PredictionRows
from fastclip.results.cells import PredictionFile

SAME_SHARDS = "Compare runs over the same images and labels: fastclip eval for both, with the same --shards."


def rows_in_order(
    first: PredictionRows, second: PredictionRows, place: tuple[str, str], names: tuple[str, str]
) -> Int64[np.ndarray, " images"]:
    """The rows of the second file that are the images of the first, in its order, for one (dataset, domain).

    Images are the same if their keys are, under one manifest whose shards have each key once; else if their bytes
    are. Raises `UserError`, which calls the files by their `names`, where they are about other images or other labels.
    """
    dataset, domain = place
    one, other = first.domains[place], second.domains[place]
    prints = [each.fingerprints.get(dataset, {}).get(domain, "") for each in (first, second)]
    if prints[0] != prints[1]:
        raise UserError(
            f"{names[0]} and {names[1]} are about other images of {dataset}/{domain}: their fingerprints are "
            f"{prints[0][:12] or 'unknown'} and {prints[1][:12] or 'unknown'}.",
            fix=SAME_SHARDS,
        )
    manifests = [each.manifests.get(dataset) for each in (first, second)]
    by_key = manifests[0] is not None and manifests[0] == manifests[1]
    of_one, of_other = _identities(one, by_key), _identities(other, by_key)
    if by_key and not np.array_equal(of_one, of_other) and len(np.unique(of_one)) < len(of_one):
        of_one, of_other = _identities(one, False), _identities(other, False)
    if np.array_equal(of_one, of_other):
        rows = np.arange(len(of_other))
    else:
        order, other_order = np.lexsort((one.labels, of_one)), np.lexsort((other.labels, of_other))
        if not np.array_equal(of_one[order], of_other[other_order]):
            both = len(np.intersect1d(of_one, of_other))
            raise UserError(
                f"{names[0]} has answers for {len(of_one):,} images of {dataset}/{domain}, {names[1]} for "
                f"{len(of_other):,}; {both:,} are the same.",
                fix=SAME_SHARDS,
            )
        rows = np.empty(len(order), np.int64)
        rows[order] = other_order
    if count := int((one.labels != other.labels[rows]).sum()):
        raise UserError(
            f"{names[0]} and {names[1]} have other labels for {count:,} of the images of {dataset}/{domain}.",
            fix=SAME_SHARDS,
        )
    return rows


def _identities(answers: DomainAnswers, by_key: bool) -> np.ndarray:
    return np.array(answers.keys) if by_key else np.array(answers.digests, "S64")


def take(answers: ColumnAnswers, rows: Int64[np.ndarray, " chosen"]) -> ColumnAnswers:
    """The answers for `rows`, in that order."""
    return ColumnAnswers(answers.predicted[rows], answers.rank[rows], answers.margin[rows])


def in_one_order(files: Mapping[str, PredictionRows]) -> PredictionRows:
    """The answers of all files (at least one), called by their names, in the order of the first that has a domain.

    Raises `IntegrityError` where two files have other answers for one column.
    """
    if len(files) == 1:
        return next(iter(files.values()))
    fingerprints: dict[str, dict[str, str]] = {}
    for name, prints in (item for each in files.values() for item in each.fingerprints.items()):
        fingerprints.setdefault(name, {}).update(prints)
    digests = "".join(each.facts.sha256 for each in files.values())
    return PredictionRows(
        PredictionFile(file="", sha256=digest(digests.encode()), rows=sum(each.facts.rows for each in files.values())),
        _domains(files),
        fingerprints,
        {name: manifest for each in files.values() for name, manifest in each.manifests.items()},
    )


def _domains(files: Mapping[str, PredictionRows]) -> dict[tuple[str, str], DomainAnswers]:
    found: dict[tuple[str, str], DomainAnswers] = {}
    owner: dict[tuple[str, str], str] = {}
    for name, file in files.items():
        for place, answers in file.domains.items():
            if place not in found:
                found[place], owner[place] = answers, name
                continue
            rows = rows_in_order(files[owner[place]], file, place, (owner[place], name))
            columns = dict(found[place].columns)
            for column, own in answers.columns.items():
                moved = take(own, rows)
                if column in columns and not np.array_equal(columns[column].rank, moved.rank):
                    raise IntegrityError(
                        f"{column.backbone}, {column.way}: {name} has other answers for {'/'.join(place)} than a file "
                        "before it.",
                        fix="fastclip compare --of runs shows how many; leave one of the files out.",
                    )
                columns.setdefault(column, moved)
            found[place] = replace(found[place], columns=columns)
    return found
