"""What `fastclip eval --dry-run` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fastclip.bench.forecast import BackboneForecast, Forecast
    from fastclip.evaluate.run import Run


def print_forecast(run: Run) -> None:
    """What is left of an evaluation and how long it will take."""
    from rich.console import Console

    from fastclip.bench.forecast import WORLD_SIZES, forecast
    from fastclip.bench.records import kept_records_path, read_records

    found = forecast(run, read_records(kept_records_path()))
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(_work(found))
    for line in _sentences(run, found):
        console.print(line)
    if found.shares:
        console.print(_times(found))
        more = "" if found.shares[-1].processes == WORLD_SIZES[-1] else " More do not help: a shard is not cut."
        console.print(f"Processes like this one, each with a device of its own, once started.{more}", style="dim")
    _print_limit(console, found)


def _work(found: Forecast) -> Table:
    table = _table("backbone", "shards", "images", "GFLOP/image", "TFLOP", "images/s", "time")
    for each in found.backbones:
        seconds = each.missing_images / each.rate if each.rate else None
        table.add_row(
            each.name,
            f"{each.missing_shards:,}/{each.shards:,}",
            f"{each.missing_images:,}",
            f"{each.flops_per_image / 1e9:,.1f}",
            f"{each.missing_images * each.flops_per_image / 1e12:,.0f}",
            _rate(each),
            "—" if seconds is None else duration(seconds),
        )
    return table


def _rate(each: BackboneForecast) -> str:
    if each.rate is None:
        return "—"
    number = f"{each.rate:,.0f}" if each.rate >= 100 else f"{each.rate:.1f}"
    return number if each.measured else f"~{number}"


def _times(found: Forecast) -> Table:
    table = _table("processes", "time", "read, MB/s", "parts/s")
    for each in found.shares:
        row = [duration(each.seconds), f"{each.read_bytes_per_second / 1e6:,.1f}", f"{each.parts_per_second:,.1f}"]
        table.add_row(f"{each.processes:,}", *row)
    return table


def _table(first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _sentences(run: Run, found: Forecast) -> list[str]:
    parts = sum(each.missing_shards for each in found.backbones)
    if not parts:
        return ["Everything is embedded: only scoring is left."]
    passes = "once" if found.passes == 1 else f"{found.passes} times, for memory"
    lines = [
        f"{found.read_bytes / 1e6:,.1f} MB to read and decode {passes}; "
        f"{parts:,} parts of {found.written_bytes / 1e6:,.1f} MB to write.",
        f"About {found.needed_memory / 1e9:.1f} GB of memory; {found.free_memory / 1e9:.1f} GB are free.",
    ]
    how = f"{run.precision} on {run.device.type}, {run.workers} threads, batches of {run.batch_size}"
    if not found.shares:
        lines.append(f"No time: nothing was measured here yet for {how}. Measure it: fastclip bench -b NAME")
    else:
        assert found.decode_rate
        lines.append(f"Here ({how}) bounded by {found.bounded_by}; decoding alone: {found.decode_rate:,.0f} images/s.")
        if not all(each.measured for each in found.backbones):
            lines.append(
                "~: reckoned from its operations and the slowest tower that was measured: fastclip bench -b NAME"
            )
    return lines + [line for each in found.backbones if (line := _compiling(each))]


def _compiling(each: BackboneForecast) -> str:
    """From how many images on it is worth it; nothing where it was not measured, or nothing is left to embed."""
    if each.compiling_pays_from is None or not each.missing_images:
        return ""
    if each.compiling_pays_from == float("inf"):
        return f"{each.name}: --compile on saves no time here."
    images = float(f"{each.compiling_pays_from:.2g}")
    return f"{each.name}: --compile on saves time here from about {images:,.0f} images a process on."


def _print_limit(console: Console, found: Forecast) -> None:
    from fastclip.bench.devices import peak_flops

    if peak := found.flops and peak_flops("H200", "fp16"):
        limit = f"Arithmetic alone takes an H200 {duration(found.flops / peak)} or more"
        console.print(f"{limit} (data sheet: {peak / 1e12:.0f} TFLOP/s in fp16).", style="dim")


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 12 s, 3 min, 5.2 h, 12 days."""
    if seconds < 0.095:
        return "0.1 s"
    for limit, unit, length in ((9.95, "s", 1.0), (99.5, "s", 1.0), (5970, "min", 60.0), (172_800, "h", 3600.0)):
        if seconds < limit:
            number = seconds / length
            return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} days"
