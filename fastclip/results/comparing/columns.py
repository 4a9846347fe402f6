"""Columns of a result compared on the same images: families of exact paired tests, all at once, and ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from fastclip.errors import UserError
from fastclip.results.cells import Column, Evaluation, mean
from fastclip.results.comparing.caveats import image_lines, is_chosen_on, left_out_lines
from fastclip.results.comparing.families import AllAtOnce, Comparison, Family, Rank
from fastclip.results.comparing.groups import OF, Accuracies, Group, accuracies, groups, label
from fastclip.results.pairs import Pair, discordant, find_pair, find_patterns, pairs_with_zero_shot
from fastclip.results.statistics import LEVEL, bh, cochran, holm, mcnemar, newcombe

CORRECTIONS: Mapping[str, Callable[[Sequence[float]], list[float]]] = {"holm": holm, "bh": bh, "none": list}
MORE = {
    "backbones": "fastclip eval DATASET with several -b, or fastclip compare with several results",
    "prompts": "fastclip eval DATASET with several --prompts, or --of backbones",
    "heads": "fastclip probe and fastclip adapt fit heads; --of backbones or prompts compares zero-shot",
}
FITTED = "Tests are about these heads as they were fitted, not about their methods on other training images."
CHOSEN = (
    "The best was chosen by these very numbers, so p is corrected over all pairs. fastclip compare --to NAME has fewer."
)
UNKNOWN = "the results do not say which images two of them have right together."
NOUNS = {"backbones": "backbones", "prompts": "prompt sets", "heads": "heads", "runs": "columns"}


def compare(
    evaluation: Evaluation, of: str, *, to: str | None = None, correction: str = "holm", prompts: str | None = None
) -> list[Family]:
    """The families of a result: its backbones, prompt sets or heads against one of them, on the same images.

    `of` is `backbones`, `prompts` or `heads`. Of backbones there is a family for each dataset and each prompt set or
    fitted head; of prompts and heads, one for each dataset and backbone. `to` names the reference. By default it is
    zero-shot for heads, else the column with the best macro average. One that these numbers have chosen is sure to look
    good, so p is then corrected over all pairs of the group; over tests with it alone, 11 of 100 families of nine equal
    backbones on one domain had a false positive, instead of 5. `prompts` leaves one prompt set; of heads, it says which
    zero-shot is meant. Random weights, and columns without a number, are left out, and a note says so.

    Raises `UserError` where nothing can be compared.
    """
    for value, known in ((of, OF), (correction, CORRECTIONS), (prompts, evaluation.prompts)):
        if value is not None and value not in known:
            raise UserError(f"There is no {value} here to compare.", fix=f"Choose from {', '.join(known)}.")
    found = list(groups(evaluation, of, to, prompts))
    if not found:
        without = [line for each in evaluation.datasets for line in left_out_lines(evaluation, each.name)]
        problem = f"There are no two {NOUNS[of]} with numbers for the same images."
        raise UserError(" ".join(dict.fromkeys([problem, *without])), fix=MORE[of])
    families = [_family(evaluation, each, of, correction) for each in found]
    if not any(each.tests for each in families):
        raise UserError(
            f"Nothing can be compared: {UNKNOWN}",
            fix="Name the folders of the runs. Run again what has no predictions: nothing is embedded twice.",
        )
    return families


def _family(evaluation: Evaluation, group: Group, of: str, correction: str) -> Family:
    dataset, domains = group.dataset, group.domains
    pairs = _pairs(evaluation, group)
    fair = {
        column: scored
        for column, scored in group.columns.items()
        if not any(is_chosen_on(evaluation, column, dataset, domain) for domain in scored)
    }
    others = _other_tests(evaluation, group) if group.chosen else []
    known = [compared(each, _is_fair(evaluation, each)) for each in pairs if each]
    tests = corrected(known, correction, others)
    reference = label(of, group.reference) + ", the best of them" * group.chosen
    subject = f"{len(group.columns)} {NOUNS[of]}, each against {reference}, {group.common}"
    return Family(
        name=f"{subject}, {over(dataset, domains)}: {counted_tests(tests, others)}",
        of=of,
        reference=group.reference,
        correction=correction,
        tests=tests,
        others=len(others),
        at_once=tuple(_at_once(evaluation, dataset, domains, fair)),
        ranks=_ranks(evaluation, dataset, domains, fair),
        notes=(
            *left_out_lines(evaluation, dataset),
            *_chosen_lines(of, [each for each in group.columns if each not in fair]),
            *([f"{pairs.count(None):,} of {len(pairs):,} tests are missing: {UNKNOWN}"] if None in pairs else []),
            *([FITTED] if of == "heads" else []),
            *([CHOSEN] if others else []),
            *image_lines(evaluation, dataset, domains),
        ),
    )


def _pairs(evaluation: Evaluation, group: Group) -> list[Pair | None]:
    """Every column beside the reference where both were scored; None where it is not known which images both have."""
    return [
        find_pair(evaluation, group.dataset, domain, column, group.reference)
        for column, scored in group.columns.items()
        for domain in scored
        if column != group.reference and domain in group.columns[group.reference]
    ]


def over(dataset: str, domains: Sequence[str]) -> str:
    """The place that a family is about: `the 4 domains of pacs`."""
    return f"the {len(domains)} domains of {dataset}" if len(domains) > 1 else f"{dataset}/{''.join(domains)}"


def counted_tests(tests: Sequence[Comparison], others: Sequence[float] = ()) -> str:
    """The size of a family: `32 tests`, or `144 tests, of all pairs`."""
    count = sum(each.p_exact is not None for each in tests) + len(others)
    return f"{count:,} test{'s' * (count != 1)}{', of all pairs' * bool(others)}"


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


def corrected(tests: Sequence[Comparison], correction: str, others: Sequence[float] = ()) -> tuple[Comparison, ...]:
    """The tests of one family, corrected together with the p-values of `others` that belong to it."""
    ps = iter(CORRECTIONS[correction]([*(each.p_exact for each in tests if each.p_exact is not None), *others]))
    return tuple(each if each.p_exact is None else replace(each, p_adjusted=next(ps)) for each in tests)


def _other_tests(evaluation: Evaluation, group: Group) -> list[float]:
    """The p-values of all pairs without the reference; 1, which makes no other smaller, where one is not known."""
    ps = []
    for domain in group.domains:
        here = [
            column
            for column, scored in group.columns.items()
            if domain in scored
            and column != group.reference
            and not is_chosen_on(evaluation, column, group.dataset, domain)
        ]
        found = discordant(evaluation, group.dataset, domain, here)
        ps += [mcnemar(*found[pair][:2]).exact if pair in found else 1.0 for pair in combinations(here, 2)]
    return ps


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


def heads_beside_zero_shot(evaluation: Evaluation) -> dict[str, tuple[Comparison, ...]]:
    """The fitted heads of each dataset and backbone beside zero-shot with the first prompt set, by their family's name.

    Holm's correction is over all of these heads and domains.
    """
    families: dict[tuple[str, str], list[Pair]] = {}
    for each in pairs_with_zero_shot(evaluation):
        families.setdefault((each.dataset, each.a.backbone), []).append(each)
    found = {}
    for (dataset, backbone), pairs in families.items():
        heads, domains = ({each.a.head for each in pairs}, list(dict.fromkeys(each.domain for each in pairs)))
        tests = corrected([compared(each, _is_fair(evaluation, each)) for each in pairs], "holm")
        subject = f"{len(heads)} head{'s' * (len(heads) > 1)} against zero-shot, {backbone}"
        found[f"{subject}, {over(dataset, domains)}: {counted_tests(tests)}"] = tests
    return found


def tied_with_best(
    evaluation: Evaluation, dataset: str, columns: Sequence[Column], domain: str | None = None
) -> frozenset[Column]:
    """Those of `columns` that Holm's correction cannot tell from the best of them at 5 %, the best included.

    In a domain the tests are McNemar's. Without a `domain` they are about the macro average over all domains of the
    columns, and flip a coin for every discordant image (`ranks.macro_test`, which over one domain is McNemar's). The
    best was chosen by these numbers, so the family is all pairs of the columns that have a number.

    A column of which the result does not say which images it has right together with the best is not tied, unless
    their numbers are equal. Leaving out random weights is up to the caller.
    """
    known = accuracies(evaluation, dataset)
    wanted = [domain] if domain is not None else list(dict.fromkeys(d for each in columns for d in known.get(each, {})))
    means = {each: mean([known.get(each, {}).get(name) for name in wanted]) for each in columns}
    numbers = {column: number for column, number in means.items() if number is not None}
    if not numbers:
        return frozenset()
    best = max(numbers, key=numbers.__getitem__)
    found = [discordant(evaluation, dataset, each, list(numbers)) for each in wanted]
    tests: dict[tuple[Column, Column], float] = {}
    unknown: set[Column] = set()
    for pair in combinations(numbers, 2):
        counts = [each[pair] for each in found if pair in each and each[pair][2]]
        whole = len(counts) == len(found)
        tests[pair] = _p_of_macro(counts) if whole else 1.0  # which makes no other p smaller
        unknown |= set() if whole or best not in pair else set(pair)
    adjusted = zip(tests, holm(list(tests.values())), strict=True)
    tied = {column for pair, p in adjusted if best in pair and p > 1 - LEVEL for column in pair} - unknown
    return frozenset({*tied, *(each for each, number in numbers.items() if number == numbers[best])})


def _p_of_macro(counts: Sequence[tuple[int, int, int]]) -> float:
    if len(counts) == 1:
        return mcnemar(*counts[0][:2]).exact
    from fastclip.results.statistics.ranks import macro_test  # NumPy: a tenth of a second

    return macro_test(counts)
