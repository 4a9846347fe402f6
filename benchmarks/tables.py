"""Makes the tables of README.md from the records in results/: of each thing the latest record.

.venv/bin/python benchmarks/tables.py
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from fastclip.bench.records import Measurement, read_records

HERE = Path(__file__).parent
README = HERE / "README.md"

Row = Sequence[str]


def table(head: Row, rows: Iterable[Row]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def peers(records: Sequence[Measurement]) -> str:
    """Beside other programs, a table for each set of backbones, number of images and state of the page cache."""
    found = latest(_of("peers.py", records), "backbone", "cache", "device", "program")
    return "\n\n".join(_beside(rows) for _, rows in grouped(found, "backbone", "cache", "device"))


def _beside(rows: list[Measurement]) -> str:
    ours = next(each for each in rows if each.settings["program"] == "fastclip")
    settings = ours.settings
    head = [f"{ours.images} photos, {settings['backbone'].replace(' ', ', ')}, page cache {settings['cache']}"]
    body = []
    rows = sorted(rows, key=lambda each: each.seconds)
    for each in rows:
        name = "**fastclip**" if each is ours else each.settings["program"]
        body.append(
            [
                f"{name}, {_flags(each.settings['options'])}",
                f"{each.seconds:.1f} s",
                f"{min(each.all_seconds):.1f}–{max(each.all_seconds):.1f}",
                f"{each.seconds / ours.seconds:.2f}",
                f"{each.peak_gib:.1f}",
                _right(each),
            ]
        )
    return table([*head, f"median of {len(ours.all_seconds)}", "least–most", "times", "GiB", "right"], body) + _on(rows)


def waterfall(records: Sequence[Measurement]) -> str:
    """Every bar with its flags; the ratio is to the first one."""
    found = latest(_of("waterfall.py", records), "backbone", "device", "bar")
    return "\n\n".join(_steps(rows) for _, rows in grouped(found, "backbone", "device"))


def _steps(rows: list[Measurement]) -> str:
    rows = sorted(rows, key=lambda each: int(each.settings["bar"]))
    names = rows[0].settings["backbone"].split()
    head = f"{rows[0].images} photos, {', '.join(names) if len(names) < 9 else 'all nine backbones'}"
    body = [
        [
            f"{each.settings['program']}, {_flags(each.settings['options'])}",
            f"{each.seconds:.1f} s",
            f"{rows[0].seconds / each.seconds:.2f}",
            _right(each),
        ]
        for each in rows
    ]
    return table([head, f"median of {len(rows[0].all_seconds)}", "times as fast", "right"], body) + _on(rows)


def decoders(records: Sequence[Measurement]) -> str:
    """Each decoder: photos a second, and grey levels from Pillow."""
    keys = ("decoder", "sides", "device", "hardware load", "threads", "batch")
    found = latest([each for each in records if each.settings.get("program") == "decoders.py"], *keys)
    body = []
    for each in found:
        settings = each.settings
        more = [f"{key} {settings[key]}" for key in ("hardware load", "threads", "batch") if key in settings]
        row = [", ".join([settings["decoder"], *more]), settings["sides"].replace(" ", ", ")]
        row += [f"{each.rate:,.0f}", settings["mean difference"], settings["worst photo"]]
        body.append(row)
    return table(["decoder", "sides", "photos/s", "grey levels off, mean", "worst photo"], body) + _on(found)


def precisions(records: Sequence[Measurement]) -> str:
    """Each way to compute, against eager fp32."""
    found = latest(
        [each for each in records if each.settings.get("program") == "precisions.py"], "backbone", "way", "device"
    )
    found.sort(key=lambda each: each.settings["backbone"])
    body = []
    for each in found:
        settings = each.settings
        row = [settings["backbone"], settings["way"], f"{each.rate:.2f}"]
        row += [settings["mean cosine"], settings["least cosine"], settings["flipped"], settings["widest margin"]]
        body.append(row)
    return table(["backbone", "way", "images/s", "mean cosine", "least", "flipped", "widest margin"], body) + _on(found)


def stages(records: Sequence[Measurement]) -> str:
    """Runs of `fastclip bench` with one backbone: every stage, and its tower as a share of the products."""
    runs: list[dict[str, Measurement]] = []
    for each in (each for each in records if each.settings.get("program") == "fastclip bench"):
        if each.what == "decode":  # with which it begins
            runs.append({})
        runs[-1][each.what] = each
    keys = ("backbone", "precision", "device", "compile", "workers", "batch")
    one = [run for run in runs if run["together"].settings["backbone"] == run["tower"].settings["backbone"]]
    towers = latest([run["tower"] for run in one], *keys)
    body = []
    shown = [run for run in one if run["tower"] in towers]
    for run in shown:
        tower, settings = run["tower"], run["tower"].settings
        done = int(settings["flops per image"]) * tower.rate
        name = f"{settings['backbone']}, {settings['precision']}{', compiled' * (settings['compile'] == 'on')}"
        name += f", {settings['workers']} × {settings['batch']}"
        row = [name, *(_rate(run[what].rate) for what in ("read", "decode", "tower", "together", "write", "score"))]
        row += [f"{done / 1e9:,.0f}", f"{done / float(settings['matrix product flops']):.0%}"]
        body.append([*row, f"{settings['load seconds']} s"])
    head = ["images/s", "read", "decode", "tower", "together", "write", "score", "GFLOP/s", "of products", "loaded in"]
    return table(head, body) + _on(run["tower"] for run in shown)


def scale(records: Sequence[Measurement]) -> str:
    """Ten times as many images."""
    found = latest(_of("scale.py", records), "backbone", "device")
    body = [[f"{each.images:,}", f"{each.seconds:.1f} s", f"{each.peak_gib:.2f} GiB"] for each in found]
    return table(["images", "whole process", "largest resident size"], body) + _on(found)


def scoring(records: Sequence[Measurement]) -> str:
    """A finished set of DomainNet's size."""
    found = latest([each for each in records if each.what == "score, whole process"], "classes", "dim", "prompt sets")
    body = []
    for each in found:
        asked = f"{each.settings['classes']} classes, {each.settings['prompt sets']} prompt sets, {_machine(each)}"
        row = [asked, f"{each.images:,}", each.settings["dim"], f"{each.seconds:.1f} s", f"{each.peak_gib:.2f} GiB"]
        body.append(row)
    return table(["scored", "embeddings", "numbers each", "whole process", "largest resident size"], body) + _on(found)


