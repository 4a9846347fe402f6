"""The table across datasets: each dataset counts once, in every format, and marks are those of a column."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import pytest
from drawn_results import evaluation as published
from drawn_tables import drawn_result
from rich.console import Console

from fastclip.report.document import make_document
from fastclip.report.latex import latex
from fastclip.report.macros import macros
from fastclip.report.markdown import markdown
from fastclip.report.numbers import BEST, SECOND, TIED, TableStyle
from fastclip.report.tables import accuracy_tables
from fastclip.report.terminal import interval_tables, tables
from fastclip.results.averages import averages
from fastclip.results.cells import Evaluation
from fastclip.results.files.merging import merge
from fastclip.results.statistics import wilson

LETTERS = {
    ("photo", "RN50", "photo"): (80, 100),
    ("sketch", "RN50", "photo"): (60, 200),
    ("photo", "ViT-B/32", "photo"): (90, 100),
    ("sketch", "ViT-B/32", "photo"): (40, 200),
}
DIGITS = {("all", "RN50", "photo"): (10, 50), ("all", "ViT-B/32", "photo"): (45, 50)}
ROWS = {"RN50": ("55.00", "20.00", "37.50"), "ViT-B/32": ("55.00", "90.00", "72.50")}
"""By hand: (80 + 30)/2, 10/50, and their mean; (90 + 20)/2, 45/50, and their mean."""


def both(letters: Mapping = LETTERS, digits: Mapping = DIGITS, **options: object) -> Evaluation:
    return merge({name: drawn_result(counts, dataset=name, **options)
                  for name, counts in (("letters", letters), ("digits", digits))})  # fmt: skip


def test_each_dataset_counts_once_and_the_table_stands_first():
    first, *others = accuracy_tables(both(), TableStyle())
    assert [each.dataset for each in others] == ["letters", "digits"]
    assert first.headers == ("letters", "digits", "Avg.")
    assert {row.column.backbone: tuple(each.text for each in row.numbers) for row in first.rows} == ROWS
    assert [[each.mark for each in row.numbers] for row in first.rows] == [[BEST, SECOND, SECOND], [BEST, BEST, BEST]]
    assert len(accuracy_tables(drawn_result(LETTERS))) == 1, "one dataset has no such table"


def test_every_format_has_it():
    document = make_document(both(), TableStyle(mark="none"), "it")
    row = " ".join(ROWS["ViT-B/32"])
    assert "| ViT-B/32 | 55.00 | 90.00 | 72.50 |" in markdown(document)
    assert "ViT-B/32 & 55.00 & 90.00 & 72.50" in latex(document)
    with (console := Console(width=80, file=io.StringIO())).capture() as capture:
        for each in (*tables(both()), *interval_tables(both(), TableStyle(intervals=True))):
            console.print(each)
    assert row in " ".join(capture.get().split()) and "2 datasets: accuracy, %" in capture.get()
    found = dict(re.findall(r"fastclip@(\S+?)\\endcsname\{(.*?)\}", macros(document)))
    assert found["avg/ViT-B-32"] == "72.50" and found["letters/average/ViT-B-32"] == "55.00"
    assert any("each dataset counts once" in note for note in document.notes)


def test_a_missing_number_is_a_dash_and_so_is_its_average():
    (first, *_) = accuracy_tables(both(letters={key: LETTERS[key] for key in list(LETTERS)[1:]}), TableStyle())
    assert [each.text for each in first.rows[0].numbers] == ["—", "20.00", "—"]
    alone = both(digits={("all", "RN101", "photo"): (1, 2)})
    assert [each.dataset for each in accuracy_tables(alone)] == ["letters", "digits"], "no row would be whole"


def test_prompt_sets_are_its_sections_and_random_weights_are_not_marked():
    ways = [{(*key[:2], way): count for key, count in counts.items() for way in "ab"} for counts in (LETTERS, DIGITS)]
    (first, *_) = accuracy_tables(both(*ways), TableStyle())
    assert [(each.title, len(each.rows)) for each in first.sections] == [("prompts: a", 2), ("prompts: b", 2)]
    (first, *_) = accuracy_tables(both(random=["ViT-B/32"]), TableStyle())
    assert not any(each.mark for row in first.rows for each in row.numbers)


def test_seeds_have_one_row():
    def seeds(domain: str, *rights: int) -> Mapping:
        return {(domain, "RN50", f"fitted, 4 shots, seed {seed}"): (right, 100) for seed, right in enumerate(rights)}

    (first, *_) = accuracy_tables(both(seeds("photo", 60, 80), seeds("all", 50, 52)))
    assert [each.text for each in first.rows[0].numbers] == ["70.00 ±14.14", "51.00 ±1.41", "60.50"]


def test_its_interval_adds_the_squared_distances_of_every_domain():
    (first, *_) = accuracy_tables(both(), TableStyle(intervals=True))
    weights = {(80, 100): 0.25, (60, 200): 0.25, (10, 50): 0.5}
    down = sum(
        (share * (right / images - wilson(right, images).low)) ** 2 for (right, images), share in weights.items()
    )
    interval = first.rows[0].numbers[-1].interval
    assert interval and interval.low == pytest.approx(0.375 - down**0.5)


def test_its_numbers_are_the_averages_of_real_datasets_and_ties_are_those_of_each():
    evaluation = published(("pacs", "officehome", "terraincognita"), ("RN50", "RN101", "ViT-L/14"))
    first, *others = accuracy_tables(evaluation, TableStyle(mark="tied"))
    assert first.headers[::3] == ("PACS", "Avg.")
    for row in first.rows:
        own = [each.macro for each in averages(evaluation) if each.column == row.column]
        assert [each.value for each in row.numbers] == [*own, sum(own, Fraction(0)) / len(own)]
    for place, table in enumerate(others):
        assert [row.numbers[place].mark for row in first.rows] == [row.numbers[-1].mark for row in table.rows]
    assert {row.numbers[-1].mark for row in first.rows} == {""}, "no test is about several datasets"
    assert TIED in {number.mark for row in first.rows for number in row.numbers}


def test_rows_about_other_images_are_not_marked():
    counts = {**LETTERS, ("photo", "RN50", "photo"): (80, 99)}
    (first, *_) = accuracy_tables(both(letters=counts), TableStyle())
    assert [[each.mark for each in row.numbers] for row in first.rows] == [["", SECOND, ""], ["", BEST, ""]]


def test_a_dataset_that_shares_its_title_is_called_by_its_name():
    evaluation = both()
    titled = replace(evaluation, datasets=tuple(replace(each, title="Glyphs") for each in evaluation.datasets))
    assert accuracy_tables(titled)[0].headers[:2] == ("letters", "digits")
