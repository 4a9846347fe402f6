"""How this process embeds: device, precision, decoder, batches, and for each backbone its weights and its recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from fastclip.embed.processes import Process
from fastclip.errors import UserError
from fastclip.evaluate.options import EvalOptions
from fastclip.models.backbones import Backbone, find_backbone
from fastclip.models.compiled import find_compiler
from fastclip.models.cost import tower_memory
from fastclip.models.numerics import (
    NUMERICS_VERSION,
    default_batch_size,
    describe_libraries,
    describe_machine,
    find_device,
    find_precision,
    find_switches,
    free_memory_bytes,
)
from fastclip.models.weights import Weights, find_weights, random_weights
from fastclip.pixels.decoders import decoder_spec
from fastclip.store.recipes import Preprocessing, Recipe

RESIZE = "shorter side bicubic, antialiased; centre crop"


@dataclass(frozen=True)
class Candidate:
    """A backbone as this process embeds with it."""

    backbone: Backbone
    weights: Weights
    recipe: Recipe

    @property
    def name(self) -> str:
        """The backbone's name."""
        return self.backbone.name


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The machine of this process as far as it embeds. `free_memory` in bytes, when the engine was looked for."""

    device: torch.device
    precision: str
    decoder: str
    compiled: bool
    batch_size: int
    workers: int
    """Threads that decode and embed."""
    cores: int
    free_memory: int
    candidates: Mapping[str, Candidate]
    """By backbone."""

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU embeds."""
        return self.device.type == "cuda"

    def needed_memory(self, candidates: Iterable[Candidate]) -> int:
        """About how many bytes the image towers of `candidates` and their crops take together, at work.

        One tower of a batch computes at a time. A GPU computes one batch after the other, and more batches wait for it
        than there are workers.
        """
        chosen = list(candidates)
        at_once, waiting = (1, 3 * self.workers) if self.on_gpu else (self.workers, self.workers)
        memory = [tower_memory(candidate.backbone) for candidate in chosen]
        weights = [each.bytes(self.precision, 0, 0) for each in memory]
        working = [each.bytes(self.precision, at_once, self.batch_size) for each in memory]
        crops = waiting * self.batch_size * sum(3 * side**2 for side in {c.backbone.side for c in chosen})
        return sum(weights) + crops + max((w - idle for w, idle in zip(working, weights, strict=True)), default=0)

    def passes(self, names: Sequence[str]) -> list[list[Candidate]]:
        """The backbones called `names` in as few passes over the images as memory allows, mostly one."""
        result: list[list[Candidate]] = []
        for candidate in (self.candidates[name] for name in names):
            # The estimate is one from below.
            if result and self.needed_memory([*result[-1], candidate]) <= 0.8 * self.free_memory:
                result[-1].append(candidate)
            else:
                result.append([candidate])
        return result


def find_engine(
    options: EvalOptions,
    process: Process,
    backbones: Mapping[str, tuple[Backbone, Weights]],
    precision: str | None,
) -> Engine:
    """The engine of this process for `backbones`, by name, with their weights. Raises `UserError`.

    `precision` is the one asked for, by the user or by Accelerate.
    """
    device = find_device(options.device, process.local_rank)
    precision = find_precision(precision, device)
    on_gpu = device.type == "cuda"
    decoder = options.decoder or ("dali" if on_gpu else "torchvision")
    # DALI's have threads of their own; torchvision's decode on the CPU, and what they hold takes the GPU's room.
    on_a_gpu = 3 if decoder == "dali" else min(16, process.cores)
    compiled = options.compile_towers == "on"
    batch_size = options.batch_size or default_batch_size(device)
    candidates = {}
    for name, (backbone, weights) in backbones.items():
        recipe = Recipe(
            backbone=name,
            architecture=backbone.architecture,
            weights=weights.digest,
            preprocessing=Preprocessing(resize=RESIZE, side=backbone.side, mean=backbone.mean, std=backbone.std),
            decoder=decoder_spec(decoder, device),
            precision=precision,
            batch_size=batch_size,
            engine=f"compiled by {find_compiler(device)}" if compiled else "eager",
            libraries=describe_libraries(),
            machine=describe_machine(device),
            switches=find_switches(),
            numerics=NUMERICS_VERSION,
            training=weights.training,
        )
        candidates[name] = Candidate(backbone, weights, recipe)
    return Engine(
        device=device,
        precision=precision,
        decoder=decoder,
        compiled=compiled,
        batch_size=batch_size,
        workers=options.workers or (on_a_gpu if on_gpu else process.cores),
        cores=process.cores,
        free_memory=free_memory_bytes(device, process.local_world_size),
        candidates=candidates,
    )


def find_text_weights(recipe: Recipe, engine: Engine | None, given: Weights | None) -> tuple[Backbone, Weights]:
    """The backbone of a recipe and the weights that its prototypes need: those of the embeddings, and no others.

    Raises `UserError` if they are not on this machine.
    """
    candidate = engine.candidates.get(recipe.backbone) if engine else None
    if candidate and candidate.weights.digest == recipe.weights:
        return candidate.backbone, candidate.weights
    backbone = find_backbone(recipe.backbone)
    if recipe.random_weights:
        return backbone, random_weights(backbone)
    found = given or find_weights(backbone, None)
    if found.digest != recipe.weights:
        raise UserError(
            f"The embeddings of {recipe.backbone} were made with weights {recipe.weights[:12]}; {found.path} is "
            f"{found.digest[:12]}.",
            fix="--weights FILE with the weights of the embeddings, or --here to embed with those of this machine",
        )
    return backbone, found
