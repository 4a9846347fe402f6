"""The table that a result is compared with: the published one, another result, or a CSV file."""

from __future__ import annotations

from pathlib import Path

from fastclip.data.catalogue import find_card, same_name
from fastclip.errors import UserError, printable
from fastclip.models.backbones import known_backbone
from fastclip.results.cells import ZERO_SHOT, Evaluation
from fastclip.results.files.result_reader import read_result
from fastclip.results.published.csv_file import PrintedRow, read_printed
from fastclip.results.published.embedded import published_table
from fastclip.results.published.printed import Printed
from fastclip.results.published.table import PublishedCell, PublishedTable

PUBLISHED = "published"
OF_COUNTS = 4
"""Decimals at which an accuracy is shown whose counts are known."""


def find_table(name: str) -> PublishedTable:
    """The table called `published`, or the one in a file: a result, its folder, or CSV. Raises `UserError`."""
    path = Path(name)
    if name == PUBLISHED:
        return published_table()
    if path.suffix.lower() in (".csv", ".tsv"):
        return read_table(path)
    return table_of_result(read_result(path), name)


def table_of_result(result: Evaluation, name: str) -> PublishedTable:
    """The zero-shot cells of a result as a table: with its counts, so that nothing is left to rounding."""
    numbers = [
        (cell, accuracy)
        for cell in result.cells
        if cell.head == ZERO_SHOT and (accuracy := cell.accuracy(result.unreadable_policy)) is not None
    ]
    cells = [
        PublishedCell(
            dataset=cell.dataset,
            domain=cell.domain,
            backbone=cell.backbone,
            prompts=cell.prompts,
            printed=Printed(accuracy, OF_COUNTS),
            right=cell.top1,
            images=cell.images,
        )
        for cell, accuracy in numbers
    ]
    return PublishedTable(source=name, cells=tuple(cells), result=result)


def read_table(path: Path) -> PublishedTable:
    """The table in a CSV file with the columns dataset, domain, backbone, accuracy, perhaps prompts, images, right."""
    cells: dict[tuple[str, str, str, str], PublishedCell] = {}
    for row in read_printed(path):
        cell = _cell(path, row)
        key = (cell.dataset, cell.domain, cell.backbone, cell.prompts)
        if key in cells:
            raise UserError(
                f"{path}, line {row.line}: a second number for {printable(', '.join(filter(None, key)))}.",
                fix="Leave out one of the two, or tell them apart by a column prompts.",
            )
        cells[key] = cell
    return PublishedTable(source=str(path), cells=tuple(cells.values()))


def _cell(path: Path, row: PrintedRow) -> PublishedCell:
    for name in ("dataset", "domain", "backbone"):
        if not row.names.get(name):
            raise UserError(
                f"{path}, line {row.line}: the accuracy has no {name}.",
                fix="A table to compare with has the columns dataset,domain,backbone,accuracy.",
            )
    if row.right is not None and row.counted and not row.candidates(row.counted):
        raise UserError(
            f"{path}, line {row.line}: {printable(row.text)} is not {row.right:,} of {row.counted:,} images.",
            fix=f"fastclip grim {path} shows every such line.",
        )
    dataset, domain, backbone = (row.names[name] for name in ("dataset", "domain", "backbone"))
    card = find_card(dataset) if dataset.isprintable() and "/" not in dataset else None
    known = known_backbone(backbone)
    return PublishedCell(
        dataset=dataset,
        domain=card.domain_of.get(same_name(domain), domain) if card else domain,
        backbone=known.name if known else backbone,
        prompts=row.names.get("prompts", ""),
        printed=row.printed,
        right=row.right if row.counted else None,
        images=row.images,
    )
