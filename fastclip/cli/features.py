"""`fastclip features`: stored embeddings as files that other programs read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.options import PLACE, SHOW, Targets, takes_stored_options

if TYPE_CHECKING:
    from fastclip.evaluate.options import EvalOptions
    from fastclip.features.export.export import Exported
    from fastclip.features.read import Features


def features(
    options: EvalOptions,
    targets: Targets = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Written are DIR/DATASET/BACKBONE/FORMAT.", **PLACE)
    ] = Path("features"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what was exported there.", **PLACE)] = False,
    format: Annotated[
        str, typer.Option(metavar="NAME", help="parquet, npy, clip-retrieval or transferlearning.", **SHOW)
    ] = "parquet",
    raw: Annotated[
        bool, typer.Option("--raw", help="Vectors as they leave the tower. Default: unit vectors.", **SHOW)
    ] = False,
    digits: Annotated[
        int | None,
        typer.Option(metavar="N", help="transferlearning: digits after the point. Default: all that fp32 has.", **SHOW),
    ] = None,
) -> None:
    """Export stored embeddings: a row an image, with key and label.

    Rows stand in the order of the manifest. Embeds nothing and needs no weights. Unreadable images have no row;
    features.json beside the rows lists them.
    """
    from fastclip.cli.console import err, out
    from fastclip.cli.progress import progress_bar, silence
    from fastclip.errors import printable
    from fastclip.evaluate.setup import resolve
    from fastclip.features.export.export import ExportOptions, check_export_is_free, export, export_folder
    from fastclip.features.read import Features

    form = ExportOptions(format=format, raw=raw, digits=digits)
    with silence.at("reading manifests and store"):
        setup = resolve(replace(options, targets=tuple(targets or ())), only_stored=True)
    if not setup.process.reports:
        return  # of several processes the first one writes
    wanted = [
        Features(target, setup.recipes[target.name, backbone], setup.store)
        for target in setup.targets
        for backbone in setup.backbones
    ]
    folders = [export_folder(output, each, form) for each in wanted]
    for folder in folders:
        check_export_is_free(folder, overwrite=overwrite)
    images = sum(shard.images for each in wanted for shard in each.target.shards)
    with progress_bar(err(), f"exporting ({format})", images) as advance:
        found = [export(each, folder, form, advance) for each, folder in zip(wanted, folders, strict=True)]
    console = out()
    for each, folder, exported in zip(wanted, folders, found, strict=True):
        for line in _lines(each, folder, exported, raw):
            console.print(printable(line))


command = takes_stored_options(features)


def _lines(of: Features, folder: Path, exported: Exported, raw: bool) -> list[str]:
    """The lines that say where an export is, and how many images have no row."""
    from fastclip.cli.console import counted
    from fastclip.models.weights import describe_weights

    kind = "raw vectors" if raw else "unit vectors"
    lines = [
        f"{folder}: {exported.rows:,} {kind} of {of.dim} numbers; recipe {of.recipe.id[:12]}, "
        f"{describe_weights(of.recipe)}, {of.recipe.precision}."
    ]
    if exported.unreadable:
        many = len(exported.unreadable)
        which = f"{counted(many, 'image')} {'is' if many == 1 else 'are'}"
        lines.append(f"{which} unreadable and without a row; {folder}/features.json lists them with the reasons.")
    return lines
