"""`fastclip search`: the stored images that are nearest to a text, or to one of them."""

from __future__ import annotations

import json as json_format
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastclip.cli.options import SHOW, Json, Targets, takes_one_backbone
from fastclip.errors import UserError

if TYPE_CHECKING:
    from fastclip.evaluate.options import EvalOptions
    from fastclip.handover.material import Material
    from fastclip.handover.query import Like
    from fastclip.handover.search import Found, Image

SCHEMA = "fastclip.search/1"
SHEETS = (".html", ".htm", ".jpg", ".jpeg")
MOST = 10_000
WANTED = {"rich_help_panel": "What is searched for"}


def search(
    options: EvalOptions,
    targets: Targets = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="Images that look like this text.", **WANTED)] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Images like this one: a key, or digits that its SHA-256 begins with.", **WANTED
        ),
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", help="How many, the nearest first.", **SHOW)] = 25,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Their pictures too, as FILE.html or FILE.jpg.", **SHOW)
    ] = None,
    json: Json = None,
) -> None:
    """Find the images that are nearest to a text or to another image.

    Embeds no image. A text needs the backbone's weights, as new prompts do.
    """
    from fastclip.cli.console import err, out
    from fastclip.cli.progress import silence
    from fastclip.handover.material import of_datasets
    from fastclip.handover.query import find_like, text_vector
    from fastclip.handover.search import search as find
    from fastclip.machine import available_cores

    _check(text, like, top, sheet, json)
    with silence.at("reading manifests and store"):
        material = of_datasets(replace(options, targets=tuple(targets or ())))
    if not material.setup.process.reports:
        return  # of several processes the first one answers
    features = list(material.features)
    example: Like | None = None
    if like is not None:
        with silence.at("looking for the image"):
            example = find_like(features, like)
        query, without = example.vector, [example.image, *example.copies]
    else:
        with silence.at("embedding the text"):
            query, without = text_vector(material.setup, features[0].recipe, text or ""), []
    with silence.at("searching"):
        found = find(features, query, top, available_cores(), without=without)
    title = _title(text, example)
    if str(json) != "-":
        _print(title, found, _notes(material, found, example), out())
    if json:
        _write(json, _document(text, example, material, found), err())
    if sheet:
        _write(sheet, _sheet(sheet, title, _notes(material, found, example), found, example, material), err())


command = takes_one_backbone(search)


def _check(text: str | None, like: str | None, top: int, sheet: Path | None, json: Path | None) -> None:
    """Raise `UserError` for options that do not go together, and for a file that cannot be written."""
    from fastclip.destinations import check_place
    from fastclip.handover.sheet import MOST as MOST_PICTURES

    if (text is None) == (like is None):
        raise UserError(
            "Give either a text or an image to search for.", fix='--text "a dog on snow", or --like DOMAIN/00000007'
        )
    if text is not None and not text.strip():
        raise UserError("The text is empty.", fix='--text "a dog on snow"')
    if not 1 <= top <= MOST:
        raise UserError(f"--top {top} is not possible.", fix=f"--top 25 (1 to {MOST:,})")
    if sheet and sheet.suffix.lower() not in SHEETS:
        raise UserError(f"--sheet {sheet} is neither a page nor a picture.", fix="--sheet FILE.html, or FILE.jpg")
    if sheet and top > MOST_PICTURES:
        raise UserError(f"A sheet holds {MOST_PICTURES} pictures, not {top:,}.", fix=f"--top {MOST_PICTURES}")
    for path in filter(None, (sheet, json)):
        if str(path) != "-":
            check_place(path)


def _title(text: str | None, like: Like | None) -> str:
    return f"like {like.image.target.name}/{like.image.record.key}" if like else f'"{text}"'


def _print(title: str, found: Found, notes: Sequence[str], console: Any) -> None:
    from fastclip.errors import printable
    from fastclip.report.style import plain_table, titled

    table = plain_table("rank", "cosine", "domain", "class", "key", left=5)
    for rank, hit in enumerate(found.hits, 1):
        image = hit.image
        table.add_row(f"{rank:4,}", f"{hit.cosine:6.4f}", image.place, image.class_name, image.record.key)
    console.print(titled(title, table))
    for note in notes:
        console.print(printable(note), style="dim")


def _notes(material: Material, found: Found, like: Like | None) -> list[str]:
    """The sentences that say what the cosines are of, and which images are not among the hits."""
    from fastclip.cli.console import counted

    recipe = next(material.features).recipe
    rounding = "" if recipe.precision == "fp32" else "; stored in 16 bits, which moves a cosine by up to 0.0005"
    notes = [
        f"Cosines of {recipe.backbone}, recipe {recipe.id[:12]}{rounding}. Those of another backbone are no yardstick."
    ]
    without = f"; {counted(found.unreadable, 'unreadable one')} left out" if found.unreadable else ""
    notes.append(f"{counted(found.images, 'image')} searched{without}.")
    if like and like.copies:
        shown = ", ".join(f"{each.target.name}/{each.record.key}" for each in like.copies[:5])
        more = f" and {len(like.copies) - 5:,} more" if len(like.copies) > 5 else ""
        notes.append(f"The same bytes as the image itself, and left out: {shown}{more}.")
    return notes


def _document(text: str | None, like: Like | None, material: Material, found: Found) -> bytes:
    recipe = next(material.features).recipe
    document = {
        "schema": SCHEMA,
        "text": text,
        "like": _entry(like.image) if like else None,
        "copies": [_entry(each) for each in like.copies] if like else [],
        "backbone": recipe.backbone,
        "weights": recipe.weights,
        "recipe": recipe.id,
        "images": found.images,
        "unreadable": found.unreadable,
        "hits": [{"rank": rank, "cosine": hit.cosine, **_entry(hit.image)} for rank, hit in enumerate(found.hits, 1)],
    }
    return json_format.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _entry(image: Image) -> dict[str, Any]:
    record = image.record
    return {
        "dataset": image.target.name,
        "domain": image.shard.domain,
        "class": image.class_name,
        "label": record.label,
        "key": record.key,
        "path": record.path,
        "sha256": record.sha256,
    }


def _sheet(path: Path, title: str, notes: Sequence[str], found: Found, like: Like | None, material: Material) -> bytes:
    from fastclip.handover.sheet import make_sheet, render_html, render_jpeg

    crop = next(material.features).recipe.preprocessing.side
    made = make_sheet(title, notes, found.hits, like.image if like else None, crop, material.licences)
    return (render_jpeg if path.suffix.lower() in (".jpg", ".jpeg") else render_html)(made)


def _write(path: Path, data: bytes, messages: Any) -> None:
    from fastclip.cli.console import write_bytes
    from fastclip.files import write_whole

    if str(path) == "-":
        return write_bytes(data)
    write_whole(path, data)
    return messages.print(f"Written: {shlex.quote(str(path))}", soft_wrap=True)
