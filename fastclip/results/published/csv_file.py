"""Printed accuracies in a CSV file: a row a number (dataset, domain, backbone, accuracy), or a column a domain."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastclip.data.catalogue import same_name
from fastclip.errors import UserError, printable
from fastclip.faults import steadily
from fastclip.results.cells import ZERO_SHOT
from fastclip.results.published.printed import Printed, candidates, parse_printed

NAMES = ("dataset", "domain", "backbone", "prompts", "head", "images")
AVERAGES = ("avg", "average", "mean", "averageofdomains")
LOOKS = "A table has a line of names, then lines such as RN50,0.7268,0.5123 or officehome,Art,RN50,0.7268."
NOTHING = ("", "-", "–", "—", "n/a", "na")


@dataclass(frozen=True, kw_only=True)
class PrintedRow:
    """One number of a file, and the names that stand beside it; empty for those that do not."""

    line: int
    names: Mapping[str, str]
    """Any of `dataset`, `domain`, `backbone`, `prompts`, `head`; the name of a row is its backbone's."""
    label: str
    """The file's name for the column of backbones."""
    text: str
    printed: Printed
    images: int | None
    counted: int | None
    """Images that the accuracy is a share of, where others are left out; else `images`."""
    right: int | None
    """Right answers, where the file has them beside the accuracy."""

    def candidates(self, images: int) -> tuple[int, int] | None:
        """The least and the greatest number of right answers of `images` that is printed so, and is not denied."""
        found = candidates(self.printed, images)
        if self.right is None or found is None:
            return found
        return (self.right, self.right) if found[0] <= self.right <= found[1] else None


def read_printed(path: Path, percent: bool | None = None) -> list[PrintedRow]:
    """The accuracies in a file, without averages and fitted heads. Raises `UserError` for a cell that is no accuracy.

    `percent` says whether they are percentages; None asks the numbers.
    """
    header, rows = _read(path)
    plain = [same_name(name) for name in header]
    for name in plain:
        if plain.count(name) > 1:
            raise UserError(f"{path} has two columns called {printable(name)}.", fix="Rename one of them.")
    label, values = _columns(plain)
    found = [(line, row, place) for line, row in rows for place in values if not _is_nothing(row, place, plain)]
    if not found:
        raise UserError(f"{path} has no accuracies.", fix=LOOKS)
    _check(path, header, found)
    if percent is None:
        percent = _is_percent(path, [row[place] for _, row, place in found])
    parsed = []
    for line, row, place in found:
        names = _names(header, plain, label, row, place)
        try:
            images, counted, right = (_number(name, plain, row, place) for name in ("images", "counted", "right"))
            printed = parse_printed(row[place], percent=percent)
        except ValueError as error:
            raise UserError(
                f"{path}, line {line}: {printable(str(error))}.",
                fix="Write images as 2427, and accuracies all as 72.68 or all as 0.7268.",
            ) from None
        parsed.append(
            PrintedRow(
                line=line,
                names=names,
                label=header[label] or "row" if label is not None else "backbone",
                text=row[place],
                printed=printed,
                images=images,
                counted=counted or images,
                right=right,
            )
        )
    return parsed


def _columns(plain: Sequence[str]) -> tuple[int | None, list[int]]:
    """The column of the rows' names, where it is not known by its own name, and the columns of accuracies."""
    first = next((place for place, name in enumerate(plain) if name not in (*NAMES, "accuracy")), None)
    named = any(name in plain for name in ("dataset", "domain", "backbone"))
    if "accuracy" in plain:
        return (None if named else first), [plain.index("accuracy")]
    label = None if named else first
    return label, [place for place, name in enumerate(plain) if name not in (*NAMES, *AVERAGES) and place != label]


def _names(
    header: Sequence[str], plain: Sequence[str], label: int | None, row: Sequence[str], place: int
) -> dict[str, str]:
    names = {name: cell for name, cell in zip(plain, row, strict=True) if name in NAMES and name != "images"}
    if label is not None:
        names["backbone"] = row[label]
    if plain[place] != "accuracy":
        names["backbone" if "domain" in names else "domain"] = header[place]
    return names


def _number(name: str, plain: Sequence[str], row: Sequence[str], place: int) -> int | None:
    """The number in the column `name`. Only beside a single accuracy can there be one of counted or right answers."""
    if name not in plain or (name != "images" and plain[place] != "accuracy"):
        return None
    text = row[plain.index(name)]
    if not re.fullmatch("[0-9]{1,12}", text) or (name != "right" and not int(text)):
        raise ValueError(f"{text!r} is no number of {'right answers' if name == 'right' else 'images'}")
    return int(text)


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the rows with the numbers of their lines."""
    try:
        text = steadily(path.read_bytes, path).decode("utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [(reader.line_num, [_text(cell) for cell in row]) for row in reader if any(map(str.strip, row))]
    except FileNotFoundError:
        raise UserError(f"There is no table {path}.", fix=LOOKS) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}.", fix="Save it as CSV, in UTF-8.") from None
    if len(rows) < 2:
        raise UserError(f"{path} holds no table.", fix=LOOKS)
    header = rows[0][1]
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(row)} cells under {len(header)} names.",
                fix="Quote cells that hold the delimiter, and give every line as many cells as the first.",
            )
    return header, rows[1:]


def _text(cell: str) -> str:
    """The text of a cell, without the sign that keeps spreadsheets from taking it for a formula."""
    return re.sub("^'(?=[-=+@])", "", cell.strip())


def _is_nothing(row: Sequence[str], place: int, plain: Sequence[str]) -> bool:
    """Whether the cell is empty, an average, or of a head that was fitted."""
    if row[place].casefold() in NOTHING:
        return True
    names = dict(zip(plain, row, strict=True))
    is_average = "domain" in names and same_name(names["domain"]) in ("", *AVERAGES)
    return is_average or names.get("head", "") not in ("", ZERO_SHOT)


def _check(path: Path, header: Sequence[str], found: Sequence[tuple[int, list[str], int]]) -> None:
    for line, row, place in found:
        try:
            parse_printed(row[place], percent=True)
        except ValueError as error:
            raise UserError(
                f"{path}, line {line}, {printable(header[place])}: {printable(str(error))}.",
                fix="Each number is an accuracy as it is printed, such as 72.68 or 0.7268; leave out what is none.",
            ) from None


def _is_percent(path: Path, texts: Sequence[str]) -> bool:
    signs = {text.endswith("%") for text in texts}
    values = [parse_printed(text, percent=True).value * 100 for text in texts]
    above, below = max(values) > 1, any(0 < value < 1 for value in values)
    if len(signs) > 1 or (signs == {False} and above and below):
        raise UserError(
            f"{path} holds numbers above 1 and below it: percentages or fractions?",
            fix="Write % behind every percentage, or --percent or --fraction where the command has it.",
        )
    return above or signs == {True}
