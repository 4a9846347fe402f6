"""The output of `fastclip eval --dry-run`: the work that is left, and how long it takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from fastclip.bench.forecast import BackboneForecast, Forecast
    from fastclip.evaluate.engine import Engine
    from fastclip.evaluate.setup import Setup

MANY = (8, 64)
"""Numbers of processes to compare this one with: a machine full of GPUs, and eight of them."""


def print_forecast(setup: Setup) -> None:
    """Print the work that an evaluation has left and how long it will take."""
    from fastclip.cli.console import out

    console = out()
    if not setup.engine:
        console.print("Everything is embedded: only scoring is left.")
        return
    from fastclip.bench.devices import peak_flops
    from fastclip.bench.forecast import forecast
    from fastclip.bench.records import kept_records_path, read_records

    found = forecast(setup, read_records(kept_records_path()))
    console.print(_work(setup, found))
    for line in _sentences(setup.engine, found):
        console.print(line)
    if peak := found.flops and peak_flops("H200", "fp16"):
        limit = f"Arithmetic alone takes an H200 {duration(found.flops / peak)} or more"
        console.print(f"{limit} (data sheet: {peak / 1e12:.0f} TFLOP/s in fp16).", style="dim")


def _work(setup: Setup, found: Forecast) -> Table:
    from fastclip.report.style import plain_table

    table = plain_table("backbone", "shards", "images", "GFLOP/image", "TFLOP", "images/s", "time")
    shards = sum(1 for target in setup.targets for _ in target.shards)
    owed = {each.name: each for each in found.backbones}
    for name in setup.backbones:
        if not (each := owed.get(name)):
            table.add_row(name, f"0/{shards:,}", "0", *"————")
            continue
        table.add_row(
            name,
            f"{each.missing_shards:,}/{shards:,}",
            f"{each.missing_images:,}",
            f"{each.flops_per_image / 1e9:,.1f}",
            f"{each.missing_images * each.flops_per_image / 1e12:,.0f}",
            _rate(each),
            duration(each.missing_images / each.rate) if each.rate else "—",
        )
    return table


def _rate(each: BackboneForecast) -> str:
    if each.rate is None:
        return "—"
    number = f"{each.rate:,.0f}" if each.rate >= 100 else f"{each.rate:.1f}"
    return number if each.measured else f"~{number}"


def _sentences(engine: Engine, found: Forecast) -> list[str]:
    if not found.parts:
        return ["Everything is embedded: only scoring is left."]
    passes = "once" if found.passes == 1 else f"{found.passes} times, for memory"
    lines = [
        f"{found.read_bytes / 1e6:,.1f} MB to read and decode {passes}; "
        f"{found.parts:,} parts of {found.written_bytes / 1e6:,.1f} MB to write.",
        f"About {found.needed_memory / 1e9:.1f} GB of memory; {engine.free_memory / 1e9:.1f} GB are free.",
    ]
    how = f"{engine.precision} on {engine.device.type}, {engine.workers} threads, batches of {engine.batch_size}"
    if not found.unit_seconds:
        lines.append(f"No time: nothing was measured here yet for {how}. Measure it: fastclip bench -b NAME")
    else:
        assert found.decode_rate
        lines.append(f"Here ({how}) bounded by {found.bounded_by}; decoding alone: {found.decode_rate:,.0f} images/s.")
        lines.append(_time(found))
        if not all(each.measured for each in found.backbones):
            lines.append("~: from its operations and the slowest tower that was measured: fastclip bench -b NAME")
    return lines + [line for each in found.backbones if (line := _compiling(each))]


def _time(found: Forecast) -> str:
    """The time of one process and of many, and what each of them asks of storage."""
    alone = found.seconds(1)
    many = [f"{duration(found.seconds(n))} by {n} like it" for n in MANY if found.seconds(n) < alone]
    line = f"Time: {', '.join([f'{duration(alone)} by this process', *many])}; "
    line += f"each reads {found.read_bytes / alone / 1e6:,.1f} MB/s. "
    return line + f"No number of them takes less than {duration(found.seconds(10**9))}: a shard is not cut."


def _compiling(each: BackboneForecast) -> str:
    """When compiling is worth it; nothing where it was not measured, or nothing is left to embed."""
    if each.compiling_pays_from is None or not each.missing_images:
        return ""
    if each.compiling_pays_from == math.inf:
        return f"{each.name}: --compile on saves no time here."
    images = float(f"{each.compiling_pays_from:.2g}")
    return f"{each.name}: --compile on saves time here from about {images:,.0f} images a process on."


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 12 s, 3 min, 5.2 h, 12 days."""
    if seconds < 0.095:
        return "0.1 s"
    for limit, unit, length in ((9.95, "s", 1.0), (99.5, "s", 1.0), (5970, "min", 60.0), (172_800, "h", 3600.0)):
        if seconds < limit:
            number = seconds / length
            return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} days"
