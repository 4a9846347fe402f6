"""Columns of a result compared on the same images: counted by plain loops, corrected by statsmodels."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np
import pytest
from drawn_answers import columns, draw, result, used
from drawn_tables import drawn_result
from helpers import Program, run
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import cochrans_q
from statsmodels.stats.multitest import multipletests
from test_floors import in_a_new_process

from fastclip.errors import UserError
from fastclip.results.cells import Column, Evaluation, UsedPrompts
from fastclip.results.comparing.columns import compare, heads_beside_zero_shot, tied_with_best
from fastclip.results.comparing.families import Comparison, Family
from fastclip.results.comparing.file import to_json
from fastclip.results.files.result import to_json as result_to_json
from fastclip.results.files.result_reader import parse_result
from fastclip.results.patterns import MOST_PATTERNS

DOMAINS = {"art": 120, "photo": 77, "sketch": 300}
NINE = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")
METHODS = [("holm", "holm"), ("bh", "fdr_bh")]


def in_domains(family: Family) -> list[Comparison]:
    """The tests without those of averages."""
    return [each for each in family.tests if not each.over]


def averages(family: Family) -> list[Comparison]:
    return [each for each in family.tests if each.over]


@pytest.mark.parametrize(("correction", "method"), METHODS)
def test_a_family_counts_every_pair_and_corrects_over_all_domains(correction: str, method: str):
    found = columns()
    right = draw(found, DOMAINS)
    (family,) = compare(result(right), "backbones", to="RN50", correction=correction)
    assert family.name == "pacs (3 domains), prompts photo: 2 backbones against RN50; 8 tests"
    expected = [
        (column, domain, sum(a > b for a, b in zip(own[column], own[found[0]], strict=True)),
         sum(a < b for a, b in zip(own[column], own[found[0]], strict=True)))
        for column in found[1:] for domain, own in right.items()
    ]  # fmt: skip
    tests = in_domains(family)
    counted = [(each.pair.a, each.pair.domain, each.pair.only_a, each.pair.only_b) for each in tests]
    assert counted == expected
    ps = [binomtest(min(gained, lost), gained + lost).pvalue for *_, gained, lost in expected]
    assert [each.p_exact for each in tests] == pytest.approx(ps)
    ps = [each.p_exact for each in family.tests]  # with the averages
    assert [each.p_adjusted for each in family.tests] == pytest.approx(list(multipletests(ps, method=method)[1]))
    for each, (_, domain, gained, lost) in zip(tests, expected, strict=True):
        assert each.difference == pytest.approx((gained - lost) / DOMAINS[domain])
        assert each.interval and each.interval.low <= each.difference <= each.interval.high
        assert each.pair.images == DOMAINS[domain]


@pytest.mark.parametrize(("correction", "method"), METHODS)
def test_against_a_reference_that_the_numbers_chose_p_is_corrected_over_all_pairs(correction: str, method: str):
    found = columns(NINE[:4])
    right = draw(found, DOMAINS)
    (family,) = compare(result(right), "backbones", correction=correction)
    subject = "4 backbones against RN50x16, the best of them; 24 tests, all pairs"
    assert family.name == f"pacs (3 domains), prompts photo: {subject}"
    ps = {
        (domain, a, b): binomtest(int((own[a] & ~own[b]).sum()), int((own[a] != own[b]).sum())).pvalue
        for domain, own in right.items()
        for a, b in combinations(found, 2)
    }
    for a, b in combinations(found, 2):
        (average,) = averages(compare(result({d: {a: own[a], b: own[b]} for d, own in right.items()}), "backbones")[0])
        ps["average", a, b] = average.p_exact
    adjusted = dict(zip(ps, multipletests(list(ps.values()), method=method)[1], strict=True))
    for each in family.tests:
        assert each.p_adjusted == pytest.approx(adjusted[each.pair.domain, each.pair.a, each.pair.b])


def test_the_average_has_its_own_difference_interval_and_p_after_the_domains_of_a_column():
    """p by all the ways to swap the two answers of every image; the interval from those of the domains."""
    found = columns(("RN50", "RN101"))
    right = draw(found, {"art": 9, "photo": 14, "sketch": 11}, 4)
    (family,) = compare(result(right), "backbones", to="RN50", correction="none")
    *domains, average = family.tests
    assert [each.pair.domain for each in domains] == list(average.over) == ["art", "photo", "sketch"]
    assert average.pair.domain == "average" and average.pair.images == 34
    leads = [own[found[1]].astype(int) - own[found[0]] for own in right.values()]
    assert average.difference == pytest.approx(np.mean([each.mean() for each in leads]))
    weights = [1 / len(each) for each in leads for lead in each if lead]
    swapped = [abs(np.dot(signs, weights)) for signs in product((-1, 1), repeat=len(weights))]
    seen = abs(sum(each.mean() for each in leads))
    assert 0.05 < average.p_exact < 0.95
    assert average.p_exact == pytest.approx(np.mean(np.array(swapped) >= seen - 1e-12), rel=0.01)
    down, up = (
        np.sqrt(sum((getattr(each.interval, end) - each.difference) ** 2 for each in domains)) / 3
        for end in ("low", "high")
    )
    assert average.interval.low == pytest.approx(average.difference - down)
    assert average.interval.high == pytest.approx(average.difference + up)


def test_there_is_no_average_over_one_domain_nor_where_a_domain_is_missing():
    found = columns()
    right = {domain: dict(own) for domain, own in draw(found, DOMAINS).items()}
    (family,) = compare(result({"art": right["art"]}), "backbones")
    assert len(family.tests) == 2 and averages(family) == []
    (family,) = compare(replace(made := result(right), patterns=made.patterns[1:]), "backbones")
    assert len(family.tests) == 4 and averages(family) == []
    del right["art"][found[1]]
    (family,) = compare(result(right), "backbones", to="RN50")
    assert [each.pair.a for each in averages(family)] == [found[2]]


def test_of_nine_equal_columns_the_best_is_seldom_told_from_another():
    """Corrected over its own eight tests alone, it would be in 23 of these 200 draws."""
    found = columns(NINE)
    random = np.random.default_rng(6)
    told = 0
    for _ in range(200):
        equal = {"art": {column: random.random(200) < 0.7 for column in found}}
        told += tied_with_best(result(equal), "pacs", found, "art") != set(found)
    assert told <= 10


def test_without_a_correction_the_p_values_stay():
    (family,) = compare(result(draw(columns(), DOMAINS)), "backbones", correction="none")
    assert [each.p_adjusted for each in family.tests] == [each.p_exact for each in family.tests]


def test_the_reference_is_the_best_average_and_for_heads_zero_shot():
    found = columns(prompts=("photo", "openai80"))
    made = result(draw(found, DOMAINS))
    assert [each.reference for each in compare(made, "backbones")] == [found[4], found[5]]
    assert [each.reference for each in compare(made, "prompts")] == [found[1], found[3], found[5]]
    heads = [Column("RN50", "zero-shot", "photo"), Column("RN50", "ridge"), Column("RN50", "knn")]
    (family,) = compare(result(draw(heads, DOMAINS)), "heads")
    assert family.reference == heads[0] and {each.pair.b for each in family.tests} == {heads[0]}
    (family,) = compare(result(draw(heads, DOMAINS)), "heads", to="ridge")
    assert family.reference == heads[1]


def test_prompts_leaves_one_prompt_set_and_for_heads_says_which_zero_shot_is_meant():
    found = columns(prompts=("photo", "openai80"))
    (family,) = compare(result(draw(found, DOMAINS)), "backbones", prompts="openai80")
    assert {each.pair.a.prompts for each in family.tests} == {"openai80"}
    heads = [*columns(("RN50",), ("photo", "openai80")), Column("RN50", "ridge")]
    for prompts, reference in (("photo", heads[0]), ("openai80", heads[1]), (None, heads[0])):
        (family,) = compare(result(draw(heads, DOMAINS)), "heads", prompts=prompts)
        assert family.reference == reference and len(in_domains(family)) == len(DOMAINS)


def test_heads_are_compared_where_they_were_scored_and_ranked_where_all_were():
    zero_shot, ridge, other = Column("RN50", "zero-shot", "photo"), Column("RN50", "ridge"), Column("RN50", "knn")
    right = {domain: dict(own) for domain, own in draw([zero_shot, ridge, other], DOMAINS).items()}
    del right["art"][other]
    (family,) = compare(result(right), "heads")
    assert [each.pair.domain for each in family.tests if each.pair.a == other] == ["photo", "sketch"]
    assert [each.pair.a for each in averages(family)] == [ridge]
    assert [each.column for each in family.ranks] == [zero_shot, ridge]
    assert [(each.domain, each.columns) for each in family.at_once] == [("photo", 3), ("sketch", 3)]


def test_a_family_names_the_domains_that_it_tests_and_says_why_there_are_no_ranks():
    zero_shot, ridge, knn = Column("RN50", "zero-shot", "photo"), Column("RN50", "ridge"), Column("RN50", "knn")
    right = {domain: dict(own) for domain, own in draw([zero_shot, ridge, knn], DOMAINS).items()}
    for domain in ("art", "photo"):
        del right[domain][ridge], right[domain][knn]
    (family,) = compare(result(right), "heads")
    assert family.name == "pacs/sketch, RN50, prompts photo: 2 heads against zero-shot; 2 tests"
    assert family.ranks == () and "No ranks: no two of them were scored on all 3 domains." in family.notes
    (family,) = compare(replace(made := result(right), patterns=made.patterns[2:]), "heads")
    assert family.name.startswith("pacs/sketch, ")


def test_fitted_heads_in_a_result_are_a_family_of_the_same_name_as_compares():
    heads = [Column("RN50", "zero-shot", "photo"), Column("RN50", "fitted")]
    made = result(draw(heads, DOMAINS))
    facts = drawn_result({(domain, "RN50", "fitted"): (1, 2) for domain in DOMAINS}, dataset="pacs").heads
    (name,) = heads_beside_zero_shot(replace(made, heads=facts))
    assert name == "pacs (3 domains), RN50, prompts photo: 1 head against zero-shot; 3 tests"
    pairs = json.loads(result_to_json(replace(made, heads=facts)))["pairs"]
    assert {each["family"]["name"] for each in pairs} == {name} and all(each["over"] == [] for each in pairs)
    (family,) = compare(made, "heads")
    assert family.name == name.replace("3 tests", "4 tests")  # it has the average, too


def test_cochrans_q_is_statsmodels_and_two_columns_have_none():
    right = draw(columns(), DOMAINS)
    (family,) = compare(result(right), "backbones")
    for each in family.at_once:
        theirs = cochrans_q(np.stack(list(right[each.domain].values()), axis=1).astype(int))
        assert (each.q, each.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert [each.domain for each in family.at_once] == list(DOMAINS)
    (family,) = compare(result(draw(columns(("RN50", "RN101")), DOMAINS)), "backbones")
    assert family.at_once == () and len(family.ranks) == 2


def test_ranks_follow_the_averages_and_a_clear_winner_is_first():
    (family,) = compare(result(draw(columns(), {"art": 3000, "photo": 3000})), "backbones")
    assert [(each.column.backbone, each.best, each.low, each.high) for each in family.ranks] == [
        ("RN50", 0, 3, 3), ("RN101", 0, 2, 2), ("ViT-B/32", 1, 1, 1)
    ]  # fmt: skip


def selected(made: Evaluation, **selection: object) -> Evaluation:
    """The result, whose prompts openai80 were selected."""
    chosen = UsedPrompts(templates=("a {}",), selection=selection)
    return replace(made, prompts={**made.prompts, "openai80": chosen})


def test_prompts_that_labels_of_the_same_images_chose_get_no_p_no_q_and_no_rank():
    found = columns(("RN50",), ("photo", "openai80", "other", "more"))
    made = result(draw(found, DOMAINS))
    (family,) = compare(selected(made, labels_used=True, selected_on="all"), "prompts", to="photo")
    chosen = [each for each in family.tests if each.pair.a.prompts == "openai80"]
    assert len(chosen) == 4 and all(each.interval for each in chosen)
    assert {(each.p_exact, each.p_mid, each.p_adjusted) for each in chosen} == {(None, None, None)}
    assert family.name.endswith("; 8 tests") and any("openai80: chosen by the labels" in each for each in family.notes)
    assert {each.columns for each in family.at_once} == {3}
    assert found[1] not in [each.column for each in family.ranks]
    right = {
        domain: {each: own[each] for each in found if each != found[1]} for domain, own in draw(found, DOMAINS).items()
    }
    (without,) = compare(result(right), "prompts", to="photo")
    assert [each.p_adjusted for each in family.tests if each.p_exact is not None] == [
        each.p_adjusted for each in without.tests
    ]


def test_prompts_that_were_chosen_elsewhere_or_without_labels_are_tested():
    made = result(draw(columns(("RN50",), ("photo", "openai80")), DOMAINS))
    for selection in ({"labels_used": True, "selected_on": ["officehome/Art"]}, {"labels_used": False}):
        (family,) = compare(selected(made, **selection), "prompts")
        assert all(each.p_exact is not None for each in family.tests)
    (family,) = compare(selected(made, labels_used=True, selected_on=["art", "pacs/photo"]), "prompts")
    assert [each.pair.domain for each in family.tests if each.p_exact is not None] == ["sketch"]


def test_random_weights_and_columns_without_a_number_are_left_out_by_name():
    made = result(draw(columns(NINE[:4]), DOMAINS))
    recipes = [used("pacs", "RN50", weights="drawn"), *made.recipes[1:]]
    cells = [
        replace(cell, missing_shards=1, classified=0, top1=0, top5=0) if cell.backbone == "RN101" else cell
        for cell in made.cells
    ]
    (family,) = compare(replace(made, recipes=tuple(recipes), cells=tuple(cells)), "backbones")
    assert {each.pair.a.backbone for each in family.tests} | {family.reference.backbone} == {"RN50x4", "RN50x16"}
    assert family.notes[:2] == (
        "Not compared: RN50 (random weights).",
        "Not compared: RN101 (a domain without a number).",
    )


def test_nothing_but_random_weights_is_refused_with_the_reason():
    made = result(draw(columns(), DOMAINS))
    drawn = [used("pacs", each.backbone, weights="drawn") for each in made.recipes]
    with pytest.raises(UserError, match=r"no two backbones .* Not compared: RN50, RN101, ViT-B/32 \(random weights\)"):
        compare(replace(made, recipes=tuple(drawn)), "backbones")


def test_images_that_repeat_and_bursts_are_said():
    made = result(draw(columns(), DOMAINS), "terraincognita")
    (facts,) = made.datasets
    twice = replace(made, datasets=(replace(facts, duplicates={"art": 2, "photo": 1, "elsewhere": 9}),))
    (family,) = compare(twice, "backbones", to="RN50")
    assert "bursts" in family.notes[0] and family.notes[1].startswith("3 images have the bytes of another one")


def test_columns_of_too_many_combinations_are_compared_by_their_groups():
    """Nine backbones with two prompt sets each: no patterns of all of them together are kept."""
    found = columns([f"ViT-{number}" for number in range(9)], ("photo", "other"))
    random = np.random.default_rng(4)
    right = {"art": {column: random.random(20_000) < 0.5 for column in found}}
    made = result(right)
    assert all(len(each.counts) <= MOST_PATTERNS and len(each.columns) < len(found) for each in made.patterns)
    for of, families, tests in (("backbones", 2, 8), ("prompts", 9, 1)):
        got = compare(made, of)
        assert [len(each.tests) for each in got] == [tests] * families
        for test in (test for each in got for test in each.tests):
            assert test.pair.only_a == int((right["art"][test.pair.a] & ~right["art"][test.pair.b]).sum())


@pytest.mark.parametrize(
    ("of", "options", "words"),
    [
        ("backbones", {"to": "RN7"}, "there is no RN7"),
        ("backbones", {"prompts": "none"}, "There is no none here"),
        ("backbones", {"correction": "bonferroni"}, "There is no bonferroni here"),
        ("colours", {}, "There is no colours here"),
        ("prompts", {}, "no two prompt sets"),
        ("heads", {}, "no two heads"),
    ],
)
def test_what_cannot_be_compared_is_refused(of: str, options: dict, words: str):
    with pytest.raises(UserError, match=words):
        compare(result(draw(columns(), DOMAINS)), of, **options)


def test_a_result_without_patterns_is_refused_and_pairs_that_are_not_known_are_counted():
    made = result(draw(columns(), DOMAINS))
    with pytest.raises(UserError, match="do not say which images"):
        compare(replace(made, patterns=()), "backbones")
    (family,) = compare(replace(made, patterns=made.patterns[:1]), "backbones")
    assert len(family.tests) == 2 and any("4 of 6 tests are missing" in each for each in family.notes)
    assert family.ranks == ()


def test_equal_results_give_equal_bytes_and_json_without_nan():
    made = result(draw(columns(), DOMAINS))
    again = parse_result(result_to_json(made), "it")
    data = to_json(compare(made, "backbones"))
    assert data == to_json(compare(again, "backbones"))
    (family,) = json.loads(data)["families"]
    assert family["reference"] == {"backbone": "ViT-B/32", "head": "zero-shot", "prompts": "photo"}
    assert len(family["tests"]) == 8 and [each["over"] for each in family["tests"][2:4]] == [[], list(DOMAINS)]
    assert family["tests"][0]["a"]["backbone"] == "RN50"
    assert {each["column"]["backbone"] for each in family["ranks"]} == {"RN50", "RN101", "ViT-B/32"}


def plainly_tied(right: dict, found: Sequence[Column], domain: str) -> set[Column]:
    """The columns of one domain that statsmodels' Holm over all pairs cannot tell from the best."""
    best = max(found, key=lambda each: right[domain][each].sum())
    pairs = [
        *((best, each) for each in found if each != best),
        *combinations([each for each in found if each != best], 2),
    ]
    ps = []
    for one, other in pairs:
        gained, lost = (int((a & ~b).sum()) for a, b in permutations((right[domain][one], right[domain][other])))
        ps.append(binomtest(gained, gained + lost).pvalue if gained + lost else 1)
    rejected = multipletests(ps, 0.05, method="holm")[0]
    return {best, *(pair[1] for pair, no in zip(pairs, rejected, strict=True) if pair[0] == best and not no)}