def reports(records: Sequence[Measurement]) -> str:
    """Reports of predictions as many as DomainNet's."""
    found = latest(_of("reports.py", records), "columns")
    body = []
    for each in found:
        asked = f"{each.settings['columns']} × {each.images // int(each.settings['columns']):,}"
        peak = f"{each.peak_gib:.2f} GiB" if each.peak_gib else ""
        body.append([each.what, asked, each.settings["classes"], f"{each.seconds:.1f} s", peak])
    return table(["", "predictions", "classes", "median", "largest resident size"], body) + _on(found)


def features(records: Sequence[Measurement]) -> str:
    """Exports of drawn embeddings, beside `numpy.save` of the same array."""
    found = latest(_of("features.py", records), "format", "dim")
    saved = {(_machine(each), each.images): each for each in found if each.settings["format"] == "numpy.save"}
    body = []
    for each in found:
        times = each.seconds / saved[_machine(each), each.images].seconds
        row = [each.settings["format"], f"{each.images:,}", each.settings["GB"], f"{each.seconds:.1f} s"]
        body.append([*row, f"{times:.1f}", f"{each.peak_gib:.2f} GiB" if each.peak_gib else ""])
    head = ["format", "vectors", "GB", "seconds", "times numpy.save", "largest resident size"]
    return table(head, body) + _on(found)


def finetune(records: Sequence[Measurement]) -> str:
    """Steps of fine-tuning, beside a plain loop that is fed from memory."""
    found = latest(_of("finetune.py", records), "backbone", "device", "precision", "batch", "way")
    body = []
    for (backbone, precision, batch, _), rows in grouped(found, "backbone", "precision", "batch", "device"):
        plain = next(each for each in rows if each.settings["way"].startswith("plain"))
        for each in rows:
            way = each.settings["way"]
            share = each.settings["arithmetic"] if each is plain else f"{plain.seconds / each.seconds:.0%} of the plain"
            body.append([f"{backbone}, {precision}, batches of {batch}: {way}", _rate(each.rate), share])
    return table(["", "images/s", "arithmetic; speed"], body) + _on(found)


