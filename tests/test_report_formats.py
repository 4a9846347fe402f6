"""Every format prints the same numbers with the same marks, and names stay names in all of them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from drawn_tables import HOSTILE, drawn_result
from helpers import REPOSITORY
from rich.console import Console

from fastclip.errors import printable
from fastclip.report.csv_file import csv_file
from fastclip.report.document import make_document
from fastclip.report.latex import latex
from fastclip.report.macros import macros
from fastclip.report.markdown import markdown
from fastclip.report.numbers import BEST, SECOND, TIED, TableStyle, percent
from fastclip.report.tables import accuracy_tables, without_seed
from fastclip.report.terminal import interval_tables, tables
from fastclip.results.cells import Column, Evaluation, Patterns
from fastclip.results.files.result import to_json
from fastclip.results.files.result_reader import parse_result
from fastclip.results.statistics import wilson

COUNTS = {
    ("photo", "RN50", "photo"): (80, 100),
    ("sketch", "RN50", "photo"): (300, 401),
    ("photo", "ViT-B/32", "photo"): (91, 100),
    ("sketch", "ViT-B/32", "photo"): (299, 401),
    ("photo", "ViT-L/14", "photo"): (90, 100),
    ("sketch", "ViT-L/14", "photo"): (200, 401),
}
NUMBERS = {
    "RN50": ("80.00", "74.81", "77.41"),
    "ViT-B/32": ("91.00", "74.56", "82.78"),
    "ViT-L/14": ("90.00", "49.88", "69.94"),
}
"""Their percentages, by hand: 300/401 is .748130, and (.8 + .748130)/2 is .774065."""
BEST_ARE = {("RN50", 1), ("ViT-B/32", 0), ("ViT-B/32", 2)}
SECOND_ARE = {("ViT-L/14", 0), ("ViT-B/32", 1), ("RN50", 2)}


def document(evaluation: Evaluation, **style: object):
    return make_document(evaluation, TableStyle(**style), "fastclip report x")


def marks(found: Mapping[str, Sequence[str]], before: str) -> set[tuple[str, int]]:
    return {(name, place) for name, row in found.items() for place, text in enumerate(row) if text.startswith(before)}


def markdown_rows(text: str) -> list[list[str]]:
    """The cells of all lines of tables, with their markup."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def plain(markdown_cell: str) -> str:
    return re.sub(r"\\(.)", r"\1", markdown_cell)


def latex_rows(text: str) -> list[list[str]]:
    return [line.strip().removesuffix(r" \\").split(" & ") for line in text.splitlines() if " & " in line]


def test_the_model_has_the_numbers_and_the_marks():
    (table,) = accuracy_tables(drawn_result(COUNTS), TableStyle())
    assert table.headers == ("photo", "sketch", "Avg.")
    (section,) = table.sections
    assert {section.name(row): tuple(each.text for each in row.numbers) for row in section.rows} == NUMBERS
    found = {section.name(row): [each.mark for each in row.numbers] for row in section.rows}
    assert marks(found, BEST) == BEST_ARE and marks(found, SECOND) == SECOND_ARE


def test_markdown_parsed_back_is_the_table():
    head, _, *rows = markdown_rows(markdown(document(drawn_result(COUNTS))))
    assert head == ["backbone", "photo", "sketch", "Avg."]
    found = {name: cells for name, *cells in rows}
    assert {name: tuple(re.sub(r"\*\*|</?ins>", "", each) for each in row) for name, row in found.items()} == NUMBERS
    assert marks(found, "**") == BEST_ARE and marks(found, "<ins>") == SECOND_ARE


def test_latex_parsed_back_is_the_table():
    head, *rows = latex_rows(latex(document(drawn_result(COUNTS))))
    assert head == ["Backbone", "photo", "sketch", "Avg."]
    found = {name: cells for name, *cells in rows}
    bare = {name: tuple(re.sub(r"\\\w+\{(.*)\}", r"\1", each) for each in row) for name, row in found.items()}
    assert bare == NUMBERS
    assert "not Latin" not in latex(document(drawn_result(COUNTS))) and "not Latin" in latex(document(hostile_result()))
    assert marks(found, r"\textbf") == BEST_ARE and marks(found, r"\underline") == SECOND_ARE


