"""One evaluation by one process: what is asked for, resolved against this machine, and embedding what is missing."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastclip.data.shards.manifest import Shard
from fastclip.embed.attempts import Attempts
from fastclip.embed.loop import EmbeddingLoop, StageSeconds
from fastclip.embed.plan import Unit, shares, work_order
from fastclip.embed.processes import Process, find_process
from fastclip.embed.store import PartKeys, PartStore
from fastclip.errors import FastclipError, IncompleteError, UserError
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.targets import Target, find_targets
from fastclip.interrupts import end_with_parent
from fastclip.models.backbones import Backbone, embedding_dim, find_backbone
from fastclip.models.numerics import describe_numerics, find_device, find_precision, fix_numerics
from fastclip.models.tower import ImageTower, load_image_tower
from fastclip.models.weights import Weights, find_weights, random_weights
from fastclip.pixels.decoder import decoder_spec, make_decoder
from fastclip.report.cells import BackboneFacts
from fastclip.text.prompts import PromptSet, find_prompt_set


@dataclass(frozen=True)
class Candidate:
    """A backbone as this run uses it."""

    backbone: Backbone
    weights: Weights
    facts: BackboneFacts
    recipe: Mapping[str, Any]
    """All of its parts' identity but the shard."""
    key: Callable[[Shard], str]
    """The key of its part of a shard."""