def heads(records: Sequence[Measurement]) -> str:
    """Fits of heads, and other programs' on the same vectors."""
    found: list[Measurement] = []
    for benchmark in ("heads.py", "neighbours.py", "probes.py"):
        found += latest(_of(benchmark, records), "dim", "classes", "λ", "backbones", "heads")
    body = []
    for each in found:
        settings = each.settings
        of = [settings.get("images", f"{each.images}"), settings.get("dim", ""), settings.get("classes", "")]
        size = " × ".join(f"{int(number):,}" for number in of if number)
        asked = [f"λ {settings['λ']}"] if "λ" in settings else []
        asked += [f"{settings['fits']} fits"] if "fits" in settings else []
        name = ", ".join([each.what, *asked])
        many = f"{each.images:,} ({each.rate:,.0f}/s)" if each.what.startswith("neighbours") else ""
        row = [
            name,
            size,
            many,
            f"{each.seconds:.3g} s",
            settings.get("iterations", ""),
            settings.get("as fastclip", ""),
        ]
        body.append([*row, f"{each.peak_gib:.2f} GiB" if each.peak_gib else ""])
    head = ["fit", "images × numbers × classes", "queries", "median", "iterations", "answers as fastclip's", "peak"]
    return table(head, body) + _on(found)


TABLES: dict[str, Callable[[Sequence[Measurement]], str]] = {
    each.__name__: each
    for each in (peers, waterfall, decoders, precisions, stages, scale, scoring, reports, features, heads, finetune)
}


def _of(benchmark: str, records: Sequence[Measurement]) -> list[Measurement]:
    return [each for each in records if each.settings.get("benchmark") == benchmark]


def latest(records: Iterable[Measurement], *keys: str) -> list[Measurement]:
    """The last record of each machine, number of images and values of `keys`, in the order of the first ones."""
    found: dict[tuple[str, ...], Measurement] = {}
    for each in records:
        values = (each.settings.get(key, "") for key in keys)
        found[(_machine(each), each.what, str(each.images), *values)] = each
    return list(found.values())


def grouped(records: Iterable[Measurement], *keys: str) -> Iterator[tuple[tuple[str, ...], list[Measurement]]]:
    """The records by machine, number of images and values of `keys`."""

    def key(each: Measurement) -> tuple[str, ...]:
        return (_machine(each), *(each.settings[name] for name in keys), str(each.images))

    for group, rows in groupby(sorted(records, key=key), key):
        yield group, list(rows)


def _machine(record: Measurement) -> str:
    return record.machine.get("gpu") or f"{record.machine['cpu']}, {record.machine['cores']} cores"


def _on(records: Iterable[Measurement]) -> str:
    """The machines that the rows of a table were measured on, a line each, with the rows if there are several lines."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for number, each in enumerate(records, 1):
        on = _machine(each), each.machine["torch"], each.machine.get("commit", "?")
        rows.setdefault(on, []).append(str(number))
    lines = []
    for (on, torch, commit), numbers in rows.items():
        which = f" (row{'s' * (len(numbers) > 1)} {', '.join(numbers)})" if len(rows) > 1 else ""
        lines.append(f"\n\n{on}, torch {torch}, commit {commit}{which}.")
    return "".join(lines)


def _flags(options: str) -> str:
    return f"`{options}`" if options.startswith("-") else options


def _right(record: Measurement) -> str:
    return record.settings["right"].strip("[]")


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def render(text: str, records: Sequence[Measurement]) -> str:
    """`text` with every table anew, between `<!-- records: NAME -->` and `<!-- end -->`."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n{TABLES[match[2]](records)}\n\n<!-- end -->"

    return re.sub(r"(<!-- records: (\w+) -->)\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def all_records() -> list[Measurement]:
    """Every record, oldest file first."""
    return [each for path in sorted((HERE / "results").glob("*.jsonl")) for each in read_records(path)]


if __name__ == "__main__":
    README.write_text(render(README.read_text(), all_records()))