def test_csv_restores_every_count():
    rows = list(csv.DictReader(io.StringIO(csv_file(drawn_result(COUNTS)), newline="")))
    assert {(row["domain"], row["backbone"], row["prompts"]): (int(row["right"]), int(row["images"])) for row in rows} \
        == COUNTS  # fmt: skip
    assert all(round(float(row["accuracy"]) * int(row["counted"])) == int(row["right"]) for row in rows)
    assert all(float(row["low"]) < float(row["accuracy"]) < float(row["high"]) for row in rows)
    assert {(row["level"], row["method"]) for row in rows} == {("0.95", "Wilson")}


def test_a_terminal_shows_the_table_and_its_marks():
    console = Console(width=80, record=True, file=io.StringIO(), force_terminal=True, color_system="standard")
    for each in tables(drawn_result(COUNTS), TableStyle()):
        console.print(each)
    text = console.export_text(clear=False)
    for name, numbers in NUMBERS.items():
        assert next(line.split() for line in text.splitlines() if name in line) == [name, *numbers]
    styled = console.export_text(styles=True)
    assert sorted(re.findall(r"\x1b\[1m(\d+\.\d+)", styled)) == ["74.81", "82.78", "91.00"]
    assert sorted(re.findall(r"\x1b\[4m(\d+\.\d+)", styled)) == ["74.56", "77.41", "90.00"]


def test_macros_hold_every_number_and_count():
    text = macros(document(drawn_result(COUNTS)))
    found = dict(re.findall(r"\\csname fastclip@(.*?)\\endcsname\{(.*?)\}$", text, re.MULTILINE))
    for backbone, numbers in NUMBERS.items():
        name = backbone.replace("/", "-")
        for domain, number in zip(("photo", "sketch", "average"), numbers, strict=True):
            assert found[f"letters/{domain}/{name}"] == number
    assert (found["letters/sketch/RN50/right"], found["letters/sketch/RN50/images"]) == ("300", "401")
    interval = wilson(300, 401)
    ends = (found["letters/sketch/RN50/low"], found["letters/sketch/RN50/high"])
    assert ends == (f"{interval.low * 100:.2f}", f"{interval.high * 100:.2f}")
    assert "letters/average/RN50/low" in found and "letters/average/RN50/right" not in found
    several = macros(document(drawn_result({(*key[:2], way): value for key, value in COUNTS.items() for way in "ab"})))
    alike = macros(document(drawn_result({("a b", "RN50", "p"): (1, 4), ("a-b", "RN50", "p"): (3, 4)})))
    assert "letters/a-b/RN50\\endcsname{25.00}" in alike and "letters/a-b/RN50-2\\endcsname{75.00}" in alike
    assert "fastclip@letters/photo/RN50/a\\" in several and "fastclip@letters/photo/RN50\\" not in several


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (Fraction(1, 800), 2, "0.12"),  # 0.125: half to even
        (Fraction(3, 800), 2, "0.38"),  # 0.375
        (Fraction(5, 800), 2, "0.62"),  # 0.625
        (Fraction(1, 2000), 1, "0.0"),  # 0.05
        (Fraction(3, 2000), 1, "0.2"),  # 0.15, whose float is below
        (Fraction(1, 200), 0, "0"),
        (Fraction(3, 200), 0, "2"),
        (Fraction(1), 2, "100.00"),
        (Fraction(0), 2, "0.00"),
        (None, 2, "—"),
    ],
)
def test_percentages_are_half_to_even_of_the_exact_fraction(value: Fraction | None, decimals: int, text: str):
    assert percent(value, decimals) == text


