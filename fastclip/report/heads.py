"""The tables of fitted heads: a row a head beside zero-shot, and for adaptation a row a pair of domains. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from statistics import stdev

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fastclip.errors import printable
from fastclip.report.style import plain_table
from fastclip.report.terminal import NO_NUMBER, percent, random_warning
from fastclip.results.cells import ZERO_SHOT, Cell, Evaluation, UsedHead, mean
from fastclip.results.pairs import Pair

MOST_ROWS = 12
"""Heads and tested domains whose settings and tests are printed; beyond, the result file has them."""

SYMBOLS = {"strength": "λ", "alpha": "α", "beta": "β"}
"""Settings as tables show them; others are shown by their names."""


def head_tables(evaluation: Evaluation) -> Iterator[Group]:
    """One table a dataset: a row a backbone and head, a column a domain. Seeds become a mean and a deviation."""
    for dataset in dict.fromkeys(cell.dataset for cell in evaluation.cells):
        cells = [cell for cell in evaluation.cells if cell.dataset == dataset]
        domains = list(dict.fromkeys(cell.domain for cell in cells))
        table = plain_table("backbone", "head", *domains, *(["average"] if len(domains) > 1 else []), left=2)
        if len(domains) > 1:
            table.columns[-1].style = "bold"
        for backbone in dict.fromkeys(cell.backbone for cell in cells):
            table.add_section()
            rows: dict[str, list[Cell]] = {}
            for cell in cells:
                if cell.backbone == backbone:
                    rows.setdefault(_row_name(cell), []).append(cell)
            for number, (name, found) in enumerate(rows.items()):
                numbers = _numbers(found, domains, evaluation.unreadable_policy)
                table.add_row(Text(printable(backbone if not number else "")), Text(printable(name)), *numbers)
        yield Group(
            Text(printable(f"{dataset}: accuracy, %{_title(cells)}{random_warning(evaluation)}"), style="bold"), table
        )


def pair_tables(evaluation: Evaluation) -> Iterator[Group]:
    """One table a backbone and dataset of targets: a row a source and target, a column zero-shot and each method.

    The mean over the rows is at the end.
    """
    for backbone, dataset in dict.fromkeys((cell.backbone, cell.dataset) for cell in evaluation.cells):
        heads = [each for each in evaluation.heads if (each.facts.recipe.backbone, each.dataset) == (backbone, dataset)]
        accuracies = {
            (cell.domain, cell.head, cell.prompts): cell.accuracy(evaluation.unreadable_policy)
            for cell in evaluation.cells
            if (cell.backbone, cell.dataset) == (backbone, dataset)
        }
        title = f"{dataset}, {backbone}: accuracy on the target, %{random_warning(evaluation)}"
        table = _pair_table(heads, list(evaluation.prompts), accuracies)
        yield Group(Text(printable(title), style="bold"), table)


def _pair_table(
    heads: Sequence[UsedHead], prompts: Sequence[str], accuracies: Mapping[tuple[str, str, str], Fraction | None]
) -> Table:
    """`accuracies` are by domain, head and prompt set."""
    methods = list(dict.fromkeys(method_of(each) for each in heads))
    zero_shot = [f"{ZERO_SHOT}, {name}" if len(prompts) > 1 else ZERO_SHOT for name in prompts]
    table = plain_table("source → target", *zero_shot, *methods)
    rows: list[list[Fraction | None]] = []
    for source, domain in dict.fromkeys((_source_of(each), domain) for each in heads for domain in each.domains):
        row = [accuracies[domain, ZERO_SHOT, name] for name in prompts]
        row += [accuracies[domain, f"{method} from {source}", ""] for method in methods]
        rows.append(row)
        table.add_row(Text(printable(f"{source} → {domain}")), *map(percent, row))
    if len(rows) > 1:
        table.add_section()
        table.add_row("average", *(percent(mean(column)) for column in zip(*rows, strict=True)), style="bold")
    return table


def method_of(head: UsedHead) -> str:
    """The name of a head without its source."""
    return head.name.partition(" from ")[0]


def _source_of(head: UsedHead) -> str:
    return head.name.partition(" from ")[2]


def fit_table(evaluation: Evaluation, pairs: Sequence[Pair]) -> Group | None:
    """A row a head and tested domain: training images, settings, and its answers against zero-shot's.

    None if they are too many; the result file has them.
    """
    rows = [(head, domain) for head in evaluation.heads for domain in head.domains]
    if not 0 < len(rows) <= MOST_ROWS:
        return None
    several = len({head.facts.recipe.backbone for head, _ in rows}) > 1
    names = ["backbone"] * several + ["head", "tested"]
    table = plain_table(*names, "images", "settings", "gained", "lost", "p", left=len(names))
    found = {(pair.a.backbone, pair.a.head, pair.dataset, pair.domain): pair for pair in pairs}
    for head, domain in rows:
        backbone = head.facts.recipe.backbone
        pair = found.get((backbone, head.name, head.dataset, domain))  # none where no image is in a shard
        numbers = (
            f"{head.facts.images:,}" if head.facts.images else NO_NUMBER,
            _settings(head),
            f"{pair.only_a:,}" if pair else NO_NUMBER,
            f"{pair.only_b:,}" if pair else NO_NUMBER,
            _p(pair.p) if pair else NO_NUMBER,
        )
        tested = f"{head.dataset}/{domain}" if len(evaluation.datasets) > 1 else domain
        texts = [Text(printable(each)) for each in ([backbone] * several + [head.name, tested])]
        table.add_row(*texts, *numbers)
    return Group(Text("fits, and their answers beside zero-shot's", style="bold"), table)


def head_notes(evaluation: Evaluation, pairs: Sequence[Pair]) -> list[str]:
    """The lines under a table of fitted heads: what saw labels, how settings were chosen, tests, duplicates."""
    heads = evaluation.heads
    labelled = [each for each in heads if each.facts.images]
    lines = [_labels_line(labelled)] if labelled else []
    if without := list(dict.fromkeys(method_of(each) for each in heads if not each.facts.images)):
        lines.append(f"{' and '.join(without)}: fitted without labels.")
    if any(each.transductive for each in heads):
        lines.append("Adaptation saw the target's images, without their labels (transductive).")
    if any("held_out" in each.facts.figures for each in heads):
        lines.append("Settings were chosen on held-out training images.")
    if any(cell.head.endswith("α 1.0") for cell in evaluation.cells):
        lines.append("The rows of α show the tested images: choose none by them.")
    if any(each.facts.method == "tip" for each in heads):
        lines.append("tip: Tip-Adapter with one view of each training image.")
    if any(each.facts.split for each in heads):
        lines.append("Images that were rejected when the shards were written are in neither part.")
    if any(each.facts.seed is not None for each in heads):
        lines.append("±: the sample standard deviation over the seeds.")
    rows = sum(len(each.domains) for each in heads)
    if rows <= MOST_ROWS:
        prompts = next((pair.b.prompts for pair in pairs), "")
        lines.append(
            "gained, lost: images that only the head, only zero-shot classifies correctly "
            f"({prompts}); p: McNemar's exact test."
        )
    else:
        lines.append(f"--json FILE keeps the settings of all {len(heads)} heads.")
    if count := _duplicates(heads):
        have = "tested image has" if count == 1 else "tested images have"
        lines.append(f"{count:,} {have} the bytes of a training image, and counted like any other.")
    return [printable(line) for line in lines]


def _duplicates(heads: Sequence[UsedHead]) -> int:
    """The tested images that share their bytes with a training image: once, however many heads tested them."""
    tested: dict[str, frozenset[tuple[str, str]]] = {}
    for each in heads:
        places = frozenset((each.dataset, domain) for domain in each.domains)
        tested[each.sha256] = tested.get(each.sha256, frozenset()) | places
    counts: dict[frozenset[tuple[str, str]], int] = {}
    for each in heads:
        places = tested[each.sha256]
        counts[places] = max(counts.get(places, 0), each.facts.duplicates)
    return sum(counts.values())


def given_head_notes(evaluation: Evaluation) -> list[str]:
    """A line for each head of a file: what it was trained on, and whether that was tested too."""
    lines = {}
    fingerprints = {each.name: each.fingerprints for each in evaluation.datasets}
    several = len({head.facts.recipe.backbone for head in evaluation.heads}) > 1
    for head in evaluation.heads:
        facts = head.facts
        places = {(each.dataset, each.domain) for each in facts.training}
        bytes_of = {each.fingerprint for each in facts.training}
        seen = [each for each in head.domains
                if (head.dataset, each) in places or fingerprints[head.dataset][each] in bytes_of]  # fmt: skip
        again = f" It was trained on images of {', '.join(seen)} that are tested here." if seen else ""
        name = f"{facts.recipe.backbone}, {head.name}" if several else head.name
        settings = f", {_settings(head)}" if facts.settings else ""
        lines[head.sha256, again] = (
            f"{name}: fitted with labels of {facts.images:,} images ({_trained_on(head)}){settings}.{again}"
        )
    return [printable(line) for line in lines.values()]


def _settings(head: UsedHead) -> str:
    shown = ", ".join(f"{SYMBOLS.get(name, name)} {value:.3g}" for name, value in head.facts.settings.items())
    return shown or NO_NUMBER


def _row_name(cell: Cell) -> str:
    if cell.head == ZERO_SHOT:
        return f"{ZERO_SHOT}, {cell.prompts}"
    return re.sub(r", seed \d+", "", cell.head)


def _title(cells: Sequence[Cell]) -> str:
    sample = next((cell.sample for cell in cells if cell.sample), "")
    return f", on {sample}" if sample else ""


def _numbers(cells: Sequence[Cell], domains: Sequence[str], policy: str) -> list[str]:
    """A row's accuracies; with several seeds their mean and their sample standard deviation."""
    seeds: dict[str, dict[str, Fraction | None]] = {}
    for cell in cells:
        seeds.setdefault(cell.head, {})[cell.domain] = cell.accuracy(policy)
    columns = [[of_seed.get(domain) for of_seed in seeds.values()] for domain in domains]
    if len(domains) > 1:
        columns.append([mean([of_seed.get(domain) for domain in domains]) for of_seed in seeds.values()])
    return [_with_deviation(each) for each in columns]


def _with_deviation(accuracies: Sequence[Fraction | None]) -> str:
    numbers = [each for each in accuracies if each is not None]
    if len(numbers) < len(accuracies) or not numbers:
        return NO_NUMBER
    if len(numbers) == 1:
        return percent(numbers[0])
    return f"{percent(mean(numbers))} ±{stdev(map(float, numbers)) * 100:.2f}"


def _labels_line(heads: Sequence[UsedHead]) -> str:
    counts = sorted({each.facts.images for each in heads})
    images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    sources = list(dict.fromkeys(_trained_on(each) for each in heads))
    of = sources[0] if len(sources) == 1 else f"{len(sources)} choices of domains"
    return f"Heads were fitted with labels of {images} images ({of}). Zero-shot saw none."


def _trained_on(head: UsedHead) -> str:
    return " + ".join(f"{each.dataset}/{each.domain}" for each in head.facts.training)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
