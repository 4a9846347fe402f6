"""Each stage of an evaluation by itself, and all together: the inner loop, with stand-ins for what is not measured."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
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
from fastclip.embed.store import PartStore, part_identity, part_key
from fastclip.errors import UserError
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.run import Run
from fastclip.evaluate.scoring import score
from fastclip.models.cost import flops
from fastclip.models.tower import Embedded, ImageTower
from fastclip.pixels.decoder import DecodedBatch, Decoder, EncodedImage


@dataclass(frozen=True)
class Bench:
    """How fast this machine is in every stage, and what that means. Rates are images per second."""

    records: tuple[Measurement, ...]
    images: int
    decode: float
    towers: Mapping[str, float]
    """Each by itself, by backbone."""
    together: float
    limit: float
    """What `together` could be: on a GPU the slower of decoding and embedding; on a CPU, whose cores do both, what is
    left when their seconds add up."""
    bounded_by: str
    product_flops: float
    """What matrix products reach, measured."""
    peak_flops: float | None
    """What the data sheet says."""


class _Pixel(ImageTower):
    """In place of a tower: a number of each crop, so that the crop must be there."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, crops: UInt8[Tensor, "batch 3 side side"]) -> Embedded:
        first = crops[:, 0, 0, 0].float()
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

    `scratch` is an empty folder for what is written.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "compiled")  # what is loaded is built, not found
    stages = _Stages(Run(replace(options, store=scratch / "store")), images, rounds, scratch, on_stage)
    return stages.measure()