def test_every_format_rounds_half_to_even():
    evaluation = drawn_result({("photo", "RN50", "p"): (1, 800), ("photo", "RN101", "p"): (3, 800)})
    found = document(evaluation)
    assert [row[1] for row in markdown_rows(markdown(found))[2:]] == ["<ins>0.12</ins>", "**0.38**"]
    assert [row[1] for row in latex_rows(latex(found))[1:]] == [r"\underline{0.12}", r"\textbf{0.38}"]
    assert "{0.12}" in macros(found) and "{0.38}" in macros(found)


def test_ties_at_the_printed_precision_are_all_marked():
    counts = {("photo", name, "p"): (right, 100_000) for name, right in
              {"a": 90_001, "b": 90_004, "c": 89_999, "d": 80_000, "e": 80_004, "f": 10}.items()}  # fmt: skip

    def found(decimals: int) -> list[str]:
        (table,) = accuracy_tables(drawn_result(counts), TableStyle(decimals=decimals))
        return [row.numbers[0].mark for row in table.rows]

    assert found(2) == [BEST, BEST, BEST, SECOND, SECOND, ""]
    assert found(3) == [SECOND, BEST, "", "", "", ""]
    assert found(0) == [BEST, BEST, BEST, SECOND, SECOND, ""]


def test_a_row_alone_and_random_weights_are_not_marked_and_nothing_is_where_mark_is_none():
    (alone,) = accuracy_tables(drawn_result({("photo", "RN50", "p"): (1, 2)}), TableStyle())
    assert alone.rows[0].numbers[0].mark == ""
    evaluation = drawn_result(COUNTS, random=["ViT-B/32"])
    (table,) = accuracy_tables(evaluation, TableStyle())
    found = {row.column.backbone: [each.mark for each in row.numbers] for row in table.rows}
    assert found == {"RN50": [SECOND, BEST, BEST], "ViT-B/32": ["", "", ""], "ViT-L/14": [BEST, SECOND, SECOND]}
    (table,) = accuracy_tables(evaluation, TableStyle(mark="none"))
    assert not any(each.mark for row in table.rows for each in row.numbers)


def test_counts_of_other_images_are_not_marked():
    """Some images could be read for one backbone only: the best of two shares of other images says little."""
    counts = {**COUNTS, ("photo", "RN50", "photo"): (80, 99)}
    (table,) = accuracy_tables(drawn_result(counts), TableStyle())
    assert {each.mark for row in table.rows for each in (row.numbers[0], row.numbers[2])} == {""}
    assert {row.numbers[1].mark for row in table.rows} == {BEST, SECOND, ""}


def test_a_domain_without_a_number_is_a_dash_and_so_is_its_average():
    counts = {key: value for key, value in COUNTS.items() if key[:2] != ("sketch", "RN50")}
    found = document(drawn_result(counts))
    assert markdown_rows(markdown(found))[2] == ["RN50", "80.00", "—", "—"]
    assert latex_rows(latex(found))[1] == ["RN50", "80.00", "---", "---"]


def test_the_micro_average_is_of_all_images():
    (table,) = accuracy_tables(drawn_result(COUNTS), TableStyle(average="both"))
    assert table.headers[2:] == ("Avg.", "Micro avg.")
    assert [each.value for each in table.rows[0].numbers[2:]] == [
        (Fraction(4, 5) + Fraction(300, 401)) / 2,
        Fraction(380, 501),
    ]


def test_sections_are_prompt_sets_of_several_backbones_and_rows_those_of_one():
    counts = {(*key[:2], way): value for key, value in COUNTS.items() for way in ("photo", "fitted head")}
    (table,) = accuracy_tables(drawn_result(counts), TableStyle())
    assert [(each.title, each.by_backbone, len(each.rows)) for each in table.sections] == [
        ("prompts: photo", True, 3),
        ("fitted head", True, 3),
    ]
    (table,) = accuracy_tables(drawn_result({key: v for key, v in counts.items() if key[1] == "RN50"}), TableStyle())
    (section,) = table.sections
    assert not section.title and [section.name(row) for row in section.rows] == ["zero-shot, photo", "fitted head"]


