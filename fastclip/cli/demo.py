"""`fastclip demo`: the whole way from drawn images to a table, without a network or a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

IMAGES_PER_CLASS = 17


def command(
    shards: Annotated[Path, typer.Option(metavar="DIR", help="Folder of all sharded datasets.")] = Path("shards"),
    store: Annotated[Path, typer.Option(metavar="DIR", help="Folder of embeddings, shared by all runs.")] = Path(
        "embeddings"
    ),
) -> None:
    """Draw four domains of shapes, shard them, score the tiny CLIP under three prompt sets. Under a minute."""
    from rich.console import Console

    from fastclip.cli.evaluate import evaluate_and_print
    from fastclip.evaluate.options import EvalOptions

    console = Console(highlight=False, markup=False, emoji=False)
    if not (shards / "shapes" / "manifest.json").exists():
        _draw_and_shard(shards)
    prompts = ("transferlearning", "photo", "openai80")
    options = EvalOptions(targets=("shapes",), backbones=("tiny",), prompts=prompts, shards=shards, store=store)
    if code := evaluate_and_print(options):
        raise typer.Exit(code)
    console.print(_next_steps(), soft_wrap=True)


def _draw_and_shard(shards: Path) -> None:
    import tempfile

    from rich.console import Console

    from fastclip.cli import shard
    from fastclip.data.shapes import CLASSES, DOMAINS, SCORED_SEED, draw_shapes
    from fastclip.data.shards.writer import WriteOptions

    with tempfile.TemporaryDirectory(prefix="fastclip-") as folder:
        total = len(DOMAINS) * len(CLASSES) * IMAGES_PER_CLASS
        with Console(stderr=True).status(f"drawing {total} images: {len(CLASSES)} shapes in {len(DOMAINS)} domains"):
            draw_shapes(Path(folder), seed=SCORED_SEED, images_per_class=IMAGES_PER_CLASS)
        shard.write_and_print("shapes", Path(folder), str(shards), WriteOptions(shard_images=100))


def _next_steps() -> str:
    return """\

Next, the same with your own images, DIR/DOMAIN/CLASS/IMAGE or DIR/CLASS/IMAGE:
  fastclip shard NAME --source DIR
  fastclip eval NAME -b ViT-B/32 --prompts photo
or in several processes, with all nine of OpenAI's backbones:
  accelerate launch --config_file launch/two_cpu_processes.yaml \\
    -m fastclip eval NAME --all-backbones"""
