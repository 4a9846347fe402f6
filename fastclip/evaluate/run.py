"""One evaluation by one process: what is asked for, resolved against this machine, and embedding what is missing."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from fastclip.data.shards.manifest import Shard
from fastclip.embed.attempts import Attempts
from fastclip.embed.loop import EmbeddingLoop, StageSeconds
from fastclip.embed.plan import Unit, shares, work_order
from fastclip.embed.processes import Process, find_process
from fastclip.embed.store import PartKeys, PartStore
from fastclip.errors import EXIT_INCOMPLETE, GO_ON, FastclipError, IncompleteError, UserError
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.targets import Target, find_targets
from fastclip.machine import SIGNALS, end_with_parent
from fastclip.models.backbones import Backbone, embedding_dim, find_backbone
from fastclip.models.compiled import find_compiler
from fastclip.models.cost import tower_memory
from fastclip.models.numerics import (
    describe_numerics,
    find_device,
    find_precision,
    fix_numerics,
    free_memory,
    free_memory_bytes,
    is_out_of_memory,
)
from fastclip.models.tower import ImageTower, load_image_tower
from fastclip.models.weights import Weights, find_all_weights, random_weights
from fastclip.pixels.decoders import decoder_spec, make_decoder
from fastclip.results.cells import BackboneFacts
from fastclip.text.prompts import PromptSet, find_prompt_set
from fastclip.threads import threads


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
        # DALI's have threads of their own; torchvision's decode on the CPU, and what they hold takes the GPU's room.
        on_a_gpu = 3 if self.decoder == "dali" else min(16, self.process.cores)
        self.workers = options.workers or (on_a_gpu if on_gpu else self.process.cores)
        self.targets = find_targets(options.shards, options.targets)
        self.prompts = _distinct([find_prompt_set(name) for name in options.prompts])
        self.compiled = options.compile_towers == "on"
        self.numerics = describe_numerics(self.device)
        self.kernels = f"{self.numerics}, compiled by {find_compiler(self.device)}" if self.compiled else self.numerics
        self.free_memory = free_memory_bytes(self.device, self.process.local_world_size)
        self.store = PartStore(options.store)
        self.attempts = Attempts(options.store)
        self._gpu = ThreadPoolExecutor(1, "gpu", fix_numerics, (self.device,)) if on_gpu else None
        self.seconds = StageSeconds()
        self.out_of_memory = ""
        self.failures: list[FastclipError] = []
        self._units: list[Unit] = []
        backbones = dict.fromkeys(map(find_backbone, options.backbones))
        given = {find_backbone(name): path for name, path in options.weights.items()}
        if unused := given.keys() - backbones.keys():
            raise UserError(
                f"--weights names {min(b.name for b in unused)}, which is not evaluated.", fix="Add -b NAME."
            )
        self._weights = (
            {backbone: random_weights(backbone) for backbone in backbones}
            if options.random_weights
            else find_all_weights({backbone: given.get(backbone) for backbone in backbones}, self.process.cores)
        )
        default = 256 if on_gpu else 32
        self._set_batch_size(options.batch_size or default)
        self._follow_smaller_batch()

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

    def missing_units(self) -> list[Unit]:
        """The units that have something to be embedded, as far as one listing of the store tells."""
        known, given_up = self.store.list(), self.attempts.all_given_up()
        return [unit for unit in self.units() if not known.issuperset(unit.keys.values()) and unit.id not in given_up]

    def share_images(self) -> int:
        """Images that this process's own share still has to decode, once for each pass."""
        missing = self.missing_units()
        ids = {unit.id for unit in missing}
        share = [u for u in shares(self.units(), self.process.world_size)[self.process.rank] if u.id in ids]
        known = self.store.list()
        return sum(
            unit.shard.images
            for each in self.passes(missing)
            for unit in share
            if any(unit.keys[candidate.backbone.name] not in known for candidate in each)
        )

    def passes(self, missing: Sequence[Unit]) -> list[list[Candidate]]:
        """The candidates that any unit owes, in as few passes over the images as memory allows, mostly one."""
        known = self.store.list()
        owed = [c for c in self.candidates if any(unit.keys[c.backbone.name] not in known for unit in missing)]
        if len(owed) < 2:
            return [owed] if owed else []
        result: list[list[Candidate]] = [[]]
        for candidate in owed:
            # The estimate is one from below.
            if result[-1] and self.needed_memory([*result[-1], candidate]) > 0.8 * self.free_memory:
                result.append([])
            result[-1].append(candidate)
        return result

    def needed_memory(self, candidates: Sequence[Candidate]) -> int:
        """About how many bytes their image towers and crops take together, at work: one tower of a batch computes at a
        time. A GPU computes one batch after the other, and more wait for it than there are workers.
        """
        at_once, waiting = (1, 3 * self.workers) if self._gpu else (self.workers, self.workers)
        memory = [tower_memory(candidate.backbone) for candidate in candidates]
        weights = sum(each.bytes(self.precision, 0, 0) for each in memory)
        working = (each.bytes(self.precision, at_once, self.batch_size) for each in memory)
        crops = waiting * self.batch_size * sum(3 * side**2 for side in {c.backbone.side for c in candidates})
        return (
            weights + crops + max(w - each.bytes(self.precision, 0, 0) for w, each in zip(working, memory, strict=True))
        )

    def embed(self, on_images: Callable[[int], None] = lambda images: None) -> None:
        """Publish every missing part: this process's share first, then whatever the others have not published yet.

        A shard that cannot be read costs the others nothing: why stands in `failures` afterwards.
        """
        tries = 0
        self.seconds = StageSeconds()
        while missing := self.missing_units():
            self._prepare_store(missing)
            try:
                self._embed(missing, on_images)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self.out_of_memory = str(error)
            else:
                if not self._follow_smaller_batch():
                    break
                continue
            # Only here is the error gone, and with it the frames and their tensors.
            tries += 1
            self._make_room(tries)

    def embed_unit(self, unit: Unit) -> None:
        """Publish the parts of one unit. Raises what a shard that cannot be read raises."""
        loop = self.loop(self.load_towers([c for c in self.candidates if not self.store.has(c.key(unit.shard))]))
        loop.run([unit])
        if loop.failures:
            raise loop.failures[0]

    def _embed(self, missing: Sequence[Unit], on_images: Callable[[int], None]) -> None:
        self.failures.clear()
        deadly: dict[str, Unit] = {}
        for number, candidates in enumerate(self.passes(missing)):
            if number:
                free_memory()  # the next towers need the room of those before
            order = work_order(self.units(), self.process.rank, self.process.world_size)
            loop = self.loop(self.load_towers(candidates), self.seconds, on_images)
            loop.run(self._while_batches_fit(order, [c.backbone.name for c in candidates]))
            self.failures += [each for each in loop.failures if str(each) not in map(str, self.failures)]
            deadly |= {unit.id: unit for unit in self.attempts.deadly}
            del loop
        if deadly:
            free_memory()  # for the process that embeds them
        for unit in deadly.values():
            if self.attempts.may_try_alone(unit, self.is_missing) and (error := self._embed_alone(unit)):
                self.failures.append(error)

    def _while_batches_fit(self, order: Iterable[Unit], names: Sequence[str]) -> Iterator[Unit]:
        """The units that owe any of `names`, in good order; none any more once another process found that its memory
        holds a smaller batch.
        """

        def is_missing(unit: Unit) -> bool:
            return not all(self.store.has(unit.keys[name]) for name in names)

        for unit in self.attempts.in_good_order(order, is_missing):
            if self._smaller_batch():
                return
            yield unit

    def loop(
        self,
        towers: Mapping[str, ImageTower],
        seconds: StageSeconds | None = None,
        on_images: Callable[[int], None] = lambda images: None,
    ) -> EmbeddingLoop:
        """The inner loop with `towers` by backbone; what it takes is added to `seconds`."""
        sides = sorted({tower.side for tower in towers.values()})
        decoding_threads = max(1, self.process.cores // self.workers)
        return EmbeddingLoop(
            towers,
            recipes={c.backbone.name: c.recipe for c in self.candidates},
            make_decoder=partial(make_decoder, self.decoder, sides, self.batch_size, self.device, decoding_threads),
            store=self.store,
            attempts=self.attempts,
            batch_size=self.batch_size,
            workers=self.workers,
            storage=torch.float32 if self.precision == "fp32" else torch.float16,
            device=self.device,
            seconds=seconds or StageSeconds(),
            on_images=on_images,
            launch=self._launch,
        )

    def load_towers(self, candidates: Sequence[Candidate]) -> dict[str, ImageTower]:
        """Their towers by backbone. On a GPU, and compiled, each has embedded a batch: what does not fit, or
        cannot be compiled, shows here."""
        load = partial(load_image_tower, precision=self.precision, device=self.device, compiled=self.compiled)
        # What is converted takes a tower's room in 32 bits for a while, on a GPU all of it.
        at_once = min(2, self.process.cores) if self.device.type == "cpu" else 1
        with threads(at_once, "load", fix_numerics, (self.device,)) as pool:
            loaded = pool.map(load, [c.backbone for c in candidates], [c.weights for c in candidates])
            towers = {c.backbone.name: tower for c, tower in zip(candidates, loaded, strict=True)}

        def embed_nothing(tower: ImageTower) -> torch.Tensor:
            shape = self.batch_size, 3, tower.side, tower.side
            return tower(torch.zeros(shape, dtype=torch.uint8, device=self.device)).vectors

        if self.compiled or self._gpu:
            self._launch(lambda: {name: embed_nothing(tower) for name, tower in towers.items()})
        return towers

    def _launch(self, embed: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """`embed()`, on a GPU in the one thread that hands it work: cuDNN chooses its kernels anew in every other."""
        return self._gpu.submit(embed).result() if self._gpu else embed()

    def _embed_alone(self, unit: Unit) -> FastclipError | None:
        """Embed a unit that processes died of in a process of its own. If that dies too, nobody tries it again.

        Returns the error that the process ended with, if it did.
        """
        context = multiprocessing.get_context("spawn")
        errors, their_end = context.Pipe(duplex=False)
        child = context.Process(target=_embed_unit, args=(self.options, unit, their_end))
        self.attempts.begin(unit)  # others keep away from now on, not only when the process is ready
        try:
            child.start()
            their_end.close()
            child.join()
            code = child.exitcode or 0
            if code < 0 and -code not in SIGNALS and self.is_missing(unit):
                self.attempts.give_up(unit, f"ended by {signal.Signals(-code).name}")
        finally:
            child.kill()
            self.attempts.end_all()
        with suppress(EOFError):
            if errors.poll():
                error: FastclipError = errors.recv()
                return error
        if code > 0:
            return IncompleteError(f"{unit.shard.name} was not embedded.", fix=GO_ON)
        return None

    def _prepare_store(self, missing: Sequence[Unit]) -> None:
        """Find a store that cannot take the parts before any model is loaded. Raises `IncompleteError`."""
        dims = {c.backbone.name: embedding_dim(c.backbone) for c in self.candidates}
        known = self.store.list()
        owed = [(unit, name) for unit in missing for name, key in unit.keys.items() if key not in known]
        number = 4 if self.precision == "fp32" else 2
        size = sum(unit.shard.images * dims[name] * number for unit, name in owed)
        self.store.prepare(len(owed), size, tidy=self.process.reports)

    def _make_room(self, tries: int) -> None:
        """Go on after the memory was full: with half as many images a batch, if that is left to fastclip and nothing is
        published with the present number, else once more with the same.

        The batch is part of every key, so embeddings of two sizes never mix. Later runs and other processes follow.
        """
        free_memory()
        known = self.store.list()
        begun = any(key in known for unit in self.units() for key in unit.keys.values())
        if not begun and not self.options.batch_size and self.batch_size > 1:
            self._set_batch_size(self.batch_size // 2)
            for identity in self._memory_identities():
                self.store.remember_batch(identity, self.batch_size)
        elif tries > 1 or self.batch_size == 1 or (self.options.batch_size and not begun):
            raise IncompleteError(
                f"The memory of {self.device} does not hold a batch of {self.batch_size}: {self.out_of_memory[:100]}",
                fix=f"Free it, or --batch-size {max(1, self.batch_size // 2)}, which embeds everything anew.",
            )

    def _smaller_batch(self) -> int | None:
        """A batch smaller than this run's that another process, or an earlier run, found to fit."""
        if self.options.batch_size:
            return None
        found = [self.store.batch_that_fits(identity) for identity in self._memory_identities()]
        smallest = min((images for images in found if images), default=self.batch_size)
        return smallest if smallest < self.batch_size else None

    def _follow_smaller_batch(self) -> bool:
        if smaller := self._smaller_batch():
            self._set_batch_size(smaller)
        return smaller is not None

    def _memory_identities(self) -> list[dict[str, Any]]:
        """What decides how large a batch may be, as far as it is known, for each backbone."""
        return [
            {"numerics": self.kernels, "precision": self.precision, "backbone": backbone.name}
            for backbone in self._weights
        ]

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
            numerics=self.kernels,
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
            "numerics": self.kernels,
        }
        return Candidate(backbone, weights, facts, recipe, PartKeys(recipe))


def _embed_unit(options: EvalOptions, unit: Unit, errors: Connection) -> None:
    """What a process does that was started for one unit."""
    end_with_parent()
    try:
        Run(options).embed_unit(unit)
    except FastclipError as error:
        errors.send(error)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        errors.send(IncompleteError(f"The memory does not hold a batch of {unit.shard.name}: {error}", fix=GO_ON))
        raise SystemExit(EXIT_INCOMPLETE) from None


def _distinct(prompts: Iterable[PromptSet]) -> list[PromptSet]:
    by_name: dict[str, PromptSet] = {}
    for each in prompts:
        if by_name.setdefault(each.name, each) != each:
            raise UserError(f"Two prompt sets are called {each.name!r}.", fix="Rename the file.")
    return list(by_name.values())