def test_domains_stand_in_the_order_of_the_card():
    counts = {(domain, "RN50", "p"): (1, 2) for domain in ("sketch", "photo", "art_painting", "cartoon")}
    (table,) = accuracy_tables(drawn_result(counts, dataset="pacs"))
    assert table.headers[:4] == ("art_painting", "cartoon", "photo", "sketch")
    (table,) = accuracy_tables(drawn_result(counts, dataset="letters"))
    assert table.headers[:4] == ("sketch", "photo", "art_painting", "cartoon")


def test_seeds_are_one_row_with_their_mean_and_sample_deviation():
    rights = {1: 70, 2: 80, 3: 84}
    counts = {("photo", "RN50", f"fitted, 4 shots, seed {seed}"): (right, 100) for seed, right in rights.items()}
    found = document(drawn_result(counts))
    ((_, number),) = markdown_rows(markdown(found))[2:]
    assert number == "78.00 ±7.21"  # the root of (64 + 4 + 36)/2
    assert latex_rows(latex(found))[1][1] == r"78.00 $\pm$7.21"
    assert any("sample standard deviation" in note for note in found.notes)


def test_intervals_are_printed_with_their_method_and_level():
    evaluation = drawn_result({("photo", "RN50", "p"): (2009, 2427), ("sketch", "RN50", "p"): (1670, 1670)})
    found = document(evaluation, intervals=True)
    row = markdown_rows(markdown(found))[2]
    assert row[1:3] == ["82.78 [81.22, 84.23]", "100.00 [99.77, 100.00]"]
    assert "95% confidence intervals, by Wilson" in markdown(found).replace("\\", "")
    assert "[81.22, 84.23]" in latex(found) and "by Wilson" in latex(found)
    with (console := Console(width=80)).capture() as capture:
        for each in interval_tables(evaluation, TableStyle(intervals=True)):
            console.print(each)
    line = next(line.split() for line in capture.get().splitlines() if "photo" in line)
    assert line[-5:] == ["82.78", "[81.22,", "84.23]", "2,009", "2,427"]


@pytest.mark.parametrize("write", [markdown, latex, macros])
def test_random_weights_and_used_labels_are_loud_in_texts(write):
    loud = write(document(drawn_result(COUNTS, random=["RN50"])))
    assert "RANDOM WEIGHTS, NOT A RESULT" in loud
    counts = {**COUNTS, ("photo", "RN50", "fitted head"): (99, 100)}
    labelled = write(document(drawn_result(counts)))
    assert "not zero-shot" in labelled and "not zero-shot" not in loud and "RANDOM" not in labelled


def test_random_weights_are_loud_in_csv_and_json():
    evaluation = drawn_result(COUNTS, random=["RN50"])
    rows = list(csv.DictReader(io.StringIO(csv_file(evaluation), newline="")))
    assert {row["backbone"]: row["weights"] for row in rows} == {
        "RN50": "RANDOM WEIGHTS, NOT A RESULT",
        "ViT-B/32": "ab" * 32,
        "ViT-L/14": "ab" * 32,
    }
    recipes = json.loads(to_json(evaluation))["recipes"]
    assert [each["recipe"]["weights"] for each in recipes] == ["drawn", "ab" * 32, "ab" * 32]


def hostile_result() -> Evaluation:
    """Every name as a domain, a backbone, a prompt set and a fitted head."""
    counts = {}
    for number, name in enumerate(HOSTILE):
        counts[name, "RN50", "photo"] = (number, 100)
        counts["photo", name, "photo"] = (number, 100)
        counts["photo", "RN50", name] = (number, 100)
        counts["photo", "RN50", f"fitted {name}"] = (number, 100)
    return drawn_result(counts)


def test_hostile_names_are_cells_of_markdown_and_nothing_else():
    text = markdown(document(hostile_result()))
    rows = markdown_rows(text)
    assert {len(row) for row in rows} == {len(rows[0])}, "no name makes a column"
    shown = {plain(cell) for cell in rows[0]}
    assert {printable(name) for name in HOSTILE} <= shown
    titles = {plain(row[0]).strip("*") for row in rows}
    assert {f"prompts: {printable(name)}" for name in HOSTILE} <= titles
    assert {f"fitted {printable(name)}" for name in HOSTILE} <= titles
    bare = re.sub(r"\\.|</?ins>|<!--.*-->", "", text)
    assert "<" not in bare and "`" not in bare and "](" not in bare and "://" not in bare


