"""`fastclip demo`: from drawn images to a table of accuracies, without a network or a GPU."""

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
    """Draw a small dataset, evaluate a tiny CLIP on it, print the table.

    Needs less than a minute, no network and no GPU. The images are shapes in four domains; there are three prompt sets.
    """
    from fastclip.cli.console import out
    from fastclip.cli.evaluate import evaluate
    from fastclip.evaluate.options import EvalOptions

    if not (shards / "shapes" / "manifest.json").exists():
        _draw_and_shard(shards)
    options = EvalOptions(targets=("shapes",), backbones=("tiny",), shards=shards)
    evaluate(options, prompts=["transferlearning", "photo", "openai80"], store=store)
    out().print(_next_steps(), soft_wrap=True)


def _draw_and_shard(shards: Path) -> None:
    import tempfile

    from fastclip.cli import shard
    from fastclip.cli.console import err
    from fastclip.cli.progress import waiting
    from fastclip.data.shapes import CLASSES, DOMAINS, SCORED_SEED, draw_shapes
    from fastclip.data.shards.writer import WriteOptions

    total = len(DOMAINS) * len(CLASSES) * IMAGES_PER_CLASS
    with tempfile.TemporaryDirectory(prefix="fastclip-") as folder:
        with waiting(err(), f"drawing {total} images: {len(CLASSES)} shapes in {len(DOMAINS)} domains"):
            draw_shapes(Path(folder), seed=SCORED_SEED, images_per_class=IMAGES_PER_CLASS)
        shard.write_and_print("shapes", Path(folder), str(shards), WriteOptions(shard_images=100))


def _next_steps() -> str:
    return """\

Next, use your own images (DIR/DOMAIN/CLASS/IMAGE or DIR/CLASS/IMAGE):
  fastclip shard NAME --source DIR
  fastclip eval NAME -b ViT-B/32 --prompts photo
Or use several processes and all nine of OpenAI's backbones:
  accelerate launch --config_file launch/two_cpu_processes.yaml \\
    -m fastclip eval NAME --all-backbones"""
