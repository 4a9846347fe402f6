"""`fastclip export`: images with their embeddings, answers and thumbnails, as files that viewers open."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.options import PLACE, SHOW, takes_one_backbone
from fastclip.errors import UserError

if TYPE_CHECKING:
    from fastclip.evaluate.options import EvalOptions
    from fastclip.handover.facts import HandedOver
    from fastclip.handover.form import Form
    from fastclip.handover.material import Material


def export(
    options: EvalOptions,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RESULT|DATASET[/DOMAIN]", help="A run, whose answers go along; or datasets. Default: all sharded."
        ),
    ] = None,
    viewer: Annotated[
        str, typer.Option("--for", metavar="VIEWER", help="atlas (Embedding Atlas), spotlight or fiftyone.", **SHOW)
    ] = "atlas",
    thumbnails: Annotated[
        str, typer.Option(metavar="SIDE|off", help="Pixels of a thumbnail's side, or none.", **SHOW)
    ] = "96",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="The folder. Default: export/NAME/BACKBONE/VIEWER.",
            show_default=False,
            **PLACE,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what was exported there.", **PLACE)] = False,
) -> None:
    """Export images, embeddings and answers for a viewer.

    Embeddings become a map, and each image a thumbnail; of a run, every answer goes along.
    Embeds nothing and needs no weights. Prints the command that opens the files.
    """
    from fastclip.cli.console import err, out
    from fastclip.cli.progress import progress_bar, silence
    from fastclip.errors import in_bytes, printable
    from fastclip.handover.folder import check_is_free, check_room
    from fastclip.handover.forecast import forecast_bytes
    from fastclip.handover.form import Form, parse_side
    from fastclip.handover.write import hand_over
    from fastclip.machine import available_cores

    form = Form(viewer=viewer, side=parse_side(thumbnails))
    with silence.at("reading manifests and store"):
        material = _material(options, what or [])
    if not material.setup.process.reports:
        return  # of several processes the first one writes
    folder = output or _default_folder(material, form)
    check_is_free(folder, overwrite=overwrite)
    with silence.at("forecasting the size"):
        needed = forecast_bytes(material, form)
    check_room(folder, needed)
    messages, console = err(), out()
    messages.print(f"{material.images:,} images will take about {in_bytes(needed)}.", soft_wrap=True)
    with progress_bar(messages, f"exporting for {viewer}", 2 * material.images) as advance:
        done = hand_over(material, folder, form, available_cores(), advance)
    for line in _lines(material, folder, done):
        console.print(printable(line))
    console.print("Open it:")
    console.print(opening(folder, form), soft_wrap=True)


command = takes_one_backbone(export)


def _material(options: EvalOptions, words: Sequence[str]) -> Material:
    from fastclip.handover.material import is_result, of_datasets, of_result

    results = [word for word in words if is_result(word)]
    if not results:
        return of_datasets(replace(options, targets=tuple(words)))
    if len(words) > 1:
        raise UserError(
            "One run is exported, or datasets without answers.", fix=f"fastclip export {shlex.quote(results[0])}"
        )
    return of_result(Path(results[0]), options)


def _default_folder(material: Material, form: Form) -> Path:
    from fastclip.features.export.rows import file_name

    return Path("export") / file_name(material.name) / file_name(material.backbone) / form.viewer


def _lines(material: Material, folder: Path, done: HandedOver) -> list[str]:
    """The lines that say what was exported, and which images are not there."""
    from fastclip.cli.console import counted

    recipes = dict.fromkeys(each.recipe.id[:12] for each in material.features)
    answers = ""
    if material.answers:
        columns = {column for each in material.answers.domains.values() for column in each.columns}
        answers = f", answers of {counted(len(columns), 'column')}"
    lines = [f"{folder}: {counted(done.rows, 'image')} by {material.backbone}, recipe {', '.join(recipes)}{answers}."]
    for found, what in (
        (done.unreadable, "unreadable and without a row"),
        (done.without_thumbnail, "without thumbnail"),
    ):
        if found:
            first = found[0]
            are = "is" if len(found) == 1 else "are"
            lines.append(
                f"{counted(len(found), 'image')} {are} {what}: {first.dataset}/{first.domain}: {first.path} "
                f"({first.reason}){' …' if len(found) > 1 else ''}; {folder}/items.json lists all."
            )
    return lines


def opening(folder: Path, form: Form) -> str:
    """The command that opens a hand-over: absolute, since a mistyped path may be taken for a name on a hub."""
    from fastclip.handover.folder import ITEMS, SCRIPT

    items = shlex.quote(str((folder / ITEMS).absolute()))
    if form.viewer == "fiftyone":
        script = shlex.quote(str((folder / SCRIPT).absolute()))
        return f"uvx --from fiftyone --with pyarrow python {script}"
    if form.viewer == "spotlight":
        thumb = " --dtype thumb=Image" if form.side else ""
        return f"uvx --from renumics-spotlight spotlight {items}{thumb} --dtype embedding=Embedding"
    image = " --image thumb" if form.side else ""
    return f'uvx "embedding-atlas==0.26.*" {items}{image} --vector embedding --x x --y y --text class'