class Run:
    """One evaluation by one process: options resolved against this machine, data and weights found."""

    def __init__(self, options: EvalOptions, environment: Mapping[str, str] = os.environ) -> None:
        """Resolve everything that can be wrong before any work is done. Raises `UserError`."""
        self.options = options
        self.process: Process = find_process(environment, options.share)
        self.device = find_device(options.device, self.process.local_rank)
        fix_numerics(self.device)
        self.precision = find_precision(options.precision, self.device, environment)
        on_gpu = self.device.type == "cuda"
        self.decoder = options.decoder or ("dali" if on_gpu else "torchvision")
        self.workers = options.workers or (3 if on_gpu else self.process.cores)
        self.targets = find_targets(options.shards, options.targets)
        self.prompts = _distinct([find_prompt_set(name) for name in options.prompts])
        self.numerics = describe_numerics(self.device)
        self.store = PartStore(options.store)
        self.attempts = Attempts(options.store)
        self.seconds = StageSeconds()
        self._units: list[Unit] = []
        backbones = dict.fromkeys(map(find_backbone, options.backbones))
        given = {find_backbone(name): path for name, path in options.weights.items()}
        if unused := given.keys() - backbones.keys():
            raise UserError(
                f"--weights names {min(b.name for b in unused)}, which is not evaluated.", fix="Add -b NAME."
            )
        self._weights = {backbone: self._find_weights(backbone, given.get(backbone)) for backbone in backbones}
        default = 256 if on_gpu else 32
        self._set_batch_size(options.batch_size or self.store.batch_that_fits(self._memory_identity()) or default)

    def units(self) -> list[Unit]:
        """Every shard of every target, with the keys of its parts."""
        if not self._units:
            self._units = [self.unit(target, shard) for target in self.targets for shard in target.shards]
        return self._units

    def unit(self, target: Target, shard: Shard) -> Unit:
        """A shard of a target with the keys of its parts."""
        return Unit(target.folder, shard, {c.backbone.name: c.key(shard) for c in self.candidates})

    def is_missing(self, unit: Unit) -> bool:
        """Whether a part of the unit is not published yet."""
        return not all(self.store.has(key) for key in unit.keys.values())

    def share_images(self) -> int:
        """Images that this process's own share still owes."""
        share = shares(self.units(), self.process.world_size)[self.process.rank]
        return sum(unit.shard.images for unit in share if self.is_missing(unit))

    def embed(self, on_images: Callable[[int], None] = lambda images: None) -> None:
        """Publish every missing part: this process's share first, then whatever the others have not published yet."""
        while missing := [u for u in self.units() if self.is_missing(u) and not self.attempts.given_up(u)]:
            self._prepare_store(missing)
            too_large = self.batch_size
            try:
                self._embed(missing, on_images)
                break
            except torch.OutOfMemoryError:
                pass  # until here the error holds the frames, and they the tensors
            self._halve_batch(too_large)

    def embed_unit(self, unit: Unit) -> None:
        """Publish the parts of one unit."""
        self._loop([unit]).run([unit])

    def _embed(self, missing: Sequence[Unit], on_images: Callable[[int], None]) -> None:
        loop = self._loop(missing, on_images)
        self.seconds = loop.seconds
        order = work_order(self.units(), self.process.rank, self.process.world_size)
        loop.run(self.attempts.in_good_order(order, self.is_missing))
        for unit in self.attempts.deadly:
            self._embed_alone(unit)

    def _loop(self, missing: Sequence[Unit], on_images: Callable[[int], None] = lambda images: None) -> EmbeddingLoop:
        towers = self._load_towers(missing)
        sides = sorted({tower.side for tower in towers.values()})
        threads = max(1, self.process.cores // self.workers)
        return EmbeddingLoop(
            towers,
            recipes={c.backbone.name: c.recipe for c in self.candidates},
            make_decoder=partial(make_decoder, self.decoder, sides, self.batch_size, self.device, threads),
            store=self.store,
            attempts=self.attempts,
            batch_size=self.batch_size,
            workers=self.workers,
            storage=torch.float32 if self.precision == "fp32" else torch.float16,
            on_images=on_images,
        )

    def _load_towers(self, missing: Sequence[Unit]) -> dict[str, ImageTower]:
        """The towers that any unit owes. On a GPU each has embedded a batch: what does not fit shows here."""
        owed = [c for c in self.candidates if any(not self.store.has(unit.keys[c.backbone.name]) for unit in missing)]
        towers = {c.backbone.name: load_image_tower(c.backbone, c.weights, self.precision, self.device) for c in owed}
        if self.device.type == "cuda":
            for tower in towers.values():
                tower(torch.zeros(self.batch_size, 3, tower.side, tower.side, dtype=torch.uint8, device=self.device))
        return towers

    def _embed_alone(self, unit: Unit) -> None:
        """Embed a unit that processes died of in a process of its own. If that dies too, nobody tries it again."""
        if not self.is_missing(unit):
            return
        child = multiprocessing.get_context("spawn").Process(target=_embed_unit, args=(self.options, unit))
        child.start()
        child.join()
        if child.exitcode and child.exitcode > 0:  # it has said why
            raise IncompleteError(
                f"{unit.shard.name} cannot be embedded.", fix="Mend what is said above, then run the same command."
            )
        if child.exitcode and self.is_missing(unit):
            self.attempts.give_up(unit, f"ended by {signal.Signals(-child.exitcode).name}")

    def _prepare_store(self, missing: Sequence[Unit]) -> None:
        """Find a store that cannot take the parts before any model is loaded. Raises `IncompleteError`."""
        dims = {c.backbone.name: embedding_dim(c.backbone) for c in self.candidates}
        owed = [(unit, name) for unit in missing for name, key in unit.keys.items() if not self.store.has(key)]
        number = 4 if self.precision == "fp32" else 2
        size = sum(unit.shard.images * dims[name] * number for unit, name in owed)
        self.store.prepare(len(owed), size, tidy=self.process.reports)

    def _halve_batch(self, too_large: int) -> None:
        """Go on with half as many images a batch, if that is left to fastclip, and remember it for this kind of GPU.

        The batch is part of every key, so embeddings of both sizes never mix.
        """
        torch.cuda.empty_cache()
        if self.options.batch_size or too_large == 1:
            raise UserError(
                f"The memory of {self.device} does not hold a batch of {too_large}.",
                fix=f"--batch-size {too_large // 2}" if too_large > 1 else "Evaluate fewer backbones at a time.",
            )
        self.store.remember_batch(self._memory_identity(), too_large // 2)
        self._set_batch_size(too_large // 2)

    def _memory_identity(self) -> dict[str, Any]:
        """What decides how large a batch may be, as far as it is known."""
        backbones = sorted(backbone.name for backbone in self._weights)
        return {"numerics": self.numerics, "precision": self.precision, "backbones": backbones}

    def _find_weights(self, backbone: Backbone, given: Path | None) -> Weights:
        return random_weights(backbone) if self.options.random_weights else find_weights(backbone, given)

    def _set_batch_size(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._units = []
        spec = decoder_spec(self.decoder, self.device)
        self.candidates = [self._candidate(backbone, weights, spec) for backbone, weights in self._weights.items()]

    def _candidate(self, backbone: Backbone, weights: Weights, decoder: str) -> Candidate:
        facts = BackboneFacts(
            name=backbone.name,
            weights=weights.digest,
            random_weights=weights.random,
            precision=self.precision,
            decoder=decoder,
            batch_size=self.batch_size,
            numerics=self.numerics,
        )
        recipe = {
            "weights": weights.digest,
            "architecture": backbone.architecture,
            "preprocessing": [
                "shorter side bicubic, antialiased; centre crop",
                backbone.side,
                backbone.mean,
                backbone.std,
            ],
            "decoder": decoder,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "numerics": self.numerics,
        }
        return Candidate(backbone, weights, facts, recipe, PartKeys(recipe))


def _embed_unit(options: EvalOptions, unit: Unit) -> None:
    """What a process does that was started for one unit."""
    end_with_parent()
    run = Run(options)
    try:
        run.embed_unit(unit)
    except FastclipError as error:
        raise SystemExit(f"Error: {error}") from None


def _distinct(prompts: Iterable[PromptSet]) -> list[PromptSet]:
    by_name: dict[str, PromptSet] = {}
    for each in prompts:
        if by_name.setdefault(each.name, each) != each:
            raise UserError(f"Two prompt sets are called {each.name!r}.", fix="Rename the file.")
    return list(by_name.values())
