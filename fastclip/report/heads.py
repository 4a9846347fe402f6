"""The tables of fitted heads: a row a head beside zero-shot, and for adaptation a row a pair of domains. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fastclip.errors import printable
from fastclip.report.comparisons import p_text
from fastclip.report.head_notes import fits_shown, settings_text
from fastclip.report.numbers import NO_NUMBER, percent
from fastclip.report.style import plain_table, titled
from fastclip.report.tables import accuracy_tables
from fastclip.report.terminal import by_backbone, random_warning, title_of
from fastclip.report.transfers import method_of, source_of
from fastclip.results.cells import ZERO_SHOT, Evaluation, UsedHead, mean
from fastclip.results.comparing.columns import heads_beside_zero_shot


def head_tables(evaluation: Evaluation) -> Iterator[Group]:
    """One table a dataset: a row a backbone and head, a column a domain. Seeds become a mean and a deviation."""
    for table in accuracy_tables(evaluation):
        yield titled(title_of(table, evaluation), by_backbone(table))


def pair_tables(evaluation: Evaluation, decimals: int = 2) -> Iterator[Group]:
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
        yield titled(title, _pair_table(heads, list(evaluation.prompts), accuracies, decimals))


def _pair_table(
    heads: Sequence[UsedHead],
    prompts: Sequence[str],
    accuracies: Mapping[tuple[str, str, str], Fraction | None],
    decimals: int,
) -> Table:
    """`accuracies` are by domain, head and prompt set."""
    methods = list(dict.fromkeys(method_of(each) for each in heads))
    zero_shot = [f"{ZERO_SHOT}, {name}" if len(prompts) > 1 else ZERO_SHOT for name in prompts]
    table = plain_table("source → target", *zero_shot, *methods)
    rows: list[list[Fraction | None]] = []
    for source, domain in dict.fromkeys((source_of(each), domain) for each in heads for domain in each.domains):
        row = [accuracies.get((domain, ZERO_SHOT, name)) for name in prompts]
        row += [accuracies.get((domain, f"{method} from {source}", "")) for method in methods]
        rows.append(row)
        table.add_row(Text(printable(f"{source} → {domain}")), *(percent(each, decimals) for each in row))
    if len(rows) > 1:
        table.add_section()
        table.add_row("average", *(percent(mean(column), decimals) for column in zip(*rows, strict=True)), style="bold")
    return table


def fit_table(evaluation: Evaluation) -> Group | None:
    """A row a head and tested domain: training images, settings, and its answers against zero-shot's.

    None if they are too many; the result file has them. Of weights on a line, those then stand for all that nobody
    chooses by these numbers.
    """
    rows = [(head, domain) for head in fits_shown(evaluation) for domain in head.domains]
    if not rows:
        return None
    several = len({head.facts.recipe.backbone for head, _ in rows}) > 1
    names = ["backbone"] * several + ["head", "tested"]
    table = plain_table(*names, "images", "settings", "gained", "lost", "p, Holm", left=len(names))
    tests = [each for family in heads_beside_zero_shot(evaluation).values() for each in family]
    found = {(each.pair.a.backbone, each.pair.a.head, each.pair.dataset, each.pair.domain): each for each in tests}
    for head, domain in rows:
        backbone = head.facts.recipe.backbone
        test = found.get((backbone, head.name, head.dataset, domain))  # none where no image is in a shard
        numbers = (
            f"{head.facts.images:,}" if head.facts.images else NO_NUMBER,
            settings_text(head),
            f"{test.pair.only_a:,}" if test else NO_NUMBER,
            f"{test.pair.only_b:,}" if test else NO_NUMBER,
            p_text(test.p_adjusted) if test else NO_NUMBER,
        )
        tested = f"{head.dataset}/{domain}" if len(evaluation.datasets) > 1 else domain
        texts = [Text(printable(each)) for each in ([backbone] * several + [head.name, tested])]
        table.add_row(*texts, *numbers)
    return titled("fits, and their answers beside zero-shot's", table)
