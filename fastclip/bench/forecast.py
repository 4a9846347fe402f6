"""An estimate of what an evaluation costs: work counted from the manifest, times taken from measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastclip.bench.records import Measurement, conditions
from fastclip.embed.plan import Unit
from fastclip.evaluate.embedding import missing_units
from fastclip.evaluate.engine import Engine
from fastclip.evaluate.setup import Setup
from fastclip.models.backbones import embedding_dim
from fastclip.models.cost import flops


@dataclass(frozen=True)
class BackboneForecast:
    """The work that one backbone has left, and the speed of its tower on this machine."""

    name: str
    missing_shards: int
    missing_images: int
    flops_per_image: int
    written_bytes: int
    rate: float | None
    """Images per second; None if no tower was measured."""
    measured: bool
    """Whether the rate is this tower's own; else it follows from its operations and those of the slowest one that was
    measured."""
    compiling_pays_from: float | None
    """Images from which `--compile on` saves a process time here, the building included: infinite if it never does,
    None if it was not measured both ways."""


@dataclass(frozen=True)
class Forecast:
    """The work that is left, and its time."""

    backbones: tuple[BackboneForecast, ...]
    read_bytes: int
    """By all passes together."""
    passes: int
    needed_memory: int
    decode_rate: float | None
    bounded_by: str
    unit_seconds: tuple[float, ...]
    """Of each missing unit on this machine; none where something was not measured, or nothing is left."""

    @property
    def flops(self) -> int:
        """Of all images by all towers."""
        return sum(each.missing_images * each.flops_per_image for each in self.backbones)

    @property
    def parts(self) -> int:
        """Files to be written."""
        return sum(each.missing_shards for each in self.backbones)

    @property
    def written_bytes(self) -> int:
        """Of all parts, without what a file system adds."""
        return sum(each.written_bytes for each in self.backbones)

    def seconds(self, processes: int) -> float:
        """Seconds that so many processes take, each with a machine like this one for itself.

        They help each other, so that all end at about the same time, but a unit is never cut.
        """
        return max(sum(self.unit_seconds) / processes, *self.unit_seconds)


def forecast(setup: Setup, records: Sequence[Measurement]) -> Forecast:
    """The work that `setup` has left, timed by the `records` of `fastclip bench` on this kind of machine.

    The latest record counts. Needs a setup with an engine.
    """
    engine = setup.engine
    assert engine, "a setup without an engine has nothing to embed"
    owed = _owed(setup)
    names = [name for name in engine.candidates if any(name in each for _, each in owed)]
    usable = _like(records, conditions(engine))
    towers = _towers(usable)
    backbones = tuple(
        _backbone(engine, name, [unit for unit, each in owed if name in each], towers, records)
        for name in engine.candidates
    )
    decode = next((each.rate for each in reversed(usable) if each.what == "decode"), None)
    passes = engine.passes(names)
    rates = {each.name: each.rate for each in backbones if each.rate}
    seconds: tuple[float, ...] = ()
    embed_s = decode_s = 0.0
    if decode and rates.keys() >= set(names):
        decode_s = sum(unit.shard.images for unit, _ in owed) * len(passes) / decode
        embed_s = sum(unit.shard.images / rates[name] for unit, each in owed for name in each)
        seconds = tuple(_seconds(engine, unit.shard.images, each, rates, decode / len(passes)) for unit, each in owed)
    return Forecast(
        backbones,
        read_bytes=sum(unit.shard.bytes for unit, _ in owed) * len(passes),
        passes=len(passes),
        needed_memory=max((engine.needed_memory(each) for each in passes), default=0),
        decode_rate=decode,
        bounded_by="embedding" if embed_s > decode_s else "decoding",
        unit_seconds=seconds,
    )


def _owed(setup: Setup) -> list[tuple[Unit, list[str]]]:
    """The missing units, and the backbones that each of them owes."""
    known = {each: setup.store.parts(each) for each in {recipe.id for recipe in setup.recipes.values()}}
    return [
        (unit, [name for name, recipe in unit.recipes.items() if unit.part not in known[recipe.id]])
        for unit in missing_units(setup)
    ]


def _like(records: Sequence[Measurement], wanted: Mapping[str, str]) -> list[Measurement]:
    """The records of these conditions."""
    return [each for each in records if wanted.items() <= each.settings.items()]


def _towers(records: Sequence[Measurement]) -> dict[str, Measurement]:
    """The latest record of each tower."""
    return {each.settings["backbone"]: each for each in records if each.what == "tower"}


def _pays_from(engine: Engine, name: str, records: Sequence[Measurement]) -> float | None:
    """Images that it takes until a compiled tower has caught up with a plain one."""
    plain, compiled = (
        _towers(_like(records, {**conditions(engine), "compile": each})).get(name) for each in ("off", "on")
    )
    if plain is None or compiled is None:
        return None
    longer_s = float(compiled.settings["load seconds"]) - float(plain.settings["load seconds"])
    saved_s = 1 / plain.rate - 1 / compiled.rate
    return max(0.0, longer_s / saved_s) if saved_s > 0 else math.inf


def _backbone(
    engine: Engine,
    name: str,
    missing: Sequence[Unit],
    towers: Mapping[str, Measurement],
    records: Sequence[Measurement],
) -> BackboneForecast:
    backbone = engine.candidates[name].backbone
    images = sum(unit.shard.images for unit in missing)
    cost = flops(backbone)
    own = towers.get(name)
    # The slowest that was measured, in operations a second: rather too long than too short.
    others = [int(each.settings["flops per image"]) * each.rate for each in towers.values()]
    rate = own.rate if own else min(others) / cost if others else None
    written = images * embedding_dim(backbone) * (4 if engine.precision == "fp32" else 2)
    pays_from = _pays_from(engine, name, records)
    return BackboneForecast(name, len(missing), images, cost, written, rate, own is not None, pays_from)


def _seconds(engine: Engine, images: int, owed: Sequence[str], rates: Mapping[str, float], decode: float) -> float:
    """Seconds of one unit on this machine: on a GPU the longer of decoding and embedding, on a CPU both."""
    decode_s, embed_s = images / decode, sum(images / rates[name] for name in owed)
    return max(decode_s, embed_s) if engine.on_gpu else decode_s + embed_s
