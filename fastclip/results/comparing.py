"""Columns of a result compared on the same images: families of exact paired tests, all at once, and ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fastclip.errors import UserError
from fastclip.results.caveats import image_lines, is_chosen_on, left_out_lines
from fastclip.results.cells import Column, Evaluation, mean
from fastclip.results.groups import OF, Accuracies, Group, accuracies, groups, label
from fastclip.results.pairs import Pair, find_pair, find_patterns
from fastclip.results.statistics import LEVEL, Interval, bh, cochran, holm, mcnemar, newcombe

CORRECTIONS: Mapping[str, Callable[[Sequence[float]], list[float]]] = {"holm": holm, "bh": bh, "none": list}
MORE = {
    "backbones": "fastclip eval DATASET with several -b, or fastclip compare with several results",
    "prompts": "fastclip eval DATASET with several --prompts, or --of backbones",
    "heads": "fastclip probe and fastclip adapt fit heads; --of backbones or prompts compares zero-shot",
}
FITTED = "Tests are about these heads as they were fitted, not about their methods on other training images."
NOUNS = {"backbones": "backbones", "prompts": "prompt sets", "heads": "heads", "runs": "columns"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One pair of a family in one domain."""

    pair: Pair
    """`b` is the reference."""
    difference: float | None
    """The accuracy of `a` less that of `b`, a fraction of 1; None without images."""
    interval: Interval | None
    """Of the difference: Newcombe's."""
    p_exact: float | None
    """None where one of the two was chosen by the labels of these images: no test says anything then."""
    p_mid: float | None
    p_adjusted: float | None
    """Corrected over the family."""


@dataclass(frozen=True, kw_only=True)
class AllAtOnce:
    """Cochran's Q over all columns of a family in one domain: is there any difference at all?"""

    dataset: str
    domain: str
    columns: int
    q: float
    degrees: int
    p: float


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One column among those that it is compared with, by its macro average over the domains of a dataset.

    By a joint bootstrap of the images of every domain, from the counts of patterns.
    """

    dataset: str
    column: Column
    best: float
    """The share of draws in which no other column is better: where columns tie, both count."""
    low: int
    """Its rank, 1 for the best: the lower end of an interval that holds LEVEL of the draws."""
    high: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """Tests that are corrected together: every column of a group against one reference, over a dataset's domains."""

    name: str
    """`9 backbones, each against RN50, prompts transferlearning, the 4 domains of pacs: 32 tests`."""
    of: str = "backbones"
    """`backbones`, `prompts` or `heads`: by which the columns differ. `runs`: one column, in two runs."""
    reference: Column | None
    """None between two runs, where it is the same column of the other run."""
    correction: str
    """`holm`, `bh` or `none`."""
    tests: tuple[Comparison, ...]
    at_once: tuple[AllAtOnce, ...]
    ranks: tuple[Rank, ...]
    notes: tuple[str, ...] = ()
    """What a reader has to know, such as duplicates among the images, a sentence each."""


def compare(
    evaluation: Evaluation, of: str, *, to: str | None = None, correction: str = "holm", prompts: str | None = None
) -> list[Family]:
    """The families of a result: its backbones, prompt sets or heads against one of them, on the same images.

    `of` is `backbones`, `prompts` or `heads`. Of backbones there is a family for each dataset and each prompt set or
    fitted head; of prompts and heads, one for each dataset and backbone. `to` names the reference. By default it is
    zero-shot for heads, else the column with the best macro average. `prompts` leaves one prompt set; of heads, it says
    which zero-shot is meant. Random weights, and columns without a number, are left out, and a note says so.

    Raises `UserError` where nothing can be compared.
    """
    for value, known in ((of, OF), (correction, CORRECTIONS), (prompts, evaluation.prompts)):
        if value is not None and value not in known:
            raise UserError(f"There is no {value} here to compare.", fix=f"Choose from {', '.join(known)}.")
    found = list(groups(evaluation, of, to, prompts))
    if not found:
        raise UserError(
            f"There are no two {NOUNS[of]} with numbers for the same images.",
            fix=MORE[of],
        )
    families = [_family(evaluation, each, of, correction) for each in found]
    if not any(each.tests for each in families):
        raise UserError(
            "The results do not say which images the columns have right together.",
            fix="Name the folders of the runs. Run again what has no predictions: nothing is embedded twice.",
        )
    return families


def _family(evaluation: Evaluation, group: Group, of: str, correction: str) -> Family:
    dataset, domains = group.dataset, group.domains
    pairs, unknown = [], 0
    for column, scored in group.columns.items():
        for domain in scored if column != group.reference else ():
            if domain in group.columns[group.reference]:
                pair = find_pair(evaluation, dataset, domain, column, group.reference)
                pairs += [pair] if pair else []
                unknown += not pair
    fair = {
        column: scored
        for column, scored in group.columns.items()
        if not any(is_chosen_on(evaluation, column, dataset, domain) for domain in scored)
    }
    tests = corrected([compared(each, _is_fair(evaluation, each)) for each in pairs], correction)
    subject = f"{len(group.columns)} {NOUNS[of]}, each against {label(of, group.reference)}, {group.common}"
    return Family(
        name=f"{subject}, {over(dataset, domains)}: {counted_tests(tests)}",
        of=of,
        reference=group.reference,
        correction=correction,
        tests=tests,
        at_once=tuple(_at_once(evaluation, dataset, domains, fair)),
        ranks=_ranks(evaluation, dataset, domains, fair),
        notes=(
            *left_out_lines(evaluation, dataset),
            *_chosen_lines(of, [each for each in group.columns if each not in fair]),
            *(
                [f"{unknown} pairs are left out: the results do not say which images both have right."]
                if unknown
                else []
            ),
            *([FITTED] if of == "heads" else []),
            *image_lines(evaluation, dataset, domains),
        ),
    )