@pytest.mark.parametrize("seed", range(6))
def test_the_columns_tied_with_the_best_are_those_that_holm_cannot_tell_from_it(seed: int):
    found = columns(NINE[:5])
    right = draw(found, {"art": 60, "photo": 100}, seed)
    for domain in right:
        assert tied_with_best(result(right), "pacs", found, domain) == plainly_tied(right, found, domain)


def test_equal_numbers_are_tied_even_where_nothing_says_which_images_are_right():
    found = columns()
    right = draw(found, {"art": 2000, "photo": 2000})
    same = {domain: {**own, found[0]: own[found[2]][::-1]} for domain, own in right.items()}
    without = replace(result(same), patterns=())
    assert tied_with_best(without, "pacs", found, "art") == {found[0], found[2]}
    assert tied_with_best(without, "pacs", found) == {found[0], found[2]}
    assert tied_with_best(without, "pacs", []) == frozenset()
    assert tied_with_best(without, "pacs", [Column("nobody")], "art") == frozenset()


def test_columns_tied_on_average_differ_less_than_chance_does():
    found = columns()
    right = draw(found, {"art": 2000, "photo": 2000})
    close = {domain: {**own, found[1]: own[found[2]].copy()} for domain, own in right.items()}
    for own in close.values():
        lost = np.flatnonzero(own[found[1]])[:5]
        own[found[1]][lost] = False
    made = result(close)
    assert tied_with_best(made, "pacs", found, "art") == {found[1], found[2]}  # 5 of 5: p = 0.0625
    assert tied_with_best(made, "pacs", found) == {found[2]}  # 10 of 10: p = 0.002
    assert tied_with_best(made, "pacs", found[:1]) == {found[0]}


