"""Counts behind printed accuracies, tables in CSV files, and `fastclip grim`."""

from __future__ import annotations

from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers import Program

from fastclip.errors import UserError
from fastclip.results.published.files import find_table
from fastclip.results.published.printed import Printed, candidates, candidates_if_cut, parse_printed


def test_known_counts_behind_printed_numbers():
    assert candidates(parse_printed("0.7268", percent=False), 2427) == (1764, 1764)
    assert candidates(parse_printed("56.22", percent=True), 30_000) == (16865, 16867)
    assert candidates(parse_printed("0.7269", percent=False), 2427) is None
    assert candidates(parse_printed("1.0000", percent=False), 1670) == (1670, 1670)
    assert candidates(parse_printed("0", percent=True), 10) == (0, 0)


@pytest.mark.parametrize(("images", "decimals"), [(7, 1), (16, 2), (800, 3), (1000, 2), (1001, 3)])
def test_candidates_are_all_counts_that_are_printed_so(images: int, decimals: int):
    unit = Decimal(1).scaleb(-decimals)
    printed: dict[Decimal, list[int]] = {}
    for right in range(images + 1):
        share = Fraction(right, images)
        exact = Decimal(share.numerator) / Decimal(share.denominator)
        for rounding in (ROUND_HALF_UP, ROUND_HALF_DOWN):
            counts = printed.setdefault(exact.quantize(unit, rounding), [])
            counts += [right] if right not in counts else []
    for number in range(10**decimals + 1):
        value = Decimal(number).scaleb(-decimals)
        expected = printed.get(value)
        found = candidates(Printed(Fraction(number, 10**decimals), decimals), images)
        assert found == ((min(expected), max(expected)) if expected else None), value


@pytest.mark.parametrize("images", [3, 204, 1670, 2427, 16_384])
def test_digits_of_a_float_stand_for_the_count_that_they_are_of(images: int):
    for right in range(images + 1):
        double, single = right / images, np.float32(right) / np.float32(images)
        for text, percent in ((repr(double), False), (str(single), False), (repr(double * 100), True),
                              (str(single * np.float32(100)), True), (f"{double:.17f}", False)):  # fmt: skip
            printed = parse_printed(text, percent=percent)
            least, greatest = candidates(printed, images) or (0, -1)
            assert least <= right <= greatest, text
            assert least == greatest or printed.decimals < 6, text


def test_a_number_of_right_answers_beside_an_accuracy_must_be_printed_so(fastclip: Program):
    rows = "d,a,b,4,2,0.5\nd,c,b,4,3,0.5\n"
    (fastclip.folder / "t.csv").write_text(f"dataset,domain,backbone,images,right,accuracy\n{rows}")
    with pytest.raises(UserError, match=r"line 3: 0\.5 is not 3 of 4 images"):
        find_table(str(fastclip.folder / "t.csv"))
    outcome = fastclip.here("grim", "t.csv")
    assert outcome.code == 5 and "2 numbers: 1 impossible, 1 with exactly one count." in outcome.out


def test_a_number_whose_digits_were_cut_has_other_counts():
    cut = parse_printed("0.6666", percent=False)
    assert candidates(cut, 3) is None and candidates_if_cut(cut, 3) == (2, 2)


@pytest.mark.parametrize(
    "text", ["72,68", "72.3 ± 0.4", "nan", "1e3", "e-3", ".e-3", "1.5e", "", ".", "-1", "101", "1/3", "٣"]
)
def test_what_is_no_accuracy_is_refused(text: str):
    with pytest.raises(ValueError, match=r"is no number|is more than"):
        parse_printed(text, percent=True)


def test_a_sign_says_that_a_number_is_a_percentage(tmp_path: Path):
    (tmp_path / "t.csv").write_text("dataset,domain,backbone,accuracy\nd,a,b,0.5 %\nd,c,b,1%\n")
    found = find_table(str(tmp_path / "t.csv")).cells
    assert [each.printed for each in found] == [Printed(Fraction(5, 1000), 3), Printed(Fraction(1, 100), 2)]


def test_rows_of_fitted_heads_are_no_zero_shot(tmp_path: Path):
    rows = "d,a,b,zero-shot,0.5\nd,a,b,logistic,0.9\nd,c,b,,0.75\n"
    (tmp_path / "t.csv").write_text(f"dataset,domain,backbone,head,accuracy\n{rows}")
    assert [float(each.printed.value) for each in find_table(str(tmp_path / "t.csv")).cells] == [0.5, 0.75]


