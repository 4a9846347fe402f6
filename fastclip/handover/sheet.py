"""The contact sheet of a search: the pictures that were found, on one page or in one JPEG."""

from __future__ import annotations

import base64
import io
import textwrap
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fastclip import __version__
from fastclip.data.shards.reader import read_records
from fastclip.errors import FastclipError, printable
from fastclip.faults import MachineError
from fastclip.files import digest
from fastclip.handover.search import Hit, Image
from fastclip.report.html.pictures import SIDE, Picture, crop_jpeg, reader_of

MOST = 400
"""Pictures of a sheet: a page of 400 photos has some two megabytes."""
COLUMNS = 8
_CAPTION = 34
"""Pixels below a picture in a JPEG."""
_GAP = 12
_LINE, _CELL_LINE = 130, 16
"""Letters of a line below the pictures, and in the place of one."""
_LONGEST = 300
"""Letters that the widest line may have."""
_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """All that a contact sheet shows."""

    title: str
    notes: Sequence[str]
    like: tuple[Image, Picture] | None
    hits: Sequence[tuple[Hit, Picture]]
    licences: Sequence[str]


def make_sheet(
    title: str, notes: Sequence[str], hits: Sequence[Hit], like: Image | None, crop: int, licences: Mapping[str, str]
) -> Sheet:
    """The sheet of `hits`, whose pictures are the crops that a model with the side `crop` sees."""
    wanted = [*([like] if like else []), *(hit.image for hit in hits)]
    pictures = list(_pictures(wanted, crop))
    shown = dict.fromkeys(each.target.name for each in wanted)
    return Sheet(
        title=title,
        notes=notes,
        like=(like, pictures[0]) if like else None,
        hits=list(zip(hits, pictures[1:] if like else pictures, strict=True)),
        licences=[f"Licence of the images of {name}: {text}" for name in shown if (text := licences[name])],
    )


def _pictures(images: Iterable[Image], crop: int) -> Iterator[Picture]:
    """A picture of each image, or why there is none. Each proves itself by its digest: no tar is hashed."""
    for image in images:
        folder = image.target.folder
        try:
            (record,) = read_records(folder, image.shard, [image.row])
            data = reader_of(folder, image.shard)(record.offset, record.size)
            if digest(data) != record.sha256:
                yield Picture(why="its bytes are not those of its manifest")
                continue
            yield Picture(jpeg=base64.b64encode(crop_jpeg(data, crop)).decode())
        except ValueError as error:
            yield Picture(why=str(error))
        except MachineError:
            raise
        except (FastclipError, OSError):
            yield Picture(why=f"its shard cannot be read: fastclip shards check {printable(folder.name)}")


def render_html(sheet: Sheet) -> bytes:
    """The page: it needs nothing beside it, no network and no script."""
    from fastclip.report.html.page import FOLDER, source_of

    environment = Environment(
        loader=FileSystemLoader([_HERE, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(printable=printable)
    style = (FOLDER / "style.css").read_text("utf-8").strip()
    policy = f"default-src 'none'; img-src data:; style-src '{source_of(style)}'; base-uri 'none'; form-action 'none'"
    template = environment.get_template("sheet.html.j2")
    # The style is not escaped: it is a file of fastclip.
    return template.render(sheet=sheet, policy=policy, css=Markup(style), program=__version__).encode()


def render_jpeg(sheet: Sheet) -> bytes:
    """The pictures in rows, each with its rank, cosine and class, and below them how they were found, and licences."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    cell = SIDE + _GAP, SIDE + _CAPTION
    cells = [(sheet.like[1], "searched for", sheet.like[0].class_name)] if sheet.like else []
    cells += [
        (picture, f"{number}. {hit.cosine:.4f}", hit.image.class_name)
        for number, (hit, picture) in enumerate(sheet.hits, 1)
    ]
    rows = -(-len(cells) // COLUMNS)
    below = [line for text in (*sheet.notes, *sheet.licences) for line in textwrap.wrap(printable(text), _LINE)]
    foot = 16 * len(below) + _GAP
    canvas = Pillow.new("RGB", (COLUMNS * cell[0] + _GAP, 40 + rows * cell[1] + foot), "white")
    draw, small, large = ImageDraw.Draw(canvas), ImageFont.load_default(11), ImageFont.load_default(16)

    def write(x: int, y: int, text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> None:
        text = printable(text)
        if draw.textlength(text[:_LONGEST], font) > width:
            shorter = range(1, _LONGEST)
            place = bisect_right(shorter, width, key=lambda letters: ceil(draw.textlength(f"{text[:letters]}…", font)))
            text = f"{text[:place]}…"
        draw.text((x, y), text, "black", font)

    write(_GAP, 10, sheet.title, canvas.width - 2 * _GAP, large)
    for number, (picture, rank, name) in enumerate(cells):
        x, y = _GAP + number % COLUMNS * cell[0], 40 + number // COLUMNS * cell[1]
        if picture.jpeg:
            canvas.paste(Pillow.open(io.BytesIO(base64.b64decode(picture.jpeg))), (x, y))
        else:
            for line, words in enumerate(textwrap.wrap(f"No picture: {printable(picture.why)}", _CELL_LINE)[:7]):
                write(x, y + 13 * line, words, SIDE, small)
        write(x, y + SIDE + 2, rank, SIDE, small)
        write(x, y + SIDE + 15, name, SIDE, small)
    for number, text in enumerate(below):
        write(_GAP, canvas.height - foot + 16 * number, text, canvas.width - 2 * _GAP, small)
    file = io.BytesIO()
    canvas.save(file, "JPEG", quality=90)
    return file.getvalue()
