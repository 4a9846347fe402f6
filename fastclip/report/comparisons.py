"""Comparisons on a terminal: net images first, then the interval of the difference, and p last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fastclip.errors import printable
from fastclip.report.numbers import NO_NUMBER, percent, points, points_interval, signed
from fastclip.report.style import plain_table
from fastclip.results.cells import Column
from fastclip.results.comparing.columns import NOUNS
from fastclip.results.comparing.families import Comparison, Family
from fastclip.results.comparing.groups import label
from fastclip.results.statistics import LEVEL

HEADERS = {"backbones": "backbone", "prompts": "prompts", "heads": "head", "runs": "column"}
CORRECTED = {"holm": "p, Holm", "bh": "p, BH", "none": "p"}


def family_tables(family: Family, averages: Mapping[tuple[str, Column], Fraction | None]) -> Iterator[RenderableType]:
    """The tests of one family under its name, Cochran's Q and ranks. `averages` are by dataset and column."""
    yield Group(Text(printable(family.name), style="bold"), _tests(family))
    if line := _at_once(family):
        yield line
    if family.ranks:
        yield _ranks(family, averages)


def _tests(family: Family) -> Table:
    """A row a domain, in a section a column; a row a column if there is one domain only."""
    by_domain = len({each.pair.domain for each in family.tests}) > 1
    header = "domain" if by_domain else HEADERS[family.of]
    table = plain_table(header, "net", f"points [{LEVEL:.0%}]", "gained", "lost", CORRECTED[family.correction])
    before: Column | None = None
    for test in family.tests:
        name = label(family.of, test.pair.a)
        if by_domain and test.pair.a != before:
            table.add_section()
            table.add_row(Text(printable(name), style="dim"))
        table.add_row(Text(printable(test.pair.domain if by_domain else name)), *_numbers(test), style=_style(test))
        before = test.pair.a
    return table


def _numbers(test: Comparison) -> Sequence[str]:
    pair = test.pair
    difference = f"{points(test.difference)} {points_interval(test.interval)}".rstrip()
    counts = f"{pair.only_a:,}", f"{pair.only_b:,}"
    return signed(pair.only_a - pair.only_b), difference, *counts, p_text(test.p_adjusted)


def _style(test: Comparison) -> str:
    return "bold" if test.p_adjusted is not None and test.p_adjusted <= 1 - LEVEL else ""


def _at_once(family: Family) -> str:
    if not family.at_once:
        return ""
    first = family.at_once[0]
    if all(each.columns == first.columns for each in family.at_once):
        subject = f"Are all {first.columns} alike? Cochran's Q, {first.degrees} degrees of freedom"
        found = [f"{each.domain} {each.q:,.1f}, p {p_text(each.p)}" for each in family.at_once]
    else:
        subject = "Are all of a domain alike? Cochran's Q (their number)"
        found = [f"{each.domain} ({each.columns}) {each.q:,.1f}, p {p_text(each.p)}" for each in family.at_once]
    return printable(f"{subject}: {'; '.join(found)}.")


def _ranks(family: Family, averages: Mapping[tuple[str, Column], Fraction | None]) -> Group:
    several = len({each.pair.domain for each in family.tests}) > 1
    number = "average" if several else "accuracy"
    table = plain_table(HEADERS[family.of], number, "best, % of draws", f"rank [{LEVEL:.0%}]")
    for rank in family.ranks:
        ends = f"{rank.low}" if rank.low == rank.high else f"{rank.low} to {rank.high}"
        name = Text(printable(label(family.of, rank.column)))
        table.add_row(name, percent(averages.get((rank.dataset, rank.column))), share_text(rank.best), ends)
    title = f"Ranks of {len(family.ranks)} {NOUNS[family.of]}s by their {number}{' over the domains' * several}"
    return Group(Text(title, style="bold"), table)


def share_text(value: float) -> str:
    """A share of draws in percent, which is 0.0 or 100.0 only if it is none or all of them."""
    return percent(Fraction(value if value in (0, 1) else min(max(value, 0.001), 0.999)), 1)


def p_text(p: float | None) -> str:
    """A p-value as tables print it: `0.012`, `4e-06`; a dash where there is none."""
    if p is None:
        return NO_NUMBER
    if p >= 0.001:
        return f"{p:.3f}"
    return f"{p:.0e}" if p >= 1e-300 else "<1e-300"


def legend(families: Sequence[Family]) -> list[str]:
    """The lines that say how to read all tables, after the notes of the families, a sentence or two each."""
    first = families[0]
    corrected = {"holm": ", Holm's correction over", "bh": ", false discovery rate over", "none": ", uncorrected:"}
    lines = list(dict.fromkeys(printable(line) for each in families for line in each.notes))
    lines += [
        "net: gained (images that only this one has right) less lost (only the reference has).",
        f"points: the difference of the accuracies, with Newcombe's {LEVEL:.0%} interval, each by itself.",
        f"p: McNemar's exact test{corrected[first.correction]} the tests counted above a table; bold up to 0.05.",
    ]
    if any(test.over for each in families for test in each.tests):
        lines.append(
            "average: the mean of the domains' points. Its p is McNemar's over several domains; net, gained and lost "
            "are sums."
        )
    if any(each.ranks for each in families):
        lines.append(
            "best, rank: of 10,000 bootstrap draws of the images. Equal averages share a rank, so shares can add up "
            "to more than 100%."
        )
    lines.append("Intervals are about other images like these. Whether those of two accuracies overlap is no test.")
    return lines