BAD = {
    "no such file": (None, "There is no table"),
    "empty": ("", "holds no table"),
    "only names": ("dataset,domain,backbone,accuracy\n", "holds no table"),
    "a word for a number": ("dataset,domain,backbone,accuracy\npacs,photo,RN50,good\n", "'good' is no number"),
    "a decimal comma": ("dataset;domain;backbone;accuracy\npacs;photo;RN50;99,1\n", "'99,1' is no number"),
    "more than 100": ("dataset,domain,backbone,accuracy\npacs,photo,RN50,100.1\n", "is more than 100%"),
    "percent or fraction": (
        "dataset,domain,backbone,accuracy\npacs,photo,RN50,99.1\npacs,sketch,RN50,0.8\n",
        "percentages or fractions",
    ),
    "a sign on one of two": (
        "dataset,domain,backbone,accuracy\npacs,photo,RN50,99.1%\npacs,sketch,RN50,98\n",
        "percentages or fractions",
    ),
    "a short line": ("dataset,domain,backbone,accuracy\npacs,photo,RN50\n", "line 2: 3 cells under 4 names"),
    "no domain": ("dataset,backbone,accuracy\npacs,RN50,99.1\n", "the accuracy has no domain"),
    "twice": (
        "dataset,domain,backbone,accuracy\npacs,photo,RN50,99.1\npacs,Photo,RN50,99.2\n",
        "a second number for pacs, photo, RN50",
    ),
    "no images": ("dataset,domain,backbone,images,accuracy\npacs,photo,RN50,-3,99.1\n", "'-3' is no number of images"),
    "a torn quote": ('dataset,domain,backbone,accuracy\npacs,"photo,RN50,99.1\n', "cannot be read as CSV"),
    "other letters": (b"dataset,domain\xff\xfe\n", "cannot be read as CSV"),
    "two columns of one name": (
        "dataset,domain,backbone,accuracy,accuracy\na,b,c,1,1\n",
        "two columns called accuracy",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_table_is_one_error(what: str, tmp_path: Path):
    text, message = BAD[what]
    path = tmp_path / "paper.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        find_table(str(path))


def test_grim_prints_counts_and_ends_with_5_for_an_impossible_number(fastclip: Program):
    (fastclip.folder / "wide.csv").write_text("backbone,Art,Real World,avg\nRN50,0.7268,0.8272,0.7770\n")
    good = fastclip.here("grim", "wide.csv", "--dataset", "officehome")
    assert good.code == 0 and "1,764" in good.out and "3,604" in good.out
    assert good.out.startswith("wide.csv: right answers behind each accuracy\n")
    assert "2 numbers: 0 impossible, 2 with exactly one count." in good.out, "an average is no share of images"
    (fastclip.folder / "long.csv").write_text(
        "method,images,accuracy\nours,2427,72.69\ntheirs,3,66.66\nall,20000,5.5\n"
    )
    bad = fastclip.here("grim", "long.csv")
    assert bad.code == 5 and bad.out.count("impossible") == 4
    assert fastclip.here("grim", "long.csv", "--images", "3") == bad, "a line knows better than an option"
    rows = [line.split() for line in bad.out.splitlines()]
    assert ["method", "printed", "images", "right", "answers"] in rows, "a column has the name that it has in the file"
    assert ["ours", "72.69", "2,427", "impossible"] in rows and ["all", "5.5", "20,000", "1,090", "to", "1,110"] in rows
    assert "1 of the impossible ones is possible if digits were cut" in bad.out
    assert "1 is of so many images that every number is possible" in bad.out


def test_grim_asks_for_images_and_knows_the_letters_of_domains(fastclip: Program):
    (fastclip.folder / "t.csv").write_text("method,A,C,P,S\nours,92.29,95.18,99.46,80.45\n")
    outcome = fastclip.here("grim", "t.csv")
    assert outcome.code == 2 and outcome.err.startswith("Error: t.csv does not say how many images")
    assert outcome.err.count("\n") == 2
    outcome = fastclip.here("grim", "t.csv", "--dataset", "pacs")
    assert outcome.code == 0 and "1,890" in outcome.out and "4 with exactly one count" in outcome.out
    for words in (["none.csv"], ["t.csv", "--dataset", "cifar"], ["t.csv", "--dataset", "pacs", "--fraction"],
                  ["t.csv", "--dataset", "pacs", "--images", "3"], ["t.csv", "--dataset", "vlcs"]):  # fmt: skip
        outcome = fastclip.here("grim", *words)
        assert (outcome.code, outcome.err.count("\n"), outcome.out) == (2, 2, ""), words
