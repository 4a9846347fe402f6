"""The options that several commands take: what is evaluated, and what its numbers depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastclip.errors import UserError

MODEL = {"rich_help_panel": "What the numbers depend on"}
PLACE = {"rich_help_panel": "Where and how fast"}
SHOW = {"rich_help_panel": "Results"}

Targets = Annotated[
    list[str] | None, typer.Argument(metavar="[DATASET[/DOMAIN]]…", help="Default: all that is sharded.")
]
Backbones = Annotated[
    list[str] | None,
    typer.Option("-b", "--backbone", metavar="NAME", help="ViT-B/32, tiny, or ARCH/PRETRAINED. Repeatable.", **MODEL),
]
AllBackbones = Annotated[bool, typer.Option("--all-backbones", help="OpenAI's nine.", **MODEL)]
WeightsFiles = Annotated[
    list[str] | None, typer.Option("--weights", metavar="[BACKBONE=]FILE", help="From a file. Repeatable.", **MODEL)
]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Benchmarks only: the speed of a model, not its answers.", **MODEL)
]
Precision = Annotated[
    str | None, typer.Option(metavar="NAME", help="fp32, bf16 or fp16. Default: this machine's fast one.", **MODEL)
]
Decoder = Annotated[
    str | None, typer.Option(metavar="NAME", help="torchvision (default on a CPU) or dali (on a GPU).", **MODEL)
]
BatchSize = Annotated[
    int | None, typer.Option(metavar="N", help="Images a forward pass. Default: 32, on a GPU 256.", **MODEL)
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu or cuda. Default: the GPU where there is one.", **PLACE)
]
Shards = Annotated[
    str,
    typer.Option(
        metavar="DIR", help="Folder of all sharded datasets; may be https://, s3://, gs:// or hf://.", **PLACE
    ),
]
Store = Annotated[Path, typer.Option(metavar="DIR", help="Folder of embeddings, shared by all runs.", **PLACE)]


def backbone_names(all_backbones: bool, backbones: list[str] | None) -> tuple[str, ...]:
    """What --all-backbones and -b ask for together."""
    from fastclip.models.backbones import OPENAI_BACKBONES

    return (*(OPENAI_BACKBONES if all_backbones else ()), *(backbones or ()))


def weights_by_backbone(given: list[str] | None, backbones: tuple[str, ...]) -> dict[str, Path]:
    """`BACKBONE=FILE` pairs; a bare FILE belongs to the only backbone."""
    weights = {}
    for text in given or ():
        name, equals, file = text.partition("=")
        if equals and not Path(text).exists():
            weights[name] = Path(file)
        elif len(backbones) == 1:
            weights[backbones[0]] = Path(text)
        else:
            fix = f"--weights ViT-B/32={text}"
            raise UserError(f"--weights {text} does not say which backbone it is for.", fix=fix)
    return weights
