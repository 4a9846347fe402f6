"""The certificate: the promises about numbers, proved on this machine and some of the images.

A small sample of the images becomes a dataset of its own. Real worker processes embed it, in several numbers and one of
them killed, and must write the same bytes; decoders are held against Pillow, precisions against fp32.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fastclip.errors import UserError
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.score import dataset_facts
from fastclip.evaluate.setup import Setup, resolve
from fastclip.results.cells import DatasetFacts
from fastclip.store.recipes import Recipe
from fastclip.temporary import temporary_folder
from fastclip.verify.check import Check
from fastclip.verify.pixels import check_decoders
from fastclip.verify.precisions import check_precisions
from fastclip.verify.same_bytes import check_bytes, store_of
from fastclip.verify.sample import choose_images, sample_options, write_sample
from fastclip.verify.workers import Task, evaluate


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The checks and their outcome, and what they are true of: recipes, which name the machine, and images."""

    recipes: tuple[Recipe, ...]
    """This machine's own, one a backbone."""
    datasets: tuple[DatasetFacts, ...]
    images: int
    unusable: int
    """Images of the sample that do not decode: they are in no shard of it."""
    shards: int
    prompts: tuple[str, ...]
    seconds: float
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if check.holds is False)

    def to_json(self) -> bytes:
        """The record of the certificate."""
        recipes = [{"id": recipe.id, **recipe.to_document()} for recipe in self.recipes]
        document = {**asdict(self), "recipes": recipes, "holds": not self.failed}
        return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def verify(
    options: EvalOptions,
    images: int,
    on_step: Callable[[str], None] = lambda step: None,
    task: Task = evaluate,
) -> Certificate:
    """Check every promise on about `images` images of the targets in `options`. Raises `UserError` before any work.

    It starts processes, which run `task`: a script must call it under `if __name__ == "__main__":`.
    """
    started = time.monotonic()
    with temporary_folder("verify") as folder:
        wanted = _resolve_here(options, folder)
        on_step(f"taking {images} images")
        chosen = choose_images(wanted.targets, images)
        write_sample(chosen, folder)
        sample = sample_options(options, folder, store_of(folder, 1, 1))
        setup = resolve(sample)
        checks = [
            *check_bytes(sample, setup, folder, on_step, task),
            *check_decoders(setup, on_step),
            *check_precisions(sample, on_step),
        ]
    sampled = [unit.shard.images for unit in setup.units]
    return Certificate(
        recipes=tuple(_recipes(wanted)),
        datasets=tuple(dataset_facts(target, options.shards) for target in wanted.targets),
        images=sum(sampled),
        unusable=len(chosen) - sum(sampled),
        shards=len(sampled),
        prompts=tuple(prompts.name for prompts in wanted.prompts),
        seconds=time.monotonic() - started,
        checks=tuple(checks),
    )


def _resolve_here(options: EvalOptions, folder: Path) -> Setup:
    """The setup of `options` with an empty store: whatever the user's own holds, this machine has to embed."""
    if options.recipes:
        raise UserError("verify embeds on this machine and reads no recipe.", fix="Leave out --recipe.")
    setup = resolve(replace(options, store=folder / "empty"))
    if setup.process.world_size > 1:
        raise UserError("verify starts its own processes.", fix="Start it once, without a launcher or --share.")
    return setup


def _recipes(setup: Setup) -> list[Recipe]:
    assert setup.engine, "an empty store has to be embedded"
    return [setup.engine.candidates[name].recipe for name in setup.backbones]
