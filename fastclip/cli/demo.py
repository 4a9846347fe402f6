"""`fastclip demo`: from drawn images to a table of accuracies and a page, without a network or a GPU."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastclip.cli.results import DEFAULT, find_places

if TYPE_CHECKING:
    from fastclip.evaluate.options import EvalOptions

IMAGES_PER_CLASS = 17

HELD_OUT = "shapes/outline"
"""A domain that `tiny` was trained without."""


def command(
    shards: Annotated[Path, typer.Option(metavar="DIR", help="Folder of all sharded datasets.")] = Path("shards"),
    store: Annotated[Path, typer.Option(metavar="DIR", help="Folder of embeddings, shared by all runs.")] = Path(
        "embeddings"
    ),
    probe: Annotated[bool, typer.Option("--probe", help="Then train heads, and adapt from domain to domain.")] = False,
) -> None:
    """Draw a small dataset, evaluate a tiny CLIP on it, print the table, write a page.

    Needs less than a minute, no network and no GPU. The images are shapes in four domains; there are three prompt sets.
    """
    from fastclip.cli.console import err, out
    from fastclip.cli.evaluate import embed_and_score, end
    from fastclip.evaluate.options import EvalOptions

    if not (shards / "shapes" / "manifest.json").exists():
        _draw_and_shard(shards)
    prompts = ("transferlearning", "photo", "openai80")
    options = EvalOptions(targets=("shapes",), backbones=("tiny",), prompts=prompts, shards=shards, store=store)
    messages = err()
    places = find_places("eval", messages, DEFAULT, None, None)
    evaluation = embed_and_score(options, places, messages)
    if not evaluation:
        return
    end(evaluation)
    if probe:
        _probe_and_adapt(options)
    if places.folder:
        _write_page(places.place_of(evaluation), shards)
    out().print(_next_steps(), soft_wrap=True)


def _write_page(run: Path, shards: Path) -> None:
    from fastclip.cli import report
    from fastclip.cli.console import out

    page = run / "report.html"
    report.command([run], html=page, shards=str(shards))
    console = out()
    console.print("\nThe run as a page, with plots, confusions and wrong images. Open it in a browser:")
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    console.print(f"  {opener} {shlex.quote(str(page))}", soft_wrap=True)


def _probe_and_adapt(options: EvalOptions) -> None:
    """A head trained on three domains and tested on the one that `tiny` never saw; then adaptation to that one."""
    from dataclasses import replace

    from fastclip.cli.adapt import adapt
    from fastclip.cli.probe import probe

    options = replace(options, targets=(), prompts=())
    train = ["shapes/flat", "shapes/night", "shapes/texture"]
    _print_command(f"fastclip probe {' '.join(train)} --test {HELD_OUT} -b tiny")
    probe(options, train=train, test=[HELD_OUT])
    _print_command(f"fastclip adapt {train[0]} --to {HELD_OUT} -b tiny --method coral --method prior")
    adapt(options, source=train[:1], to=[HELD_OUT], method=["coral", "prior"])


def _print_command(words: str) -> None:
    from fastclip.cli.console import out

    out().print(f"\n$ {words}\n", soft_wrap=True, markup=False)


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