def test_hostile_names_come_back_from_csv_and_json_and_start_no_formula():
    evaluation = hostile_result()
    text = csv_file(evaluation)
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) == 1 + len(evaluation.cells)
    fields = {field for row in rows[1:] for field in row}
    for name in HOSTILE:
        assert (f"'{name}" if name[0] in "=-" else name) in fields
    assert not any(field[:1] in ("=", "+", "-", "@", "\t", "\r", "\0") for field in fields)
    assert parse_result(to_json(evaluation), "it").cells == evaluation.cells


def test_a_terminal_shows_hostile_names_without_control_characters():
    with (console := Console(width=4000)).capture() as capture:
        for each in tables(hostile_result(), TableStyle()):
            console.print(each)
    for name in HOSTILE:
        assert printable(name) in capture.get()


NINE = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")


@pytest.mark.parametrize(
    ("paper", "domains", "intervals"),
    [("twocolumn", "abc", False), ("onecolumn", "abcd", True), ("twocolumn", "abcdefgh", False)],
)
def test_tables_fit_the_columns_of_a_paper(paper: str, domains: str, intervals: bool, compiled, tmp_path: Path):
    counts = {(f"place {d}", name, "photo"): (1234, 2345) for name in NINE for d in domains}
    (tmp_path / "float.tex").write_text(latex(document(drawn_result(counts), intervals=intervals), as_float=True))
    body = r"\input{float}"
    if len(domains) < 5:  # a float takes both columns where a tabular would not fit one
        (tmp_path / "bare.tex").write_text(latex(document(drawn_result(counts), intervals=intervals)))
        body += r"Before.\input{bare}After.\input{bare}"
    text, log = compiled(body, paper=paper)
    assert "Overfull" not in log and "\n!" not in log
    assert "Top-1 accuracy (%) on letters, zero-shot, prompt set photo." in " ".join(text.split())


PDF = [shutil.which(name) for name in ("pdflatex", "pdftotext")]


@pytest.fixture
def compiled(tmp_path: Path):
    """The text of a compiled document, and the compiler's log."""
    if not all(PDF):
        pytest.skip("pdflatex or pdftotext is not installed")

    def run(body: str, preamble: str = "", paper: str = "") -> tuple[str, str]:
        size = "" if paper else r"\usepackage[paperwidth=500cm,paperheight=300cm]{geometry}"
        head = rf"\documentclass[{paper}]{{article}}\usepackage{{booktabs}}{size}"
        whole = rf"{head}{preamble}\begin{{document}}{body}\end{{document}}"
        (tmp_path / "it.tex").write_text(whole, "utf-8")
        command = [PDF[0], "-interaction=nonstopmode", "-no-shell-escape", "it.tex"]
        log = subprocess.run(command, cwd=tmp_path, capture_output=True).stdout.decode("utf-8", "replace")
        subprocess.run([PDF[1], "-layout", "it.pdf"], cwd=tmp_path, check=True)
        return (tmp_path / "it.txt").read_text("utf-8"), log

    return run


def test_hostile_names_are_printed_by_latex(compiled, tmp_path: Path):
    (tmp_path / "x.tex").write_text("PWNED")
    evaluation = hostile_result()
    (tmp_path / "table.tex").write_text(latex(document(evaluation, intervals=True)), "utf-8")
    (tmp_path / "float.tex").write_text(latex(document(evaluation), as_float=True), "utf-8")
    hebrew = "".join(rf"\DeclareUnicodeCharacter{{{ord(char):04X}}}{{H}}" for char in "שלום")
    text, log = compiled(r"\input{table}\clearpage\input{float}", hebrew)
    assert "\n!" not in log and "PWNED" not in text
    for shown in (
        "<script>alert(1)</script>",
        r"\input{x}",
        "a|b",
        r"two\nlines",
        "-1+1",
        "n" * 300,
        "=HYPERLINK(",
        "[10pt] wide",
        "* starred",
    ):
        assert text.count(shown) >= 4 * 2, shown
    assert "{y} *z* [u](v)" in text and "a--b" in text and "50 % #1" in text


