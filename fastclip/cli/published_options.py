"""The options of `fastclip reproduce`: those of `eval` that leave a result comparable with the published table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.options import (
    MODEL,
    BatchSize,
    Compile,
    Decoder,
    Device,
    Here,
    Precision,
    Recipes,
    Shards,
    eval_options,
)
from fastclip.errors import UserError, printable

if TYPE_CHECKING:
    from fastclip.evaluate.options import EvalOptions
    from fastclip.results.published.table import PublishedTable


def published_options(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATASET[/DOMAIN]", help="Default: all published datasets that are sharded."),
    ] = None,
    backbones: Annotated[
        list[str] | None,
        typer.Option(
            "-b", "--backbone", metavar="NAME", help="Of OpenAI's nine. Repeatable. Default: all nine.", **MODEL
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights", metavar="[BACKBONE=]FILE", help="OpenAI's archive at another place. Repeatable.", **MODEL
        ),
    ] = None,
    precision: Precision = None,
    decoder: Decoder = None,
    batch_size: BatchSize = None,
    compile_towers: Compile = None,
    recipes: Recipes = None,
    here: Here = False,
    device: Device = None,
    shards: Shards = "shards",
) -> EvalOptions:
    """The options of `eval` without those that have no published number. Raises `UserError`."""
    return eval_options(
        targets, backbones, False, weights, False, precision, decoder, batch_size, compile_towers, recipes, here,
        device, shards,
    )  # fmt: skip


def as_published(options: EvalOptions, table: PublishedTable) -> EvalOptions:
    """The options with the published datasets, backbones and prompts. Raises `UserError` for others."""
    from fastclip.models.backbones import OPENAI_BACKBONES, known_backbone

    names = []
    for name in options.backbones or OPENAI_BACKBONES:
        backbone = known_backbone(name)
        if backbone is None or backbone.name not in OPENAI_BACKBONES:
            raise UserError(
                f"The published table has no {printable(name)}.", fix=f"Choose from {', '.join(OPENAI_BACKBONES)}."
            )
        names.append(backbone.name)
    return replace(options, targets=_targets(options, table), backbones=tuple(names), prompts=("transferlearning",))


def _targets(options: EvalOptions, table: PublishedTable) -> tuple[str, ...]:
    """The targets that are asked for, or all sharded datasets of the table. Raises `UserError` for others."""
    from fastclip.data.shards.manifest import list_datasets
    from fastclip.storage.folders import open_folder

    for target in options.targets:
        if target.partition("/")[0] not in table.datasets:
            raise UserError(
                f"The published table has no {printable(target)}.", fix=f"Choose from {', '.join(table.datasets)}."
            )
    if options.targets:
        return options.targets
    found = tuple(name for name in list_datasets(open_folder(options.shards)) if name in table.datasets)
    if not found:
        raise UserError(
            f"{options.shards} holds none of the published datasets ({', '.join(table.datasets)}).",
            fix="fastclip download NAME, then fastclip shard NAME --source DIR",
        )
    return found
