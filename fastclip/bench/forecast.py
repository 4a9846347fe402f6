"""What an evaluation will cost, before anything is embedded: counted from the manifest, timed by what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastclip.bench.records import Measurement, conditions
from fastclip.embed.plan import Unit
from fastclip.evaluate.run import Candidate, Run
from fastclip.models.backbones import embedding_dim
from fastclip.models.cost import flops

WORLD_SIZES = (1, 8, 64, 1000)


@dataclass(frozen=True)
class BackboneForecast:
    """What one backbone still owes, and how fast its tower is on this machine: images per second, None if unknown."""

    name: str
    shards: int
    missing_shards: int
    missing_images: int
    flops_per_image: int
    written_bytes: int
    rate: float | None
    measured: bool
    """Whether the rate is this tower's own; else it is reckoned from its operations and those of one that was."""
    compiling_pays_from: float | None
    """Images from which on `--compile on` takes a process less time here, the building included; infinite if it never
    does, None if it was not measured both ways."""


@dataclass(frozen=True)
class Share:
    """What so many processes, each like this one, take for all, and what they ask of storage meanwhile."""

    processes: int
    seconds: float
    read_bytes_per_second: float
    parts_per_second: float


@dataclass(frozen=True)
class Forecast:
    """The work that is left, and its time."""

    backbones: tuple[BackboneForecast, ...]
    read_bytes: int
    passes: int
    decode_rate: float | None
    needed_memory: int
    free_memory: int
    bounded_by: str
    shares: tuple[Share, ...]
    """Of `WORLD_SIZES` those faster than a smaller one; none where nothing was measured, or is left."""

    @property
    def flops(self) -> int:
        """Of all images by all towers."""
        return sum(each.missing_images * each.flops_per_image for each in self.backbones)

    @property
    def written_bytes(self) -> int:
        """Of all parts, without what a file system adds."""
        return sum(each.written_bytes for each in self.backbones)


def forecast(run: Run, records: Sequence[Measurement]) -> Forecast:
    """What `run` would embed, timed by the `records` of `fastclip bench` on this kind of machine; the latest count."""
    known = run.store.list()
    missing = run.missing_units()
    usable = [each for each in records if conditions(run).items() <= each.settings.items()]
    towers = _towers(usable)
    decode = next((each.rate for each in reversed(usable) if each.what == "decode"), None)
    like = [{**conditions(run), "compile": compiled}.items() for compiled in ("off", "on")]
    plain, compiled = (_towers([each for each in records if same <= each.settings.items()]) for same in like)
    backbones = tuple(
        _backbone(run, c, known, towers, _pays_from(plain.get(c.backbone.name), compiled.get(c.backbone.name)))
        for c in run.candidates
    )
    passes = run.passes(missing)
    timed = {each.name: each.rate for each in backbones if each.rate}
    found: list[Share] = []
    if decode and missing and all(each.rate or not each.missing_images for each in backbones):
        per_unit = [_seconds(run, unit, known, timed, decode, len(passes)) for unit in missing]
        parts = sum(each.missing_shards for each in backbones)
        found = [_share(missing, parts, per_unit, number) for number in WORLD_SIZES]
        found = [each for i, each in enumerate(found) if not i or each.seconds < found[i - 1].seconds]
    embed_s = sum(each.missing_images / each.rate for each in backbones if each.rate)
    decode_s = sum(unit.shard.images for unit in missing) * len(passes) / decode if decode else 0.0
    return Forecast(
        backbones,
        read_bytes=sum(unit.shard.bytes for unit in missing) * len(passes),
        passes=len(passes),
        decode_rate=decode,
        needed_memory=max((run.needed_memory(each) for each in passes), default=0),
        free_memory=run.free_memory,
        bounded_by="embedding" if embed_s > decode_s else "decoding",
        shares=tuple(found),
    )


def _towers(records: Sequence[Measurement]) -> dict[str, Measurement]:
    """The latest record of each tower."""
    return {each.settings["backbone"]: each for each in records if each.what == "tower"}


def _pays_from(plain: Measurement | None, compiled: Measurement | None) -> float | None:
    """How many images it takes until a compiled tower has caught up."""
    if plain is None or compiled is None:
        return None
    longer_s = float(compiled.settings["load seconds"]) - float(plain.settings["load seconds"])
    saved_s = 1 / plain.rate - 1 / compiled.rate
    return max(0.0, longer_s / saved_s) if saved_s > 0 else math.inf


def _backbone(
    run: Run, candidate: Candidate, known: set[str], rates: Mapping[str, Measurement], pays_from: float | None
) -> BackboneForecast:
    name = candidate.backbone.name
    units = run.units()
    missing = [unit for unit in units if unit.keys[name] not in known]
    images = sum(unit.shard.images for unit in missing)
    cost = flops(candidate.backbone)
    own = rates.get(name)
    # The slowest that was measured in operations a second: rather too long than too short.
    others = [int(each.settings["flops per image"]) * each.rate for each in rates.values()]
    rate = own.rate if own else min(others) / cost if others else None
    size = embedding_dim(candidate.backbone) * (4 if run.precision == "fp32" else 2)
    return BackboneForecast(
        name, len(units), len(missing), images, cost, images * size, rate, own is not None, pays_from
    )


def _seconds(run: Run, unit: Unit, known: set[str], rates: Mapping[str, float], decode: float, passes: int) -> float:
    """Of one unit on this machine: on a GPU the longer of decoding and embedding, on a CPU both."""
    decode_s = unit.shard.images * passes / decode
    embed_s = sum(unit.shard.images / rates[name] for name, key in unit.keys.items() if key not in known)
    return max(decode_s, embed_s) if run.device.type == "cuda" else decode_s + embed_s


def _share(missing: Sequence[Unit], parts: int, per_unit: Sequence[float], processes: int) -> Share:
    """Who is done helps, so processes end together, but a unit is never cut."""
    seconds = max(sum(per_unit) / processes, *per_unit)
    size = sum(unit.shard.bytes for unit in missing)
    return Share(processes, seconds, size / seconds, parts / seconds)