def over(dataset: str, domains: Sequence[str]) -> str:
    """The place that a family is about: `the 4 domains of pacs`."""
    return f"the {len(domains)} domains of {dataset}" if len(domains) > 1 else f"{dataset}/{''.join(domains)}"


def counted_tests(tests: Sequence[Comparison]) -> str:
    """The size of a family: `32 tests`."""
    count = sum(each.p_exact is not None for each in tests)
    return f"{count} test" if count == 1 else f"{count:,} tests"


def compared(pair: Pair, fair: bool = True) -> Comparison:
    """A pair with its difference, interval and tests, not yet corrected. Without tests if it is not `fair`."""
    test = mcnemar(pair.only_a, pair.only_b) if fair else None
    return Comparison(
        pair=pair,
        difference=(pair.only_a - pair.only_b) / pair.images if pair.images else None,
        interval=newcombe(pair.both, pair.only_a, pair.only_b, pair.neither) if pair.images else None,
        p_exact=test.exact if test else None,
        p_mid=test.mid if test else None,
        p_adjusted=test.exact if test else None,
    )


def corrected(tests: Sequence[Comparison], correction: str) -> tuple[Comparison, ...]:
    """The tests of one family, corrected together."""
    ps = iter(CORRECTIONS[correction]([each.p_exact for each in tests if each.p_exact is not None]))
    return tuple(each if each.p_exact is None else replace(each, p_adjusted=next(ps)) for each in tests)


def _is_fair(evaluation: Evaluation, pair: Pair) -> bool:
    return not any(is_chosen_on(evaluation, each, pair.dataset, pair.domain) for each in (pair.a, pair.b))


def _chosen_lines(of: str, chosen: Sequence[Column]) -> list[str]:
    names = ", ".join(dict.fromkeys(label(of, each) for each in chosen))
    return [f"{names}: chosen by the labels of these images, so there is no p, Q or rank."] if chosen else []


def _at_once(
    evaluation: Evaluation, dataset: str, domains: Sequence[str], columns: Mapping[Column, Accuracies]
) -> Iterator[AllAtOnce]:
    """Cochran's Q in each domain that three or more columns were scored on: of two it is McNemar's."""
    for domain in domains:
        here = [column for column, scored in columns.items() if domain in scored]
        found = find_patterns(evaluation, dataset, domain, here)
        if found and found.images and len(here) > 2:
            test = cochran(found.project(here))
            yield AllAtOnce(dataset=dataset, domain=domain, columns=len(here), q=test.q, degrees=test.degrees, p=test.p)


def _ranks(
    evaluation: Evaluation, dataset: str, domains: Sequence[str], columns: Mapping[Column, Accuracies]
) -> tuple[Rank, ...]:
    """The ranks of the columns that were scored on all domains, if there are two and their patterns are known."""
    whole = [column for column, scored in columns.items() if len(scored) == len(domains)]
    found = [find_patterns(evaluation, dataset, domain, whole) for domain in domains]
    counts = [each.project(whole) for each in found if each and each.images]
    if len(whole) < 2 or len(counts) < len(domains):
        return ()
    from fastclip.results.statistics.ranks import joint_ranks  # NumPy: a tenth of a second

    ranks = zip(whole, joint_ranks(counts), strict=True)
    return tuple(Rank(dataset=dataset, column=column, best=r.best, low=r.low, high=r.high) for column, r in ranks)


def tied_with_best(
    evaluation: Evaluation, dataset: str, columns: Sequence[Column], domain: str | None = None
) -> frozenset[Column]:
    """Those of `columns` that Holm's correction cannot tell from the best of them at 5 %, the best included.

    In a domain each is tested against the best by McNemar's exact test. Without a `domain` it is the macro average
    over all domains of the columns, and the test flips a coin for every discordant image (`ranks.macro_test`, which
    over one domain is McNemar's). The family is all columns but the best.

    A column that has no number, or of which the result does not say which images it has right together with the best,
    is not tied. Leaving out random weights is up to the caller.
    """
    known = accuracies(evaluation, dataset)
    scored = [known.get(each, {}) for each in columns]
    domains = [domain] if domain is not None else list(dict.fromkeys(name for each in scored for name in each))
    numbers = {column: mean([each.get(name) for name in domains]) for column, each in zip(columns, scored, strict=True)}
    best = max((each for each in numbers.values() if each is not None), default=None)
    if best is None:
        return frozenset()
    equal = [each for each in columns if numbers[each] == best]
    tests: dict[Column, float] = {}
    for column in columns:
        pairs = [find_pair(evaluation, dataset, each, column, equal[0]) for each in domains]
        found = [each for each in pairs if each and each.images]
        if numbers[column] not in (None, best) and len(found) == len(domains):
            tests[column] = _p_of_macro(found)
    adjusted = zip(tests, holm(list(tests.values())), strict=True)
    return frozenset([*equal, *(each for each, p in adjusted if p > 1 - LEVEL)])


def _p_of_macro(pairs: Sequence[Pair]) -> float:
    if len(pairs) == 1:
        return pairs[0].p
    from fastclip.results.statistics.ranks import macro_test  # NumPy: a tenth of a second

    return macro_test([(each.only_a, each.only_b, each.images) for each in pairs])
