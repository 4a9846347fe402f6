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

NEW, NEW_SEED, NEW_IMAGES_PER_CLASS = "shapes-new", 3, 100
"""Images that `--finetune` trains on: of another seed than those that are scored, and that `tiny` was trained on."""

HELD_OUT = "shapes/outline"
"""A domain that `tiny` was trained without."""


def command(
    shards: Annotated[Path, typer.Option(metavar="DIR", help="Folder of all sharded datasets.")] = Path("shards"),
    store: Annotated[Path, typer.Option(metavar="DIR", help="Folder of embeddings, shared by all runs.")] = Path(
        "embeddings"
    ),
    probe: Annotated[bool, typer.Option("--probe", help="Then train heads, and adapt from domain to domain.")] = False,
    finetune: Annotated[
        bool,
        typer.Option("--finetune", help="Then fine-tune on new images of the domain that is hardest, and WiSE-FT."),
    ] = False,
) -> None:
    """Draw a small dataset, score a tiny CLIP on it, write a page.

    Needs less than a minute, no network and no GPU. The images are shapes in four domains; there are three prompt sets.
    """
    from fastclip.cli.console import err, out
    from fastclip.cli.evaluate import embed_and_score, end
    from fastclip.evaluate.options import EvalOptions

    if not (shards / "shapes" / "manifest.json").exists():
        _draw_and_shard(shards, "shapes", IMAGES_PER_CLASS)
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
    if finetune:
        _finetune(options)
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


def _finetune(options: EvalOptions) -> None:
    """The backbone trained on new images of the domain that it never saw, and tested on all four.

    Then WiSE-FT: its weights on the way from the old ones.
    """
    from dataclasses import replace

    from fastclip.cli.console import err
    from fastclip.cli.finetune import train_and_score
    from fastclip.cli.wise import wise
    from fastclip.finetune.options import FinetuneOptions
    from fastclip.finetune.training_recipes import find_training_recipe

    shards = Path(options.shards)
    if not (shards / NEW / "manifest.json").exists():
        _draw_and_shard(shards, NEW, NEW_IMAGES_PER_CLASS, NEW_SEED, HELD_OUT.split("/")[1])
    words = [NEW, "--test", "shapes", "-b", "tiny", "--lr", "1e-4", "--epochs", "4", "--batch-size", "16"]
    _print_command(f"fastclip finetune {' '.join(words)}")
    recipe = find_training_recipe("ce").changed(learning_rate=1e-4, epochs=4, batch_size=16)
    options = replace(options, targets=(), prompts=("transferlearning",))
    kept = find_places("finetune", err(), DEFAULT, None, None)
    (tuned,) = train_and_score(options, FinetuneOptions(recipe=recipe), [NEW], ["shapes"], kept)
    _print_command(f"fastclip wise {tuned.weights.parent} --alpha 0:1:0.25 --test shapes")
    wise(options, str(tuned.weights.parent), alpha="0:1:0.25", test=["shapes"])


def _print_command(words: str) -> None:
    from fastclip.cli.console import out

    out().print(f"\n$ {words}\n", soft_wrap=True, markup=False)


def _draw_and_shard(
    shards: Path, name: str, images_per_class: int, seed: int | None = None, domain: str | None = None
) -> None:
    """Draw a dataset: by default all domains, and the images that are scored."""
    from fastclip.cli import shard
    from fastclip.cli.console import counted, err
    from fastclip.cli.progress import waiting
    from fastclip.data.shapes import CLASSES, DOMAINS, SCORED_SEED, draw_shapes
    from fastclip.data.shards.writer import WriteOptions
    from fastclip.temporary import temporary_folder

    domains = [domain] if domain else DOMAINS
    seed = SCORED_SEED if seed is None else seed
    total = len(domains) * len(CLASSES) * images_per_class
    with temporary_folder("demo") as folder:
        in_domains = counted(len(domains), "domain")
        with waiting(err(), f"drawing {total} images: {len(CLASSES)} shapes in {in_domains}"):
            draw_shapes(folder, seed=seed, images_per_class=images_per_class, domains=domains)
        shard.write_and_print(name, folder, str(shards), WriteOptions(shard_images=100))


def _next_steps() -> str:
    return """\

Next, use your own images (DIR/DOMAIN/CLASS/IMAGE or DIR/CLASS/IMAGE):
  fastclip shard NAME --source DIR
  fastclip eval NAME -b ViT-B/32 --prompts photo
Or use several processes and all nine of OpenAI's backbones:
  accelerate launch --config_file launch/two_cpu_processes.yaml \\
    -m fastclip eval NAME --all-backbones"""
