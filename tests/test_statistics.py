"""Intervals and tests of counts: known answers, SciPy, statsmodels, and plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2, false_discovery_control
from statsmodels.stats.contingency_tables import cochrans_q
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from fastclip.results.statistics import (
    Interval,
    bh,
    cochran,
    holm,
    mcnemar,
    mean_interval,
    mean_of_intervals,
    newcombe,
    wilson,
)
from fastclip.results.statistics.paired import MOST_COUNTED, chi_square_tail
from fastclip.results.statistics.ranks import joint_ranks, macro_test

SHARES = st.integers(1, 10**6).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images)))


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [(2009, 2427, 0.8122340888, 0.8422717796), (1670, 1670, 0.9977050044, 1), (0, 10, 0, 0.2775327999)],
)
def test_wilson_has_the_known_limits(right: int, images: int, low: float, high: float):
    found = wilson(right, images)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-11)
    assert found.method == "Wilson" and found.level == 0.95


@given(SHARES, st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipys_and_statsmodels(share: tuple[int, int], level: float):
    found = wilson(*share, level)
    of_scipy = binomtest(*share).proportion_ci(level, "wilson")
    assert (found.low, found.high) == pytest.approx((of_scipy.low, of_scipy.high), abs=1e-10)
    assert (found.low, found.high) == pytest.approx(proportion_confint(*share, 1 - level, "wilson"), abs=1e-10)
    assert 0 <= found.low <= share[0] / share[1] <= found.high <= 1


def test_the_interval_of_a_mean_is_the_known_one():
    """Office-31 by ViT-B/32: the published counts of amazon, dslr and webcam."""
    counts = [(2188, 2817), (404, 498), (644, 795)]
    found = mean_interval(counts)
    mean = float(sum(Fraction(*each) for each in counts) / 3)
    assert (mean, found.low, found.high) == pytest.approx((0.7993402, 0.7829402, 0.8139002), abs=5e-8)


@given(SHARES)
def test_the_mean_of_one_share_has_its_own_interval_and_of_two_equal_ones_a_shorter_one(share: tuple[int, int]):
    one, two, alone = mean_interval([share]), mean_interval([share, share]), wilson(*share)
    assert (one.low, one.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    assert two.high - two.low == pytest.approx((one.high - one.low) / math.sqrt(2), abs=1e-12)


def test_newcombe_has_the_known_limits():
    found = newcombe(36, 12, 2, 0)
    assert (round(found.low, 4), round(found.high, 4)) == (0.0569, 0.3404)


@given(*[st.integers(0, 500)] * 4)
def test_newcombe_holds_the_difference_and_turns_around(both: int, only_a: int, only_b: int, neither: int):
    images = both + only_a + only_b + neither
    if not images:
        return
    found, turned = newcombe(both, only_a, only_b, neither), newcombe(both, only_b, only_a, neither)
    assert -1 - 1e-12 <= found.low <= (only_a - only_b) / images + 1e-12
    assert (only_a - only_b) / images - 1e-12 <= found.high <= 1 + 1e-12
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low), abs=1e-12)


def test_newcombe_covers_the_truth_in_19_of_20_samples():
    """Two columns, .8 and .7 right, that are often right together: 4,000 samples of 150 images."""
    random = np.random.default_rng(3)
    samples = random.multinomial(150, [0.65, 0.15, 0.05, 0.15], 4000)
    held = [(each := newcombe(*map(int, row))).low <= 0.1 <= each.high for row in samples]
    assert 0.94 < np.mean(held) < 0.965


def mean_of_differences(rows: Sequence[Sequence[int]]) -> Interval:
    """The interval of the mean of paired differences: of both, only the first, only the second, and neither right."""
    return mean_of_intervals([((row[1] - row[2]) / sum(row), newcombe(*row)) for row in rows])


@given(st.tuples(*[st.integers(0, 500)] * 3, st.integers(1, 500)))
def test_the_mean_of_one_difference_has_newcombes_interval_and_of_four_equal_ones_half_of_it(
    counts: tuple[int, int, int, int],
):
    one, alone = mean_of_differences([counts]), newcombe(*counts)
    assert (one.low, one.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    four = mean_of_differences([counts] * 4)
    assert four.high - four.low == pytest.approx((one.high - one.low) / 2, abs=1e-12)


def test_the_interval_of_a_mean_of_differences_covers_the_truth_in_19_of_20_samples():
    """Two columns in three domains of 60, 150 and 400 images, by which the first is better by 5 points on average."""
    random = np.random.default_rng(8)
    truth = [(60, [0.6, 0.2, 0.1, 0.1]), (150, [0.65, 0.15, 0.05, 0.15]), (400, [0.5, 0.1, 0.15, 0.25])]
    samples = zip(*(random.multinomial(images, shares, 3000).tolist() for images, shares in truth), strict=True)
    held = [(each := mean_of_differences(rows)).low <= 0.05 <= each.high for rows in samples]
    assert 0.94 < np.mean(held) < 0.965


@pytest.mark.parametrize(
    ("first", "second", "exact", "mid"),
    [
        (1, 9, 0.021484375, 0.01171875),
        (10, 20, 0.0987371467, 0.0707555460),
        (121, 59, 4.43444926e-6, 3.26664680e-6),
        (5, 5, 1, 0.876953125),
        (0, 0, 1, 1),
    ],
)
def test_mcnemar_has_the_known_values(first: int, second: int, exact: float, mid: float):
    for found in (mcnemar(first, second), mcnemar(second, first)):
        assert (found.exact, found.mid) == pytest.approx((exact, mid), rel=5e-9)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_statsmodels(first: int, second: int):
    found = mcnemar(first, second)
    theirs = float(statsmodels_mcnemar([[7, first], [second, 7]], exact=True).pvalue)
    assert found.exact == pytest.approx(theirs, rel=1e-9, abs=1e-290)  # theirs is 0 for 10 of 1,075, at 3e-300
    assert 0 <= found.mid <= found.exact <= 1


def test_many_discordant_images_give_the_same_p_as_whole_numbers():
    total, ways, tail = MOST_COUNTED + 1, 1, 1
    for least in range(1, total // 2 + 1):
        ways = ways * (total - least + 1) // least
        tail += ways
        if least in (8_300, 9_500, 9_900, 10_000):
            found = mcnemar(least, total - least)
            assert found.exact == pytest.approx(2 * tail / 2**total, rel=1e-10)
            assert found.mid == pytest.approx((2 * tail - ways) / 2**total, rel=1e-10)


def test_a_p_value_too_small_for_a_float_is_zero_and_none_exceeds_one():
    assert mcnemar(0, 10**6).exact == mcnemar(10, 10**6).exact == mcnemar(0, 20_000).exact == 0
    assert mcnemar(500_000, 500_001).exact == pytest.approx(1, rel=1e-12)
    assert mcnemar(500_000, 500_001).exact <= 1
    assert mcnemar(10**6, 10**6).exact == 1
    assert mcnemar(1, 0).exact == 1


def test_corrections_have_the_known_values():
    ps = [0.01, 0.04, 0.03, 0.005, 0.2]
    assert holm(ps) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.2])
    assert bh(ps) == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.2])
    assert holm([]) == bh([]) == []


@pytest.mark.parametrize("tests", [1, 2, 36])
def test_corrections_are_statsmodels(tests: int):
    ps = list(np.random.default_rng(tests).uniform(0, 1.2, tests).clip(0, 1) ** 3)
    assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1], abs=1e-12)
    assert bh(ps) == pytest.approx(multipletests(ps, method="fdr_bh")[1], abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_bh_is_scipys_and_never_above_holm(ps: Sequence[float]):
    assert bh(ps) == pytest.approx(false_discovery_control(ps), abs=1e-12)
    assert all(p <= of_bh + 1e-12 <= of_holm + 2e-12 for p, of_bh, of_holm in zip(ps, bh(ps), holm(ps), strict=True))


@given(st.lists(st.tuples(st.integers(0, 31), st.integers(1, 9)), min_size=1, max_size=12), st.integers(2, 5))
def test_cochrans_q_is_statsmodels(drawn: Sequence[tuple[int, int]], columns: int):
    counts: dict[str, int] = {}
    for code, images in drawn:
        bits = format(code, "05b")[:columns]
        counts[bits] = counts.get(bits, 0) + images
    found = cochran(counts)
    answers = np.array([[int(bit) for bit in bits] for bits, images in counts.items() for _ in range(images)])
    if set(counts) <= {"0" * columns, "1" * columns}:
        assert (found.q, found.p) == (0, 1)  # statsmodels: 0 / 0
    else:
        theirs = cochrans_q(answers)
        assert (found.q, found.p) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9, abs=1e-12)
    assert found.degrees == columns - 1


@pytest.mark.parametrize("degrees", [1, 2, 3, 8, 27, 100])
@pytest.mark.parametrize("value", [0.0, 0.01, 1.0, 30.0, 700.0])
def test_the_chi_square_tail_is_scipys(value: float, degrees: int):
    assert chi_square_tail(value, degrees) == pytest.approx(float(chi2.sf(value, degrees)), rel=1e-10, abs=1e-300)


def resampled(domains: Sequence[dict[str, int]], draws: int) -> tuple[np.ndarray, np.ndarray]:
    """The share of draws in which each column is the best, and all its ranks, by drawing image after image."""
    random = np.random.default_rng(5)
    answers = [np.array([list(map(int, b)) for b, k in each.items() for _ in range(k)], float) for each in domains]
    ranks = []
    for _ in range(draws):
        macro = sum(each[random.integers(len(each), size=len(each))].mean(axis=0) for each in answers).round(9)
        ranks.append([1 + int((macro > own).sum()) for own in macro])
    table = np.sort(np.array(ranks), axis=0)
    return (table == 1).mean(axis=0), table


def test_ranks_are_those_of_drawing_images_one_by_one():
    domains = [{"110": 30, "011": 25, "100": 12, "000": 9, "111": 40}, {"101": 8, "010": 7, "111": 5}]
    best, ranks = resampled(domains, 4000)
    for place, found in enumerate(joint_ranks(domains)):
        assert found.best == pytest.approx(best[place], abs=0.03)
        assert (found.low, found.high) == (ranks[100, place], ranks[3899, place])


def test_equal_counts_give_equal_ranks_whatever_their_order_and_other_counts_others():
    counts = {"10": 31, "01": 29, "11": 40}
    turned = dict(reversed(counts.items()))
    assert joint_ranks([counts]) == joint_ranks([turned]) == joint_ranks([counts])
    assert joint_ranks([counts]) != joint_ranks([{**counts, "11": 41}])


def test_equal_columns_share_the_first_rank_and_a_better_one_is_always_best():
    same = joint_ranks([{"11": 3, "00": 2}])
    assert [(each.best, each.low, each.high) for each in same] == [(1, 1, 1)] * 2
    clear = joint_ranks([{"10": 500, "11": 400}, {"10": 1}])
    assert [(each.best, each.low, each.high) for each in clear] == [(1, 1, 1), (0, 2, 2)]
    assert joint_ranks([{"1": 1}])[0].best == 1


def test_domains_weigh_the_same_however_many_images_they_have():
    """The first column wins a domain of 10,000 images by little, the second one of 100 by much."""
    large, small = {"10": 100, "11": 9_900}, {"01": 50, "11": 50}
    assert joint_ranks([large, small])[1].best == 1
    assert joint_ranks([large])[0].best == 1


def test_ranks_do_not_depend_on_how_many_draws_are_made_at_once(monkeypatch: pytest.MonkeyPatch):
    counts = {"".join(bits): 3 + place for place, bits in enumerate(itertools.product("01", repeat=3))}
    whole = joint_ranks([counts, counts])
    monkeypatch.setattr("fastclip.results.statistics.ranks.AT_ONCE", 100)
    assert joint_ranks([counts, counts]) == whole


@pytest.mark.parametrize(("first", "second"), [(1, 9), (10, 20), (121, 59), (5, 5), (0, 0), (0, 5), (5000, 5600)])
def test_over_one_domain_the_test_of_macro_averages_is_mcnemars(first: int, second: int):
    assert macro_test([(first, second, 20_000)]) == pytest.approx(mcnemar(first, second).exact, rel=1e-6)


@pytest.mark.parametrize(
    "domains",
    [
        [(4, 1, 10), (1, 3, 40)],
        [(9, 0, 31), (4, 1, 23), (1, 3, 40), (7, 2, 17)],
        [(30, 4, 200), (25, 3, 150), (0, 0, 80)],
        [(2, 9, 90), (9, 2, 90)],
    ],
)
def test_the_test_of_macro_averages_counts_every_flip_of_small_domains(domains: Sequence[tuple[int, int, int]]):
    seen = abs(sum(Fraction(only_a - only_b, images) for only_a, only_b, images in domains))
    so_large = 0
    for heads in itertools.product(*(range(only_a + only_b + 1) for only_a, only_b, _ in domains)):
        flipped = zip(heads, domains, strict=True)
        if abs(sum(Fraction(2 * each - only_a - only_b, images) for each, (only_a, only_b, images) in flipped)) >= seen:
            coins = zip(heads, domains, strict=True)
            so_large += math.prod(math.comb(only_a + only_b, each) for each, (only_a, only_b, _) in coins)
    p = so_large / 2 ** sum(only_a + only_b for only_a, only_b, _ in domains)
    assert p - 1e-14 <= macro_test(domains) <= p * 1.01 + 1e-14


def test_the_test_of_macro_averages_is_not_below_what_it_can_count():
    assert macro_test([(300, 0, 400), (300, 0, 400)]) == 1e-12
    assert macro_test([(0, 0, 10), (0, 0, 20)]) == 1
