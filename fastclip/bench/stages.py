"""Each stage of an evaluation by itself, and all together: the inner loop, with stand-ins for what is not measured."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from fastclip.bench.devices import matrix_product_flops, peak_flops
from fastclip.bench.records import Measurement, conditions, measurement
from fastclip.embed.attempts import Attempts
from fastclip.embed.loop import EmbeddingLoop, StageSeconds
from fastclip.embed.plan import Unit
from fastclip.errors import UserError
from fastclip.evaluate.embedding import Launch, launching, load_towers, make_loop
from fastclip.evaluate.engine import Engine
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.score import score
from fastclip.evaluate.setup import Setup, resolve
from fastclip.models.cost import flops
from fastclip.models.numerics import fixed_numerics
from fastclip.models.tower import Embedded, ImageTower
from fastclip.pixels.decoder import DecodedBatch, Decoder, EncodedImage
from fastclip.store.store import Store


@dataclass(frozen=True)
class Bench:
    """The speed of this machine in every stage, and which one bounds. Rates are images per second."""

    records: tuple[Measurement, ...]
    images: int
    decode: float
    towers: Mapping[str, float]
    """Each by itself, by backbone."""
    together: float
    limit: float
    """The most that `together` could be: on a GPU the slower of decoding and embedding; on a CPU, whose cores do both,
    what is left when their seconds add up."""
    bounded_by: str
    product_flops: float
    """Operations per second of matrix products, measured."""
    peak_flops: float | None
    """Operations per second in the data sheet."""


class _Pixel(ImageTower):
    """In place of a tower: a number of each crop, so that the crop must be there."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, crops: UInt8[Tensor, "batch 3 side side"]) -> Embedded:
        first = crops[:, 0, 0, 0].float() + 1  # a norm of 0, by a black pixel, is refused
        return Embedded(first[:, None], first)


class _Decoded:
    """In place of a decoder: crops that are there already."""

    def __init__(self, batch: DecodedBatch) -> None:
        self._crops = batch.crops

    def decode(self, images: Sequence[EncodedImage]) -> DecodedBatch:
        return DecodedBatch(self._crops, [])


class _Reused:
    """The decoders of one loop after the other: on a GPU it takes about as long to make them as a round."""

    def __init__(self, make: Callable[[], Decoder]) -> None:
        self._make = make
        self._made: list[Decoder] = []
        self._idle: list[Decoder] = []

    def give_back_all(self) -> None:
        self._idle = list(self._made)

    def __call__(self) -> Decoder:
        try:
            return self._idle.pop()
        except IndexError:
            self._made.append(decoder := self._make())
            return decoder


def bench(
    options: EvalOptions, images: int, rounds: int, scratch: Path, on_stage: Callable[[str], object] = lambda name: None
) -> Bench:
    """Measure every stage on the first shards that hold `images` images, `rounds` times; the median counts.

    `scratch` is an empty folder for embeddings. Raises `UserError` for backbones that memory does not hold together.
    """
    if options.recipes:
        raise UserError("bench embeds anew and reads no recipe.", fix="Leave out --recipe.")
    setup = _first_shards(resolve(replace(options, here=True, store=scratch / "store")), images)
    engine = setup.engine
    assert engine, "nothing is embedded yet, so that this machine must"
    if len(passes := engine.passes(list(engine.candidates))) > 1:
        raise UserError(
            f"{len(engine.candidates)} backbones do not fit into memory together; eval takes {len(passes)} passes.",
            fix="Measure those of one pass: " + " ".join(f"-b {candidate.name}" for candidate in passes[0]),
        )
    with _empty_compiler_cache(scratch / "compiled"), fixed_numerics(engine.device), launching(engine) as launch:
        return _Stages(setup, engine, launch, rounds, scratch / "parts", on_stage).measure()


