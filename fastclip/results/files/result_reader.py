"""Reads result files of this version, and of before there were versions, and refuses what cannot be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastclip.errors import IntegrityError, UserError, printable
from fastclip.files import read_file
from fastclip.heads.facts import HeadFacts
from fastclip.results.cells import (
    POLICIES,
    ZERO_SHOT,
    Cell,
    Column,
    DatasetFacts,
    Epoch,
    Evaluation,
    NearTies,
    Patterns,
    PredictionFile,
    UnreadableImage,
    UsedHead,
    UsedPrompts,
    UsedRecipe,
)
from fastclip.results.files.result import RESULT, SCHEMA, result_digest
from fastclip.store.recipes import parse_recipe
from fastclip.store.training import TrainingSet


def read_result(path: Path) -> Evaluation:
    """The result in a file, or in the folder of a run. Raises `UserError` or `IntegrityError` for anything else."""
    file = path / RESULT if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"There is no result {file}.", fix="fastclip eval writes one and says where.")
    data = read_file(file)
    return parse_result(data, str(file))


def parse_result(data: bytes, name: str) -> Evaluation:
    """The evaluation in a result file's bytes. Raises `UserError` or `IntegrityError`, which call it `name`."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{name} is torn, or no JSON: {error}.", fix="Write it again, by the command that made it."
        ) from None
    if not isinstance(document, dict):
        raise UserError(f"{name} is no result of fastclip.", fix="fastclip eval writes one and says where.")
    schema = document.get("schema")
    if (schema is None and "cells" not in document) or (schema is not None and not str(schema).startswith("fastclip.")):
        raise UserError(f"{name} is no result of fastclip.", fix="fastclip eval writes one and says where.")
    if schema not in (None, SCHEMA):
        raise UserError(
            f"{name} is a {printable(str(schema))}; this version of fastclip reads {SCHEMA}.",
            fix="Install the version of fastclip that wrote it, or give a result.",
        )
    try:
        if schema and document["digest"] != result_digest(document):
            raise ValueError("its digest does not match its contents")
        evaluation = _parse(document)
        _check(evaluation)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        problem = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise IntegrityError(
            f"{name} is a damaged result: {printable(problem)}.", fix="Write it again, by the command that made it."
        ) from None
    return evaluation


def _parse(document: Mapping[str, Any]) -> Evaluation:
    """A document of version 1, or of before: names were a mapping, and a prompt set was a list of templates."""
    return Evaluation(
        unreadable_policy=document["unreadable_policy"],
        datasets=tuple(map(_parse_dataset, document["datasets"])),
        recipes=tuple(
            UsedRecipe(
                dataset=row["dataset"], backbone=row["backbone"], id=row["id"], recipe=parse_recipe(row["recipe"])
            )
            for row in document["recipes"]
        ),
        prompts={name: _parse_prompts(each) for name, each in document["prompts"].items()},
        cells=tuple(_known(Cell, row) for row in document["cells"]),
        unreadable=tuple(_known(UnreadableImage, row) for row in document["unreadable"]),
        heads=tuple(map(_parse_head, document.get("heads", ()))),
        patterns=tuple(
            Patterns(
                dataset=row["dataset"],
                domain=row["domain"],
                columns=tuple(map(_column, row["columns"])),
                counts={str(bits): _count(images) for bits, images in row["counts"].items()},
            )
            for row in document.get("patterns", ())
        ),
        near_ties=tuple(
            NearTies(
                dataset=row["dataset"],
                domain=row["domain"],
                column=_column(row),
                epsilon=float(row["epsilon"]),
                could_gain=_count(row["could_gain"]),
                could_lose=_count(row["could_lose"]),
            )
            for row in document.get("near_ties", ())
        ),
        predictions=_known(PredictionFile, document["predictions"]) if document.get("predictions") else None,
        program=str(document.get("fastclip", "0.1.0")),
    )


def _known(kind: Any, row: Mapping[str, Any]) -> Any:
    """A record of the fields of `row` that this version knows. Raises `TypeError` if one is missing."""
    values = {field.name: row[field.name] for field in fields(kind) if field.name in row}
    record = kind(**values)
    for field in fields(kind):
        wanted = {"str": str, "int": int}.get(str(field.type))
        if wanted and type(getattr(record, field.name)) is not wanted:
            raise ValueError(f"a {field.name} is no {field.type}")
    return record


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of images")
    return value


def _column(row: Mapping[str, Any]) -> Column:
    return Column(str(row["backbone"]), str(row["head"]), str(row["prompts"]))


def _parse_dataset(row: Mapping[str, Any]) -> DatasetFacts:
    names = row["names"]
    if not isinstance(names, Mapping):
        names = dict(zip(row["classes"], names, strict=True))
    return DatasetFacts(
        name=row["name"],
        title=row["title"],
        variant=row["variant"],
        protocol=row["protocol"],
        manifest_sha256=row["manifest_sha256"],
        names={str(folder): str(name) for folder, name in names.items()},
        fingerprints=dict(row["fingerprints"]),
        has_variants=bool(row["has_variants"]),
        licence=row.get("licence", ""),
        hub_id=row.get("hub_id"),
        duplicates=dict(row.get("duplicates", {})),
    )