def test_nothing_that_compares_loads_numpy_or_scipy_before_it_draws():
    code = (
        "import sys, fastclip.results.comparing.columns, fastclip.results.comparing.file, fastclip.cli.compare; "
        "print([name for name in ('numpy', 'scipy', 'statsmodels', 'pyarrow', 'torch') if name in sys.modules])"
    )
    assert in_a_new_process(code) == "[]"


def test_nine_backbones_and_four_domains_fit_80_columns(tmp_path: Path):
    images = {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 13_929}
    made = result(draw(columns(NINE, ("transferlearning",)), images))
    (tmp_path / "result.json").write_bytes(result_to_json(made))
    outcome = Program(tmp_path).here("compare", "result.json")
    assert outcome.code == 0 and outcome.err == ""
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(lines[:2]).startswith("pacs (4 domains), prompts transferlearning: 9 backbones")
    assert "180 tests, all pairs" in " ".join(lines[:3])
    rows = [
        line.split()
        for line in lines
        if line.startswith((" art_painting", " cartoon", " photo", " sketch", " average "))
    ]
    rows = [row for row in rows if len(row) > 3]
    assert len(rows) == 40
    (family,) = compare(made, "backbones")
    for row, test in zip(rows, family.tests, strict=True):
        net, gained, lost = (int(row[place].replace(",", "").replace("−", "-")) for place in (1, -3, -2))
        assert (net, gained, lost) == (gained - lost, test.pair.only_a, test.pair.only_b)
        assert float(row[-1].lstrip("<")) == pytest.approx(max(test.p_adjusted or 0, 1e-300), rel=0.5, abs=0.0005)
    assert "Cochran's Q, 8 degrees of freedom" in outcome.out
    assert "average: the mean of the domains' points" in outcome.out
    assert not re.search(r"[\[ ]-[\d.]", outcome.out), "a hyphen is no minus"


def test_hostile_names_are_shown_as_their_letters(tmp_path: Path):
    found = [Column("RN50", "zero-shot", "[red]photo\x1b[31m"), Column("RN50", "zero-shot", "a\nb")]
    (tmp_path / "result.json").write_bytes(result_to_json(result(draw(found, {"art\x07": 50}))))
    outcome = Program(tmp_path).here("compare", "result.json")
    assert outcome.code == 0
    assert "\x1b" not in outcome.out and "\x07" not in outcome.out
    assert r"[red]photo\x1b[31m" in outcome.out and r"a\nb" in outcome.out


def test_the_json_of_the_command_is_that_of_the_library(tmp_path: Path):
    made = result(draw(columns(), DOMAINS))
    (tmp_path / "result.json").write_bytes(result_to_json(made))
    assert run(tmp_path, "compare", "result.json", "--of", "backbones", "--to", "RN50", "--json", "found.json") == 0
    assert (tmp_path / "found.json").read_bytes() == to_json(compare(made, "backbones", to="RN50"))
