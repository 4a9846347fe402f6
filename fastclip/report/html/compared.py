"""Columns beside each other on the page: against a published table, in families of tests, by prompt set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fastclip.report.comparisons import HEADERS, p_text, share_text
from fastclip.report.html.plots import Panel, Value, make_axis, make_panel
from fastclip.report.html.words import called, plural
from fastclip.report.numbers import NO_NUMBER, percent, points, points_interval, signed
from fastclip.results.averages import averages
from fastclip.results.cells import ZERO_SHOT, Evaluation
from fastclip.results.comparing.columns import NOUNS
from fastclip.results.comparing.families import Comparison, Family
from fastclip.results.comparing.groups import label
from fastclip.results.published.verdicts import SAME, Against, AverageVerdict, CellVerdict
from fastclip.results.statistics import LEVEL

MOST_PANELS = 12
MOST_DOTS = 24
MOST_FAMILIES = 24
MOST_TESTS = 200
"""Rows of a family that the page shows."""


@dataclass(frozen=True, kw_only=True)
class AgainstTable:
    """The verdicts of one dataset."""

    dataset: str
    domains: tuple[str, ...]
    rows: tuple[tuple[str, Mapping[str, CellVerdict]], ...]
    """The name of each column, and its verdicts by domain."""
    others: tuple[tuple[str, CellVerdict], ...]
    """Those that are not the same."""
    averages: tuple[tuple[str, AverageVerdict], ...]


def against_tables(against: Against) -> Iterator[AgainstTable]:
    """The verdicts, a table a dataset."""
    for dataset in dict.fromkeys(each.dataset for each in against.cells):
        cells = [each for each in against.cells if each.dataset == dataset]
        names = called(list(dict.fromkeys(each.column for each in cells)))
        by_column = {column: {c.domain: c for c in cells if c.column == column} for column in names}
        yield AgainstTable(
            dataset=dataset,
            domains=tuple(dict.fromkeys(each.domain for each in cells)),
            rows=tuple((names[column], verdicts) for column, verdicts in by_column.items()),
            others=tuple((names[each.column], each) for each in cells if each.verdict != SAME),
            averages=tuple(
                (names.get(each.column, each.column.backbone), each)
                for each in against.averages
                if each.dataset == dataset
            ),
        )


@dataclass(frozen=True, kw_only=True)
class TestRow:
    """One paired test."""

    __test__ = False  # pytest takes every class of this name for tests

    dataset: str
    domain: str
    name: str
    only_a: int
    only_b: int
    images: int
    difference: str
    interval: str
    p_exact: str
    p_adjusted: str
    significant: bool
    """Whether the adjusted p-value is below the level."""

    @property
    def net(self) -> str:
        """Images that only this column has right, less those that only the reference has."""
        return signed(self.only_a - self.only_b)


@dataclass(frozen=True, kw_only=True)
class FamilyView:
    """A family of tests, with plots if it is the first of its kind."""

    family: Family
    reference: str
    what: str
    """By which its columns differ: `backbone`."""
    nouns: str
    """Several of them: `backbones`."""
    counted: str
    """`8 of the 12 tests`, where the others are not of the reference."""
    rows: tuple[TestRow, ...]
    panels: tuple[Panel, ...]
    ranks: tuple[tuple[str, str, str], ...]
    """Column, share of draws in which no other is better, its ranks."""


def family_views(families: Sequence[Family], decimals: int) -> Iterator[FamilyView]:
    """The families as the page shows them, at most MOST_FAMILIES."""
    kinds: set[str] = set()
    for family in families[:MOST_FAMILIES]:
        yield _view(family, decimals, drawn=family.of not in kinds)
        kinds.add(family.of)


def _view(family: Family, decimals: int, *, drawn: bool) -> FamilyView:
    return FamilyView(
        family=family,
        reference=label(family.of, family.reference) if family.reference else "the other run",
        what=HEADERS[family.of],
        nouns=f"{NOUNS[family.of]}s",
        counted=_counted(family),
        rows=tuple(_row(test, family.of, decimals) for test in family.tests[:MOST_TESTS]),
        panels=tuple(_panels(family, decimals)) if drawn else (),
        ranks=tuple(
            (label(family.of, rank.column), share_text(rank.best),
             f"{rank.low}" if rank.low == rank.high else f"{rank.low}–{rank.high}")
            for rank in family.ranks
        ),
    )  # fmt: skip


def _counted(family: Family) -> str:
    tests = sum(each.p_exact is not None for each in family.tests)
    return f"{tests:,} of the {tests + family.others:,} tests" if family.others else plural(tests, "test")


def _row(test: Comparison, of: str, decimals: int) -> TestRow:
    pair = test.pair
    return TestRow(
        dataset=pair.dataset,
        domain=pair.domain,
        name=label(of, pair.a),
        only_a=pair.only_a,
        only_b=pair.only_b,
        images=pair.images,
        difference=points(test.difference, decimals),
        interval=points_interval(test.interval, decimals),
        p_exact=p_text(test.p_exact),
        p_adjusted=p_text(test.p_adjusted),
        significant=_is_significant(test),
    )


def _is_significant(test: Comparison) -> bool:
    return test.p_adjusted is not None and test.p_adjusted <= 1 - LEVEL


def _panels(family: Family, decimals: int) -> Iterator[Panel]:
    """A panel a domain, with the differences from the reference."""
    places: dict[tuple[str, str], list[Value]] = {}
    for test in family.tests:
        if test.interval is not None and test.difference is not None:
            text = f"{points(test.difference, decimals)} {points_interval(test.interval, decimals)}"
            low, high = test.interval.low * 100, test.interval.high * 100
            name = label(family.of, test.pair.a)
            value = Value(name, test.difference * 100, low, high, text, _is_significant(test))
            places.setdefault((test.pair.dataset, test.pair.domain), []).append(value)
    drawn = {place: values[:MOST_DOTS] for place, values in list(places.items())[:MOST_PANELS]}
    if not drawn:
        return
    everything = [each for values in drawn.values() for each in values]
    axis = make_axis(
        min(0.0, *(v.low for v in everything)), max(0.0, *(v.high for v in everything)), least=-100.0, most=100.0
    )
    for (_, domain), values in drawn.items():
        yield make_panel(domain, values, axis)


@dataclass(frozen=True, kw_only=True)
class PromptTable:
    """The averages of one dataset by prompt set."""

    dataset: str
    sets: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, bool], ...]], ...]
    """A backbone, and its average with each set, marked where it is the backbone's highest."""


def prompt_tables(evaluation: Evaluation, decimals: int) -> Iterator[PromptTable]:
    """A table for each dataset that was scored with several prompt sets."""
    found = [each for each in averages(evaluation) if each.column.head == ZERO_SHOT]
    for dataset in evaluation.datasets:
        own = [each for each in found if each.dataset == dataset.name]
        all_domains = {domain for each in own for domain in each.domains}
        macros = {  # an average over fewer domains is another number
            (each.column.backbone, each.column.prompts): each.macro if set(each.domains) == all_domains else None
            for each in own
        }
        sets = tuple(dict.fromkeys(prompts for _, prompts in macros))
        if len(sets) < 2:
            continue
        rows = []
        for backbone in dict.fromkeys(backbone for backbone, _ in macros):
            texts = [percent(macros.get((backbone, prompts)), decimals) for prompts in sets]
            best = max((float(each) for each in texts if each != NO_NUMBER), default=None)
            rows.append((backbone, tuple((text, text != NO_NUMBER and float(text) == best) for text in texts)))
        yield PromptTable(dataset=dataset.name, sets=sets, rows=tuple(rows))