class _Stages:
    def __init__(self, run: Run, images: int, rounds: int, scratch: Path, on_stage: Callable[[str], object]) -> None:
        self._run = run
        self._rounds = rounds
        self._scratch = scratch
        self._on_stage = on_stage
        self._units = _first_units(run.units(), images)
        self._images = sum(unit.shard.images for unit in self._units)
        self._bytes = sum(unit.shard.bytes for unit in self._units)
        self._settings = {"program": "fastclip bench", **conditions(run)}
        self._records: list[Measurement] = []

    def measure(self) -> Bench:
        run = self._run
        self._on_stage("matrix products")
        product = matrix_product_flops(run.device, run.precision, 1 if run.device.type == "cuda" else run.workers)
        if run.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(run.device)
        peak = peak_flops(torch.cuda.get_device_name(run.device), run.precision) if run.device.type == "cuda" else None
        self._on_stage("loading")
        if len(passes := run.passes(self._units)) > 1:
            names = " ".join(f"-b {c.backbone.name}" for c in passes[0])
            raise UserError(
                f"{len(run.candidates)} backbones do not fit into memory together; eval takes {len(passes)} passes.",
                fix=f"Measure those of one pass: {names}",
            )
        towers, load_s = self._load()
        loop = run.loop(towers)
        self._decoders = _Reused(loop.make_decoder)
        loop = replace(loop, make_decoder=self._decoders)
        pixels = {f"side {side}": _Pixel(side) for side in sorted({tower.side for tower in towers.values()})}
        crops = self._crops(loop)
        for name, tower in towers.items():
            started = time.perf_counter()
            if run.device.type == "cpu":  # on a GPU loading has done so
                tower(crops.crops[tower.side])  # the first batch takes longer
            load_s[name] += time.perf_counter() - started
        decode = self._time("decode", loop, pixels, sides=" ".join(name.split()[1] for name in pixels))
        alone = {}
        for name, tower in towers.items():
            cost = flops(next(c.backbone for c in run.candidates if c.backbone.name == name))
            facts = {"backbone": name, "flops per image": cost, "matrix product flops": round(product)}
            facts["load seconds"] = f"{load_s[name]:.2f}"
            alone[name] = self._time(
                "tower", replace(loop, make_decoder=lambda: _Decoded(crops)), {name: tower}, **facts
            )
        estimate = f"{run.needed_memory(run.candidates) / 2**30:.2f}"
        together = self._time("together", loop, towers, backbone=" ".join(towers), **{"estimated GiB": estimate})
        self._score()
        embed = 1 / sum(1 / rate for rate in alone.values())
        limit = min(decode, embed) if run.device.type == "cuda" else 1 / (1 / decode + 1 / embed)
        bounded_by = "decoding" if decode < embed else "the tower" if len(towers) == 1 else "the towers"
        return Bench(tuple(self._records), self._images, decode, alone, together, limit, bounded_by, product, peak)

    def _load(self) -> tuple[dict[str, ImageTower], dict[str, float]]:
        """The towers, and the seconds that each took, compiling included."""
        towers: dict[str, ImageTower] = {}
        seconds = {}
        for candidate in self._run.candidates:
            started = time.perf_counter()
            towers |= self._run.load_towers([candidate])
            seconds[candidate.backbone.name] = time.perf_counter() - started
        return towers, seconds

    def _crops(self, loop: EmbeddingLoop) -> DecodedBatch:
        """A batch of the first images, decoded."""
        seen: list[DecodedBatch] = []

        class Keeping:
            def __init__(self, decoder: Decoder) -> None:
                self._decoder = decoder

            def decode(self, images: Sequence[EncodedImage]) -> DecodedBatch:
                seen.append(self._decoder.decode(images))
                return seen[-1]

        first = loop.make_decoder
        one = replace(loop, make_decoder=lambda: Keeping(first()))
        sides = {f"side {tower.side}": _Pixel(tower.side) for tower in loop.towers.values()}
        self._once(one, sides, self._units[:1])
        return seen[0]

    def _time(self, what: str, loop: EmbeddingLoop, towers: Mapping[str, ImageTower], **facts: object) -> float:
        """Images per second of whole loops."""
        self._on_stage(" ".join([what, str(facts.get("backbone", ""))]).strip())
        seconds, stages = [], []
        for _ in range(self._rounds):
            started = time.perf_counter()
            stages.append(self._once(loop, towers, self._units))
            seconds.append(time.perf_counter() - started)
        settings = {**self._settings, **facts}
        found = measurement(what, self._images, seconds, settings, _peak_gib(self._run.device))
        self._records.append(found)
        if what == "together":
            for name in ("read", "write"):
                spent = [getattr(each, name) for each in stages]
                size = self._bytes if name == "read" else self._written
                self._records.append(measurement(name, self._images, spent, {**settings, "bytes": size}))
        return found.rate

    def _once(self, loop: EmbeddingLoop, towers: Mapping[str, ImageTower], units: Sequence[Unit]) -> StageSeconds:
        """Run the loop into an empty store."""
        folder = self._scratch / "parts"
        shutil.rmtree(folder, ignore_errors=True)
        recipes = {name: loop.recipes.get(name, {"bench": name}) for name in towers}
        keyed = [
            replace(unit, keys={name: part_key(part_identity(recipes[name], unit.shard)) for name in towers})
            for unit in units
        ]
        gc.collect()
        self._decoders.give_back_all()
        once = replace(
            loop,
            towers=towers,
            recipes=recipes,
            store=PartStore(folder),
            attempts=Attempts(folder),
            seconds=StageSeconds(),
        )
        once.run(keyed)
        if once.failures:
            raise once.failures[0]
        self._written = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        return once.seconds

    def _score(self) -> None:
        """Score what was embedded last."""
        self._on_stage("score")
        run = Run(replace(self._run.options, store=self._scratch / "parts"))
        score(run)  # once for the prototypes
        seconds = []
        for _ in range(self._rounds):
            started = time.perf_counter()
            score(run)
            seconds.append(time.perf_counter() - started)
        settings = {**self._settings, "backbone": " ".join(c.backbone.name for c in run.candidates)}
        settings["prompts"] = " ".join(prompts.name for prompts in run.prompts)
        self._records.append(measurement("score", self._images, seconds, settings))


def _first_units(units: Sequence[Unit], images: int) -> list[Unit]:
    """The first units that hold `images` images, all if there are fewer."""
    taken: list[Unit] = []
    for unit in units:
        if sum(each.shard.images for each in taken) >= images:
            break
        taken.append(unit)
    return taken


def _peak_gib(device: torch.device) -> float:
    """The most memory taken so far: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
