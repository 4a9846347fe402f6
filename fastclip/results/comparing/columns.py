"""Columns of a result compared on the same images: families of exact paired tests, all at once, and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import combinations

from fastclip.errors import UserError
from fastclip.results.cells import ZERO_SHOT, Column, Evaluation, mean
from fastclip.results.comparing.caveats import image_lines, is_chosen_on, left_out_lines, training_lines
from fastclip.results.comparing.families import AllAtOnce, Comparison, Family, Rank
from fastclip.results.comparing.groups import OF, Accuracies, Group, accuracies, groups, label
from fastclip.results.comparing.tests import (
    CORRECTIONS,
    compared,
    corrected,
    counted,
    family_name,
    p_of_averages,
    with_average,
)
from fastclip.results.pairs import Pair, discordant, find_pair, find_patterns, pairs_with_zero_shot
from fastclip.results.statistics import LEVEL, cochran, holm

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
NOUNS = {"backbones": "backbone", "prompts": "prompt set", "heads": "head", "runs": "column"}


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
        problem = f"There are no two {NOUNS[of]}s with numbers for the same images."
        raise UserError(" ".join(dict.fromkeys([problem, *without])), fix=MORE[of])
    families = [_family(evaluation, each, of, correction) for each in found]
    if not any(each.tests for each in families):
        raise UserError(
            f"Nothing can be compared: {UNKNOWN}",
            fix="Name the folders of the runs. Run again what has no predictions: nothing is embedded twice.",
        )
    return families


def all_families(evaluation: Evaluation) -> Iterator[Family]:
    """All comparisons that the result allows: of its backbones, its prompt sets and its heads."""
    for of in OF:
        with suppress(UserError):  # there are no two of them
            yield from compare(evaluation, of)


def _family(evaluation: Evaluation, group: Group, of: str, correction: str) -> Family:
    dataset, domains = group.dataset, group.domains
    testable = {
        column: scored
        for column, scored in group.columns.items()
        if not any(is_chosen_on(evaluation, column, dataset, domain) for domain in scored)
    }
    known: list[Comparison] = []
    missing = asked = 0
    for pairs in (_pairs(evaluation, group, column) for column in group.columns if column != group.reference):
        found = [compared(each, _is_testable(evaluation, each)) for each in pairs if each]
        known += with_average(found, domains)
        missing, asked = missing + pairs.count(None), asked + len(pairs)
    others = _other_tests(evaluation, group) if group.chosen else []
    tests = corrected(known, correction, others)
    tested = [domain for domain in domains if any(each.pair.domain == domain for each in known)] or domains
    count = counted(len(group.columns) - (not group.chosen), NOUNS[of])
    subject = f"{count} against {label(of, group.reference)}{', the best of them' * group.chosen}"
    ranks, unranked = _ranks(evaluation, group, testable)
    return Family(
        name=family_name((dataset, tested), group.common, subject, tests, others),
        of=of,
        reference=group.reference,
        correction=correction,
        tests=tests,
        others=len(others),
        at_once=tuple(_at_once(evaluation, dataset, domains, testable)),
        ranks=ranks,
        notes=(
            *left_out_lines(evaluation, dataset),
            *training_lines(evaluation, dataset),
            *_chosen_lines(of, [each for each in group.columns if each not in testable]),
            *unranked,
            *([f"{missing:,} of {asked:,} tests are missing: {UNKNOWN}"] if missing else []),
            *([FITTED] if of == "heads" else []),
            *([CHOSEN] if others else []),
            *image_lines(evaluation, dataset, tested),
        ),
    )


def _pairs(evaluation: Evaluation, group: Group, column: Column) -> list[Pair | None]:
    """A column beside the reference where both were scored; None where it is not known which images both have."""
    return [
        find_pair(evaluation, group.dataset, domain, column, group.reference)
        for domain in group.columns[column]
        if domain in group.columns[group.reference]
    ]


def _other_tests(evaluation: Evaluation, group: Group) -> list[float]:
    """The p-values of all pairs without the reference; 1, which makes no other smaller, where one is not known."""
    testable = {
        domain: [
            column
            for column, scored in group.columns.items()
            if domain in scored
            and column != group.reference
            and not is_chosen_on(evaluation, column, group.dataset, domain)
        ]
        for domain in group.domains
    }
    found = {domain: discordant(evaluation, group.dataset, domain, here) for domain, here in testable.items()}
    questions = [(pair, [domain]) for domain, here in testable.items() for pair in combinations(here, 2)]
    if len(testable) > 1:
        whole = [column for column in group.columns if all(column in here for here in testable.values())]
        questions += [(pair, list(testable)) for pair in combinations(whole, 2)]
    ps = []
    for pair, domains in questions:
        counts = [found[domain].get(pair, (0, 0, 0)) for domain in domains]
        ps.append(p_of_averages(counts) if all(images for *_, images in counts) else 1.0)
    return ps


def _is_testable(evaluation: Evaluation, pair: Pair) -> bool:
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
    evaluation: Evaluation, group: Group, testable: Mapping[Column, Accuracies]
) -> tuple[tuple[Rank, ...], list[str]]:
    """The ranks of the columns that were scored on all domains, or a line that says why there are none."""
    dataset, domains = group.dataset, group.domains
    everywhere = [column for column, scored in group.columns.items() if len(scored) == len(domains)]
    if len(everywhere) < 2:
        return (), [f"No ranks: no two of them were scored on all {len(domains)} domains."]
    whole = [column for column in everywhere if column in testable]
    if len(whole) < 2:
        return (), []  # the line about chosen columns says it
    found = [find_patterns(evaluation, dataset, domain, whole) for domain in domains]
    counts = [each.project(whole) for each in found if each and each.images]
    if len(counts) < len(domains):
        return (), ["No ranks: the results do not say which images all of them have right together."]
    from fastclip.results.statistics.ranks import joint_ranks  # NumPy: a tenth of a second

    ranks = zip(whole, joint_ranks(counts), strict=True)
    return tuple(Rank(dataset=dataset, column=column, best=r.best, low=r.low, high=r.high) for column, r in ranks), []


def heads_beside_zero_shot(evaluation: Evaluation) -> dict[str, tuple[Comparison, ...]]:
    """The fitted heads of each dataset and backbone beside zero-shot with the first prompt set, by their family's name.

    Holm's correction is over all of these heads and domains. There are no averages: `compare` has them.
    """
    families: dict[tuple[str, str], list[Pair]] = {}
    for each in pairs_with_zero_shot(evaluation):
        families.setdefault((each.dataset, each.a.backbone), []).append(each)
    found = {}
    for (dataset, backbone), pairs in families.items():
        heads, domains = {each.a.head for each in pairs}, list(dict.fromkeys(each.domain for each in pairs))
        tests = corrected([compared(each, _is_testable(evaluation, each)) for each in pairs], "holm")
        subject = f"{counted(len(heads), 'head')} against {ZERO_SHOT}"
        common = f"{backbone}, prompts {pairs[0].b.prompts}"
        found[family_name((dataset, domains), common, subject, tests)] = tests
    return found


def tied_with_best(
    evaluation: Evaluation, dataset: str, columns: Sequence[Column], domain: str | None = None
) -> frozenset[Column]:
    """Those of `columns` that Holm's correction cannot tell from the best of them at 5 %, the best included.

    In a domain the tests are McNemar's. Without a `domain` they are about the macro average over all domains of the
    columns, a coin for every discordant image (`ranks.macro_test`, which over one domain is McNemar's). The
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
        tests[pair] = p_of_averages(counts) if whole else 1.0  # which makes no other p smaller
        unknown |= set() if whole or best not in pair else set(pair)
    adjusted = zip(tests, holm(list(tests.values())), strict=True)
    tied = {column for pair, p in adjusted if best in pair and p > 1 - LEVEL for column in pair} - unknown
    return frozenset({*tied, *(each for each, number in numbers.items() if number == numbers[best])})