class _Stages:
    def __init__(
        self,
        setup: Setup,
        engine: Engine,
        launch: Launch,
        rounds: int,
        folder: Path,
        on_stage: Callable[[str], object],
    ) -> None:
        self._setup, self._engine, self._launch = setup, engine, launch
        self._rounds, self._folder, self._on_stage = rounds, folder, on_stage
        self._images = sum(unit.shard.images for unit in setup.units)
        self._settings = {"program": "fastclip bench", **conditions(engine)}
        self._records: list[Measurement] = []

    def measure(self) -> Bench:
        engine = self._engine
        self._on_stage("matrix products")
        product = matrix_product_flops(engine.device, engine.precision, 1 if engine.on_gpu else engine.workers)
        peak = None
        if engine.on_gpu:
            torch.cuda.reset_peak_memory_stats(engine.device)
            peak = peak_flops(torch.cuda.get_device_name(engine.device), engine.precision)
        self._on_stage("loading")
        towers, load_s = self._load()
        loop = make_loop(self._setup, engine, towers, Attempts(self._folder), self._launch)
        self._decoders = _Reused(loop.make_decoder)
        loop = replace(loop, make_decoder=self._decoders)
        pixels = {f"side {side}": _Pixel(side) for side in sorted({tower.side for tower in towers.values()})}
        crops = self._crops(loop, pixels)
        for name, tower in towers.items() if not engine.on_gpu else ():
            started = time.perf_counter()
            tower(crops.crops[tower.side])  # the first batch takes longer; on a GPU loading embedded one
            load_s[name] += time.perf_counter() - started
        decode = self._time("decode", loop, pixels, sides=" ".join(name.split()[1] for name in pixels))
        alone = {}
        for name, tower in towers.items():
            facts = {
                "backbone": name,
                "flops per image": flops(engine.candidates[name].backbone),
                "matrix product flops": round(product),
                "load seconds": f"{load_s[name]:.2f}",
            }
            decoded = replace(loop, make_decoder=lambda: _Decoded(crops))
            alone[name] = self._time("tower", decoded, {name: tower}, **facts)
        estimate = f"{engine.needed_memory(engine.candidates.values()) / 2**30:.2f}"
        together = self._time("together", loop, towers, backbone=" ".join(towers), **{"estimated GiB": estimate})
        self._score()
        embed = 1 / sum(1 / rate for rate in alone.values())
        limit = min(decode, embed) if engine.on_gpu else 1 / (1 / decode + 1 / embed)
        bounded_by = "decoding" if decode < embed else "the tower" if len(towers) == 1 else "the towers"
        return Bench(tuple(self._records), self._images, decode, alone, together, limit, bounded_by, product, peak)

    def _load(self) -> tuple[dict[str, ImageTower], dict[str, float]]:
        """The towers, and the seconds that each took, compiling included."""
        towers: dict[str, ImageTower] = {}
        seconds = {}
        for candidate in self._engine.candidates.values():
            started = time.perf_counter()
            towers |= load_towers(self._engine, [candidate], self._launch)
            seconds[candidate.name] = time.perf_counter() - started
        return towers, seconds

    def _crops(self, loop: EmbeddingLoop, pixels: Mapping[str, ImageTower]) -> DecodedBatch:
        """A batch of the first images, decoded."""
        seen: list[DecodedBatch] = []

        class Keeping:
            def __init__(self, decoder: Decoder) -> None:
                self._decoder = decoder

            def decode(self, images: Sequence[EncodedImage]) -> DecodedBatch:
                seen.append(self._decoder.decode(images))
                return seen[-1]

        make = loop.make_decoder
        self._once(replace(loop, make_decoder=lambda: Keeping(make())), pixels, self._setup.units[:1])
        return seen[0]

    def _time(self, what: str, loop: EmbeddingLoop, towers: Mapping[str, ImageTower], **facts: object) -> float:
        """Images per second of whole loops."""
        self._on_stage(" ".join([what, str(facts.get("backbone", ""))]).strip())
        seconds, stages = [], []
        for _ in range(self._rounds):
            started = time.perf_counter()
            stages.append(self._once(loop, towers, self._setup.units))
            seconds.append(time.perf_counter() - started)
        settings = {**self._settings, **facts}
        found = measurement(what, self._images, seconds, settings, peak_gib(self._engine.device))
        self._records.append(found)
        if what == "together":
            read = sum(unit.shard.bytes for unit in self._setup.units)
            written = sum(path.stat().st_size for path in self._folder.rglob("*.safetensors"))
            for name, size in (("read", read), ("write", written)):
                spent = [getattr(each, name) for each in stages]
                self._records.append(measurement(name, self._images, spent, {**settings, "bytes": size}))
        return found.rate

    def _once(self, loop: EmbeddingLoop, towers: Mapping[str, ImageTower], units: Sequence[Unit]) -> StageSeconds:
        """Run the loop into an empty store; a stand-in embeds under a recipe of its own name."""
        shutil.rmtree(self._folder, ignore_errors=True)
        known = {name: candidate.recipe for name, candidate in self._engine.candidates.items()}
        some = next(iter(known.values()))
        recipes = {name: known.get(name) or replace(some, backbone=name) for name in towers}
        gc.collect()
        self._decoders.give_back_all()
        store, attempts = Store(self._folder), Attempts(self._folder)
        once = replace(loop, towers=towers, store=store, attempts=attempts, seconds=StageSeconds())
        try:
            once.run(replace(unit, recipes=recipes) for unit in units)
        finally:
            attempts.end_all(closed=True)  # its thread would touch files, and so make this folder again
        if once.failures:
            raise once.failures[0]
        return once.seconds

    def _score(self) -> None:
        """Score the embeddings that were made last."""
        self._on_stage("score")
        setup = replace(self._setup, store=Store(self._folder))
        score(setup)  # once for the prototypes
        seconds = []
        for _ in range(self._rounds):
            started = time.perf_counter()
            score(setup)
            seconds.append(time.perf_counter() - started)
        settings = {**self._settings, "backbone": " ".join(setup.backbones)}
        settings["prompts"] = " ".join(prompts.name for prompts in setup.prompts)
        self._records.append(measurement("score", self._images, seconds, settings))


def _first_shards(setup: Setup, images: int) -> Setup:
    """`setup` with the first shards only that hold `images` images; with all if there are fewer."""
    units: list[Unit] = []
    for unit in setup.units:
        if sum(each.shard.images for each in units) >= images:
            break
        units.append(unit)
    taken = {(unit.folder.name, unit.shard) for unit in units}
    targets = []
    for target in setup.targets:
        shards = tuple(shard for shard in target.shards if (target.name, shard) in taken)
        if shards:
            targets.append(replace(target, manifest=replace(target.manifest, shards=shards)))
    return replace(setup, targets=tuple(targets), units=tuple(units))


@contextmanager
def _empty_compiler_cache(folder: Path) -> Iterator[None]:
    """Within the block torch's compiler builds everything anew, so that building it is measured."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        if before is not None:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def peak_gib(device: torch.device) -> float:
    """The most memory taken so far: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
