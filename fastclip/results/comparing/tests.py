"""Paired tests of two columns, in one domain or by their averages, and the tests of a family corrected together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fastclip.results.comparing.families import Comparison
from fastclip.results.pairs import Pair
from fastclip.results.statistics import bh, holm, mcnemar, mean_of_intervals, newcombe

CORRECTIONS: Mapping[str, Callable[[Sequence[float]], list[float]]] = {"holm": holm, "bh": bh, "none": list}
AVERAGE = "average"


def compared(pair: Pair, testable: bool = True) -> Comparison:
    """A pair with its difference, interval and tests, not yet corrected. Without tests if it is not `testable`."""
    test = mcnemar(pair.only_a, pair.only_b) if testable else None
    return Comparison(
        pair=pair,
        difference=(pair.only_a - pair.only_b) / pair.images if pair.images else None,
        interval=newcombe(pair.both, pair.only_a, pair.only_b, pair.neither) if pair.images else None,
        p_exact=test.exact if test else None,
        p_mid=test.mid if test else None,
        p_adjusted=test.exact if test else None,
    )


def with_average(tests: Sequence[Comparison], domains: Sequence[str]) -> list[Comparison]:
    """The tests of one pair of columns, a domain each, and then that of their macro averages over `domains`.

    There is none unless these are two or more and all are tested, or where one of them cannot be. The images of each
    domain are others: of columns that share images, no average is one of independent domains.
    """
    whole = {each.pair.domain for each in tests if each.pair.images} == set(domains)
    return [*tests, _averaged(tests)] if whole and len(domains) > 1 else list(tests)


def _averaged(tests: Sequence[Comparison]) -> Comparison:
    pairs = [each.pair for each in tests]
    known = all(each.p_exact is not None for each in tests)
    p = p_of_averages([(each.only_a, each.only_b, each.images) for each in pairs]) if known else None
    sums = {name: sum(getattr(each, name) for each in pairs) for name in ("only_a", "only_b", "both", "images")}
    estimates = [(each.difference, each.interval) for each in tests if each.difference is not None and each.interval]
    return Comparison(
        pair=replace(pairs[0], domain=AVERAGE, **sums),
        over=tuple(each.domain for each in pairs),
        difference=math.fsum(difference for difference, _ in estimates) / len(estimates),
        interval=mean_of_intervals(estimates),
        p_exact=p,
        p_mid=None,
        p_adjusted=p,
    )


def p_of_averages(counts: Sequence[tuple[int, int, int]]) -> float:
    """The p-value of two macro averages from `(only_a, only_b, images)` of each domain; of one, it is McNemar's."""
    if len(counts) == 1:
        return mcnemar(*counts[0][:2]).exact
    from fastclip.results.statistics.ranks import macro_test  # NumPy: a tenth of a second

    return macro_test(counts)


def corrected(tests: Sequence[Comparison], correction: str, others: Sequence[float] = ()) -> tuple[Comparison, ...]:
    """The tests of one family, corrected together with the p-values of `others` that belong to it."""
    ps = iter(CORRECTIONS[correction]([*(each.p_exact for each in tests if each.p_exact is not None), *others]))
    return tuple(each if each.p_exact is None else replace(each, p_adjusted=next(ps)) for each in tests)


def family_name(
    place: tuple[str, Sequence[str]],
    common: str,
    subject: str,
    tests: Sequence[Comparison],
    others: Sequence[float] = (),
) -> str:
    """`pacs (4 domains), RN50: 3 prompt sets against photo, the best of them; 15 tests, all pairs`.

    `place` is the dataset and the domains that are tested, `common` all that the columns share; `others` are p-values
    of the pairs that `tests` are not about.
    """
    dataset, domains = place
    where = f"{dataset} ({len(domains)} domains)" if len(domains) > 1 else f"{dataset}/{''.join(domains)}"
    count = counted(sum(each.p_exact is not None for each in tests) + len(others), "test")
    return f"{where}{', ' * bool(common)}{common}: {subject}; {count}{', all pairs' * bool(others)}"


def counted(count: int, noun: str) -> str:
    """`1 test`, `1,234 tests`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