def test_macros_print_numbers_and_an_unknown_name_is_an_error(compiled, tmp_path: Path):
    (tmp_path / "numbers.tex").write_text(macros(document(drawn_result(COUNTS))), "utf-8")
    (tmp_path / "hostile.tex").write_text(macros(document(hostile_result())), "utf-8")
    evaluation = drawn_result({("art_painting", "ViT-L/14@336px", "p"): (1, 3)}, dataset="pacs")
    (tmp_path / "pacs.tex").write_text(macros(document(evaluation)), "utf-8")
    both = r"\input{numbers}\input{hostile}\input{pacs}"
    text, log = compiled(
        r"\section{On \fastclip{letters/sketch/ViT-B-32}} It is \fastclip{letters/average/RN50} of "
        r"\fastclip{letters/photo/RN50/images}, and \fastclip{letters/input-x/RN50/photo}, "
        r"\fastclip{pacs/art_painting/ViT-L-14-336px}.",
        both,
    )
    assert "\n!" not in log
    assert "On 74.56" in text and re.search(r"It is 77.41 of 100, and 3.00, 33.33\.", text)
    ways = {("outline", backbone, way): (140, 204) for backbone in ("tiny", "ViT-B/32") for way in ("photo", "x")}
    (tmp_path / "shapes.tex").write_text(macros(document(drawn_result(ways, dataset="shapes"))), "utf-8")
    page = (REPOSITORY / "docs" / "paper.md").read_text("utf-8")
    named = re.findall(r"`\\fastclip\{(.*?)\}`", page)
    named += [f"{named[0]}/{end}" for end in re.findall("`…/([a-z]+)`", page)]
    assert len(named) == 5
    text, log = compiled(" ".join(rf"\fastclip{{{name}}}" for name in named), r"\input{shapes}")
    assert "\n!" not in log and "68.63 140 204" in text, "the names of the documentation"
    text, log = compiled(r"It is \fastclip{letters/skecth/RN50}.", both)
    assert "! fastclip: no number is called 'letters/skecth/RN50'" in log and "??" in text


def test_all_that_a_test_cannot_tell_from_the_best_is_marked():
    """Of 100 images b has 5 right that a has not: p is 1/16. Of those of c it has 20 more: p is 2e-6."""
    evaluation = drawn_result(
        {("photo", name, "p"): (right, 100) for name, right in zip("abc", (85, 90, 70), strict=True)}
    )
    columns = tuple(cell.column for cell in evaluation.cells)
    counts = {"000": 10, "010": 5, "110": 15, "111": 70}
    patterns = Patterns(dataset="letters", domain="photo", columns=columns, counts=counts)
    (table,) = accuracy_tables(replace(evaluation, patterns=(patterns,)), TableStyle(mark="tied"))
    assert [row.numbers[0].mark for row in table.rows] == [TIED, TIED, ""]
    found = document(replace(evaluation, patterns=(patterns,)), mark="tied")
    assert [row[1] for row in markdown_rows(markdown(found))[2:]] == ["**85.00**", "**90.00**", "70.00"]
    assert any("cannot tell from it" in note for note in found.notes)
    unknown = document(evaluation, mark="tied")
    assert not any(each.mark for row in unknown.tables[0].rows for each in row.numbers)
    assert any("Nothing is marked" in note for note in unknown.notes)


def test_a_domain_that_is_called_like_a_seed_is_none():
    head = Column("RN50", "coral from a, seed 2")
    assert without_seed(head) == head
    assert without_seed(Column("RN50", "tip, 1 shot, seed 2")) == Column("RN50", "tip, 1 shot")