def _parse_prompts(value: Any) -> UsedPrompts:
    if isinstance(value, Sequence):
        return UsedPrompts(templates=tuple(map(str, value)))
    if not isinstance(value.get("selection"), Mapping | None):
        raise ValueError("the selection of a prompt set is no list of facts")
    return UsedPrompts(
        kind=str(value["kind"]),
        templates=tuple(map(str, value.get("templates") or ())),
        selection=value.get("selection"),
        texts=_count(value.get("texts", 0)),
        sha256=str(value.get("sha256", "")),
    )


def _parse_head(row: Mapping[str, Any]) -> UsedHead:
    facts = dict(row["facts"])
    known = {field.name for field in fields(HeadFacts)}
    values = {name: value for name, value in facts.items() if name in known}
    values |= {"templates": tuple(facts["templates"]), "classes": tuple(facts["classes"])}
    values |= {"training": tuple(_known(TrainingSet, each) for each in facts["training"])}
    return UsedHead(
        name=row["name"],
        dataset=row["dataset"],
        domains=tuple(row["domains"]),
        sha256=row["sha256"],
        facts=HeadFacts(**{**values, "recipe": parse_recipe(facts["recipe"])}),
        transductive=bool(row["transductive"]),
        epochs=tuple(map(_parse_epoch, row.get("epochs", ()))),
    )


def _parse_epoch(row: Mapping[str, Any]) -> Epoch:
    epoch: Epoch = _known(Epoch, row)
    if epoch.loss is not None and (type(epoch.loss) is not float or not math.isfinite(epoch.loss)):
        raise ValueError(f"the loss of epoch {epoch.number} is no number")
    if not 0 <= epoch.right <= epoch.images or epoch.number < 0:
        raise ValueError(f"the counts of epoch {epoch.number} do not add up")
    return epoch


def _check(evaluation: Evaluation) -> None:
    """Raise `ValueError` for counts that cannot be, and for rows about things that the result does not describe."""
    if evaluation.unreadable_policy not in POLICIES:
        raise ValueError(f"there is no policy {evaluation.unreadable_policy!r}")
    domains = {each.name: each.fingerprints for each in evaluation.datasets}
    seen: dict[tuple[str, str, Column], Cell] = {}
    for cell in evaluation.cells:
        place = f"{cell.dataset}/{cell.domain}, {cell.backbone}, {cell.column.way}"
        counts = (cell.images, cell.classified, cell.top1, cell.top5, cell.unreadable, cell.shards, cell.missing_shards)
        if min(counts) < 0 or not cell.top1 <= cell.top5 <= cell.classified <= cell.images - cell.unreadable:
            raise ValueError(f"the counts of {place} do not add up")
        if not cell.missing_shards and cell.classified + cell.unreadable != cell.images:
            raise ValueError(f"the counts of {place} do not add up")
        if cell.domain not in domains.get(cell.dataset, ()):
            raise ValueError(f"{cell.dataset}/{cell.domain} is not described")
        if cell.head == ZERO_SHOT and cell.prompts not in evaluation.prompts:
            raise ValueError(f"the prompt set {cell.prompts!r} is not described")
        if (cell.dataset, cell.domain, cell.column) in seen:
            raise ValueError(f"{place} stands twice")
        seen[cell.dataset, cell.domain, cell.column] = cell
    for each in evaluation.patterns:
        if any((each.dataset, each.domain, column) not in seen for column in each.columns):
            raise ValueError(f"patterns of {each.dataset}/{each.domain} name a cell that is not there")
        if any(len(bits) != len(each.columns) or set(bits) - {"0", "1"} for bits in each.counts):
            raise ValueError(f"patterns of {each.dataset}/{each.domain} are no bits")
        if any(not _fits(seen[each.dataset, each.domain, column], each, evaluation) for column in each.columns):
            raise ValueError(f"patterns of {each.dataset}/{each.domain} count otherwise than its cells")
    for head in evaluation.heads:
        if [each.number for each in head.epochs] != sorted({each.number for each in head.epochs}):
            raise ValueError(f"the epochs of {head.name} are not in order")
    for near in evaluation.near_ties:
        of_it = seen.get((near.dataset, near.domain, near.column))
        if not of_it or near.could_lose > of_it.top1 or near.could_gain > of_it.classified - of_it.top1:
            raise ValueError(f"near ties of {near.dataset}/{near.domain} do not fit its cells")


def _fits(cell: Cell, patterns: Patterns, evaluation: Evaluation) -> bool:
    """Whether patterns can be about the images of a cell: all of them, or those that every column classified."""
    images, right = patterns.images, patterns.right(cell.column)
    if evaluation.unreadable_policy == "wrong":
        return (images, right) == (cell.images, cell.top1)
    return images <= cell.classified and right <= cell.top1 <= right + cell.classified - images
