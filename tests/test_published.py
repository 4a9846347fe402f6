"""Published tables: counts behind printed numbers, verdicts in images, and what keeps a cell from having one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from drawn_results import TRANSFERLEARNING, evaluation, with_cell, with_facts
from helpers import Program
from rich.console import Console
from rich.text import Text

from fastclip.errors import UserError
from fastclip.models.backbones import OPENAI_BACKBONES
from fastclip.report.against import reasons, verdict_line, verdict_parts
from fastclip.report.csv_file import csv_file
from fastclip.report.document import make_document
from fastclip.report.html.page import render_page
from fastclip.report.latex import latex
from fastclip.report.markdown import markdown
from fastclip.report.numbers import TableStyle
from fastclip.report.verdict_grids import verdict_grids
from fastclip.results.answers import ColumnAnswers, DomainAnswers
from fastclip.results.cells import Column, Evaluation, UsedPrompts
from fastclip.results.files.result import to_json
from fastclip.results.published.against import against
from fastclip.results.published.document import against_document
from fastclip.results.published.embedded import published_table
from fastclip.results.published.files import find_table, table_of_result
from fastclip.results.published.verdicts import (
    DIFFERS,
    NEAR_TIES,
    NOT_COMPARABLE,
    SAME,
    Against,
)

TABLE = published_table()
THERE = {"ViT-B/32": "ViT-B-32", "ViT-B/16": "ViT-B-16", "ViT-L/14": "ViT-L-14", "ViT-L/14@336px": "ViT-L-14-336"}
"""Backbones whose names are other ones in the shared facts."""

ART = "officehome/Art"
ART_RN50 = 1764
"""Right answers of RN50 on Office-Home's Art."""


def verdicts(found: Against) -> dict[str, int]:
    """How many cells have each verdict."""
    counts = {name: found.count(name) for name in (SAME, NEAR_TIES, DIFFERS, NOT_COMPARABLE)}
    return {name: number for name, number in counts.items() if number}


def text_of(found: Against, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for part in verdict_parts(found):
        console.print(part, markup=False)
    return console.export_text()


def test_the_table_is_the_published_one(shared_facts: Path):
    facts = json.loads((shared_facts / "published.json").read_text())
    ours = {(each.dataset, each.domain, each.backbone): each for each in TABLE.cells}
    assert len(ours) == sum(len(row["domains"]) for rows in facts.values() for row in rows.values()) == 243
    for (dataset, domain, backbone), cell in ours.items():
        row = facts[dataset][THERE.get(backbone, backbone)]
        assert float(cell.printed.value) == row["domains"][domain]["accuracy"]
        if average := row.get("published_average"):
            assert float(TABLE.averages[dataset, backbone].value) == average


def test_171_published_numbers_stand_for_one_count_each(shared_facts: Path):
    facts = json.loads((shared_facts / "published.json").read_text())
    counts = 0
    for cell in TABLE.cells:
        there = facts[cell.dataset][THERE.get(cell.backbone, cell.backbone)]["domains"][cell.domain]
        if "correct" in there:
            images = TABLE.datasets[cell.dataset].images[cell.domain]
            assert (images, cell.candidates(images)) == (there["images"], (there["correct"],) * 2)
            counts += 1
    assert counts == 171


def test_the_published_counts_are_the_same_in_every_cell():
    found = against(evaluation(tuple(TABLE.datasets)), TABLE)
    assert verdicts(found) == {SAME: 243}
    assert verdict_line(found).startswith("243 cells: 243 same (against jindongwang/transferlearning")


@pytest.mark.parametrize("change", [1, -1, 40])
def test_another_count_in_one_cell_changes_one_verdict(change: int):
    result = with_cell(evaluation(("officehome",)), ART, "RN50", top1=ART_RN50 + change)
    found = against(result, TABLE)
    assert verdicts(found) == {SAME: 35, DIFFERS: 1}
    (cell,) = (each for each in found.cells if each.verdict == DIFFERS)
    assert (cell.difference, cell.words) == (change, f"differs by {change:+}")
    assert (cell.domain, cell.column.backbone, cell.candidates) == ("Art", "RN50", (ART_RN50, ART_RN50))


@pytest.mark.parametrize(
    ("change", "could_gain", "could_lose", "verdict"),
    [
        (2, 0, 2, NEAR_TIES),  # two images too many, and two that could be lost
        (2, 9, 1, DIFFERS),
        (-2, 2, 0, NEAR_TIES),
        (-2, 1, 9, DIFFERS),
        (0, 5, 5, SAME),
    ],
)
def test_a_difference_is_due_to_near_ties_only_if_they_can_take_it_away(
    change: int, could_gain: int, could_lose: int, verdict: str
):
    result = evaluation(("officehome",), ("RN50",), ties=(could_gain, could_lose))
    found = against(with_cell(result, ART, "RN50", top1=ART_RN50 + change), TABLE)
    cell = found.cells[0]
    assert (cell.verdict, cell.difference) == (verdict, change)
    assert (cell.epsilon, cell.could_gain, cell.could_lose) == (1e-3, could_gain, could_lose)
    assert any("less than 0.001 apart" in note for note in found.notes) == (verdict != SAME)


def test_another_epsilon_is_counted_anew_from_the_answers():
    result = with_cell(evaluation(("officehome",), ("RN50",)), ART, "RN50", top1=ART_RN50 + 1)
    with pytest.raises(UserError, match=r"below 0\.001 only, not below 0\.05"):
        against(result, TABLE, epsilon=0.05)
    margins = np.array([0.04, 0.04, 0.06, 0.01, 0.01], np.float32)
    ranks = np.array([0, 1, 0, 2, 1], np.int32)
    answers = ColumnAnswers(ranks, ranks, margins)
    of_art = DomainAnswers("officehome", "Art", ranks, {Column("RN50", prompts="transferlearning"): answers})
    of_before = replace(result, near_ties=())
    for each in (result, of_before):
        found = against(each, TABLE, epsilon=0.05, answers={("officehome", "Art"): of_art})
        cell = found.cells[0]
        assert (cell.verdict, cell.epsilon, cell.could_lose, cell.could_gain) == (NEAR_TIES, 0.05, 1, 2)
    with pytest.raises(UserError, match="counts no near ties"):
        against(of_before, TABLE, epsilon=0.05)
    assert against(of_before, TABLE).cells[0].verdict == DIFFERS, "without near ties nothing is explained by them"


def _renamed(result: Evaluation) -> Evaluation:
    names = {folder.replace("_", "-"): name for folder, name in result.datasets[0].names.items()}
    return with_facts(result, names=names)


def _recipes(**changes: str) -> Callable[[Evaluation], Evaluation]:
    return lambda result: replace(
        result, recipes=tuple(replace(each, recipe=replace(each.recipe, **changes)) for each in result.recipes)
    )


NOT = {
    "another variant": (lambda r: with_facts(r, variant="24,788"), "its images are the variant 24,788"),
    "no known variant": (lambda r: with_facts(r, variant=None), "no known variant of Office-Home"),
    "a split": (lambda r: with_facts(r, protocol="domainbed"), "only the images of the protocol domainbed"),
    "a renamed folder": (_renamed, "the class folder Alarm-Clock is Alarm_Clock in the table"),
    "a class more": (
        lambda r: with_facts(r, names={**r.datasets[0].names, "Zebra": "Zebra"}),
        "66 classes, the table's are 65",
    ),
    "an extra template": (
        lambda r: replace(
            r,
            prompts={
                "transferlearning": replace(
                    r.prompts["transferlearning"], templates=("a picture of a {folder}", "a {folder}")
                )
            },
        ),
        "other prompts than `a picture of a …`",
    ),
    "readable names": (
        lambda r: replace(
            r, prompts={"transferlearning": replace(r.prompts["transferlearning"], templates=("a picture of a {}",))}
        ),
        "other prompts than `a picture of a …`",
    ),
    "classes in another order": (
        lambda r: with_facts(r, names=dict(reversed(r.datasets[0].names.items()))),
        "the class folder Webcam is Alarm_Clock in the table",
    ),
    "texts of each class": (
        lambda r: replace(
            r, prompts={"transferlearning": UsedPrompts(kind="texts", templates=("a picture of a {folder}",))}
        ),
        "other prompts than `a picture of a …`",
    ),
    "other weights": (_recipes(weights="1" * 64), "weights 111111111111 are not OpenAI's RN50.pt"),
    "weights of another backbone": (
        _recipes(weights=OPENAI_BACKBONES["RN101"].archive_sha256 or ""),
        "are not OpenAI's RN50.pt",
    ),
    "random weights": (_recipes(weights="random in fp32, seed 0, RN50"), "random weights"),
    "GELU": (_recipes(architecture="RN50"), "run with GELU, not with QuickGELU"),
}


@pytest.mark.parametrize("why", NOT)
def test_other_images_prompts_or_weights_have_no_verdict_but_a_reason(why: str):
    change, reason = NOT[why]
    found = against(change(evaluation(("officehome",), ("RN50",))), TABLE)  # type: ignore[no-untyped-call]
    assert verdicts(found) == {NOT_COMPARABLE: 4}
    assert [where for where, text in reasons(found.cells) if reason in text] == ["all cells"]
    assert all(cell.difference is None for cell in found.cells)
    assert found.averages[0].yours is None and found.averages[0].printed == Fraction("0.7225")


CELLS = {
    "a sample": ({"sample": "the held-out 20 %"}, "only the images of the held-out 20 %"),
    "unreadable images": ({"unreadable": 1, "classified": 2426}, "1 image unreadable"),
    "missing shards": ({"missing_shards": 1}, "1 of 2 shards are missing"),
    "fewer images": ({"images": 2426, "classified": 2426}, "2,426 images, the table's are 2,427"),
}


@pytest.mark.parametrize("policy", ["stop", "wrong", "exclude"])
@pytest.mark.parametrize("why", CELLS)
def test_a_cell_without_all_its_images_has_no_verdict(why: str, policy: str):
    changes, reason = CELLS[why]
    result = replace(evaluation(("officehome",)), unreadable_policy=policy)
    found = against(with_cell(result, ART, "RN50", **changes), TABLE)
    assert verdicts(found) == {SAME: 35, NOT_COMPARABLE: 1}
    assert reasons(found.cells) == [(f"{ART} RN50", reason)]


def test_known_fingerprints_must_be_the_published_ones():
    known = replace(TABLE.datasets["officehome"], fingerprints={"Art": "f" * 64})
    found = against(evaluation(("officehome",)), replace(TABLE, datasets={**TABLE.datasets, "officehome": known}))
    assert verdicts(found) == {SAME: 27, NOT_COMPARABLE: 9}
    assert reasons(found.cells) == [(ART, "its images are others than the table's (their fingerprints differ)")]


def test_names_of_imagenet_r_are_the_readable_ones_and_must_be_the_cards():
    result = evaluation(("imagenet-r",), ("RN50",))
    assert verdicts(against(result, TABLE)) == {SAME: 1}
    names = {**result.datasets[0].names, "n01443537": "gold fish"}
    found = against(with_facts(result, names=names), TABLE)
    assert reasons(found.cells) == [("all cells", "classes have other names in prompts")]


def test_several_counts_behind_one_number_are_all_the_same():
    for right, verdict in ((16864, DIFFERS), (16865, SAME), (16867, SAME), (16868, DIFFERS)):
        (cell,) = against(evaluation(("imagenet-r",), ("RN50",), right=lambda *_, n=right: n), TABLE).cells
        assert (cell.candidates, cell.verdict) == ((16865, 16867), verdict)


def test_domainnets_counts_are_worked_out_from_ones_own_number_of_images():
    result = evaluation(("domainnet",))
    fewer = {"images": 172_947, "classified": 172_947, "top1": round(0.7688 * 172_947)}
    found = against(with_cell(with_facts(result, variant="cleaned"), "domainnet/real", "RN50", **fewer), TABLE)
    assert verdicts(found) == {SAME: 54}
    assert any("which DomainNet" in note for note in found.notes)


def test_office_31s_average_is_reported_as_printed_and_corrected():
    found = against(evaluation(("office31",)), TABLE)
    corrected = [0.7082, 0.7529, 0.7862, 0.8000, 0.8534, 0.7993, 0.7993, 0.8396, 0.8258]
    assert [round(float(each.of_cells or 0), 4) for each in found.averages] == corrected
    for each in found.averages:
        assert each.printed and each.of_cells and each.yours and each.yours_as_printed
        assert abs(each.yours_as_printed - each.printed) < 1e-4 and abs(each.yours - each.of_cells) < 1e-4
    document = make_document(evaluation(("office31",)), TableStyle(), "", found)
    for text in (text_of(found), markdown(document), latex(document)):
        assert "leaves dslr out" in " ".join(text.split())
        cells = [line.replace("|", " ").replace("&", " ").split() for line in text.splitlines()]
        assert any("printed" in row and "corrected" in row for row in cells)
        assert any(row[:5] == ["RN50", "69.08", "69.07", "70.82", "70.82"] for row in cells), "both averages"


def test_averages_need_all_domains_and_other_tables_print_theirs_right():
    found = against(evaluation(("pacs", "officehome", "vlcs", "terraincognita", "domainnet")), TABLE)
    assert len(found.averages) == 45
    assert all(abs((each.printed or 0) - (each.of_cells or 0)) <= Fraction(1, 10_000) for each in found.averages)
    assert against(evaluation(("visda17", "imagenet-r")), TABLE).averages == (), "one domain is its own average"
    result = evaluation(("pacs",), ("RN50",))
    (average,) = against(replace(result, cells=result.cells[:3]), TABLE).averages
    assert average.yours is None and average.of_cells


def test_other_cells_have_no_verdict_and_are_counted():
    result = evaluation(
        ("pacs",),
        ("RN50", "EVA02"),
        prompts={**TRANSFERLEARNING, "photo": ("a photo of a {}.",)},
        right=lambda *_: 1000,
    )
    fitted = replace(result.cells[0], head="ridge", prompts="")
    found = against(replace(result, cells=(*result.cells, fitted)), TABLE)
    assert len(found.cells) == 4
    assert found.notes[0] == (
        "Not in the published table: 8 cells of EVA02, 1 cell of fitted heads, 4 cells with the prompts photo."
    )


def test_a_result_without_a_published_cell_says_so():
    found = against(evaluation(("pacs",), ("EVA02",), right=lambda *_: 1000), TABLE)
    assert found.cells == () and verdict_line(found).startswith("No cell of this result is in jindongwang")
    assert "Not in the published table: 4 cells of EVA02." in text_of(found)


def test_a_result_is_compared_with_another_by_its_counts(tmp_path: Path):
    other = evaluation(("pacs",), ("RN50", "tiny"), right=lambda *_: 1000)
    (tmp_path / "other.json").write_bytes(to_json(other))
    table = find_table(str(tmp_path / "other.json"))
    mine = _recipes(precision="bf16", weights="2" * 64)(with_cell(other, "pacs/photo", "tiny", top1=1003))
    found = against(mine, table)
    assert verdicts(found) == {SAME: 7, DIFFERS: 1}
    (cell,) = (each for each in found.cells if each.verdict == DIFFERS)
    assert (cell.candidates, cell.difference, cell.published) == ((1000, 1000), 3, Fraction(1000, 1670))
    text = text_of(found)
    assert "+3" in text and "Averages of" not in text, "no average was printed, so none can be as printed"
    assert "pacs, transferlearning: right answers against the other result" in text
    assert ["backbone", "other", "this"] in [line.split() for line in text.splitlines()]
    assert "table" not in text and "yours" not in text
    page = render_page(mine, answers=None, against=found, families=[], style=TableStyle(), shards=None).decode()
    assert page.count("Against the other result") == 2 and "Against the published table" not in page
    section = page[page.index('id="published"') :].partition("</section>")[0]
    assert ">other<" in section and ">this<" in section and "printed" not in section and "yours" not in section


@pytest.mark.parametrize("policy", ["stop", "exclude", "wrong"])
def test_a_result_is_the_same_as_its_own_csv_and_grim_finds_it_possible(policy: str, fastclip: Program):
    result = evaluation(("officehome", "terraincognita"), ("RN50", "tiny"), right=lambda *_: 1234)
    result = with_cell(result, ART, "RN50", unreadable=4, classified=2423, top1=1763)
    result = replace(with_cell(result, ART, "tiny", prompts="-1"), unreadable_policy=policy)
    path = fastclip.folder / "own.csv"
    path.write_bytes(csv_file(result).encode())
    found = against(result, find_table(str(path)))
    assert verdicts(found) == {SAME: len(result.cells) - (policy == "stop")}
    assert fastclip.here("grim", "own.csv").code == 0


def test_the_prompt_set_that_is_compared_is_named():
    prompts = {**TRANSFERLEARNING, "photo": ("a photo of a {}.",)}
    result = evaluation(("pacs",), ("RN50",), prompts=prompts)
    found = against(result, TABLE)
    assert "pacs, transferlearning: right answers against the published table" in text_of(found)
    both = against(result, table_of_result(with_cell(result, "pacs/photo", "RN50", top1=1), "other"))
    names = [row[0] for grid in verdict_grids(both) for row in grid.rows]
    assert names == ["RN50, transferlearning", "RN50, photo"] * 2
    alike = replace(result.cells[1], missing_shards=1)
    torn = against(replace(result, cells=(result.cells[0], alike, *result.cells[2:])), TABLE)
    assert [where for where, _ in reasons(torn.cells)] == ["pacs/cartoon"]
    of_one = [replace(each, missing_shards=int(each is result.cells[6])) for each in result.cells]
    torn = against(replace(result, cells=tuple(of_one)), table_of_result(result, "other"))
    assert [where for where, _ in reasons(torn.cells)] == ["pacs/photo RN50, photo"]


def test_the_verdict_stands_out_on_a_terminal():
    blank, line, *_ = verdict_parts(against(evaluation(("pacs",), ("RN50",)), TABLE))
    assert blank == "" and isinstance(line, Text) and (line.style, line.plain[:7]) == ("bold", "4 cells")


OTHERS = {
    "its images are others (their fingerprints differ)": lambda r: with_facts(
        r, fingerprints=dict.fromkeys(r.datasets[0].fingerprints, "9" * 64)
    ),
    "its class folders are others": lambda r: with_facts(r, names={**r.datasets[0].names, "zebra": "zebra"}),
    "other prompts": lambda r: replace(
        r, prompts={"transferlearning": replace(r.prompts["transferlearning"], templates=("a {folder}",))}
    ),
    "random weights": _recipes(weights="random in fp32, seed 0, RN50"),
}


@pytest.mark.parametrize("reason", OTHERS)
def test_results_of_other_images_or_prompts_are_not_comparable(reason: str, tmp_path: Path):
    result = evaluation(("pacs",), ("RN50",))
    (tmp_path / "other.json").write_bytes(to_json(OTHERS[reason](result)))  # type: ignore[no-untyped-call]
    found = against(result, find_table(str(tmp_path / "other.json")))
    assert verdicts(found) == {NOT_COMPARABLE: 4}
    assert reasons(found.cells) == [("all cells", reason)]


OTHER_CELLS = {
    "its images are others (their fingerprints differ)": {"images": 1671, "classified": 1671},
    "asked about all images, the other about half of them": {"sample": "half of them"},
    "0 unreadable, in the other 1": {"unreadable": 1, "classified": 1669},
    "1 of 2 shards are missing": {"missing_shards": 1},
}


@pytest.mark.parametrize("reason", OTHER_CELLS)
def test_a_cell_of_other_images_is_not_comparable_with_another_results(reason: str):
    result = evaluation(("pacs",), ("RN50",), right=lambda *_: 1000)
    other = replace(with_cell(result, "pacs/photo", "RN50", **OTHER_CELLS[reason]), unreadable_policy="exclude")
    numbers = table_of_result(other, "other.json")
    if "missing" in reason:  # it has no number at all there
        assert [each.domain for each in numbers.cells] == ["art_painting", "cartoon", "sketch"]
    else:
        assert reasons(against(result, numbers).cells) == [("pacs/photo", reason)]


def test_places_are_named_in_as_few_words_as_they_allow():
    result = evaluation(("officehome", "pacs"), ("RN50", "RN101", "ViT-B/32"))

    def where(*places: str) -> str:
        changed = result
        for place in places:
            name, backbone = place.split(" ")
            for cell in result.cells:
                if f"{cell.dataset}/{cell.domain}".startswith(name) and cell.backbone.startswith(backbone):
                    changed = with_cell(changed, f"{cell.dataset}/{cell.domain}", cell.backbone, missing_shards=1)
        (only,) = reasons(against(changed, TABLE).cells)
        return only[0]

    every = ("officehome", "pacs")
    assert where("officehome R", "officehome V", "pacs R", "pacs V") == "all cells"
    assert where(*(f"{name} RN50" for name in every), *(f"{name} ViT" for name in every)) == "RN50, ViT-B/32"
    assert where("pacs R", "pacs V") == "pacs"
    assert where("pacs RN101", "officehome/Art R", "officehome/Art V") == "officehome/Art, pacs RN101"
    assert where("pacs/photo RN50", "pacs/sketch RN101") == "pacs/photo RN50, pacs/sketch RN101"
    many = where("pacs/photo RN50", "pacs/sketch RN101", "officehome/Art RN50", "officehome/Clipart RN101", "pacs/c V")
    assert many == "officehome/Art RN50, officehome/Clipart RN101, pacs/photo RN50 and 2 more"


@pytest.mark.parametrize("numbers", [("72.68", "51.23"), ("0.7268", "0.5123"), ("72.68%", "51.23 %")])
def test_a_result_is_compared_with_a_csv_of_percentages_or_fractions(numbers: tuple[str, str], tmp_path: Path):
    rows = f"""Dataset,Domain,Backbone,Accuracy
officehome,Art,RN50,{numbers[0]}
officehome,clipart,RN50,{numbers[1]}
officehome,Avg.,RN50,62.0
officehome,Real World,RN50,
"""
    (tmp_path / "paper.csv").write_text(rows)
    found = against(evaluation(("officehome",), ("RN50",)), find_table(str(tmp_path / "paper.csv")))
    assert [(each.domain, each.candidates, each.decimals, each.verdict) for each in found.cells] == [
        ("Art", (1764, 1764), 4, SAME),
        ("Clipart", (2236, 2236), 4, SAME),
    ]


def test_a_csv_may_name_prompts_and_images_and_open_clips_backbones(tmp_path: Path):
    path = tmp_path / "paper.csv"
    path.write_text(
        "dataset;domain;backbone;prompts;images;accuracy\n"
        "officehome;Art;ViT-L-14-336;photo;2427;88.4\n"
        "officehome;Art;ViT-L-14-336;transferlearning;2426;88.4\n"
    )
    prompts = {**TRANSFERLEARNING, "photo": ("a photo of a {}.",)}
    found = against(evaluation(("officehome",), ("ViT-L/14@336px",), prompts=prompts), find_table(str(path)))
    plain, photo = sorted(found.cells, key=lambda each: each.column.prompts, reverse=True)
    assert (photo.verdict, photo.candidates, photo.decimals) == (SAME, (2145, 2146), 3)
    assert (plain.verdict, plain.reasons) == (NOT_COMPARABLE, ("2,427 images, the table's are 2,426",))


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffdataset,backbone,Art,Clipart,avg\r\nofficehome,RN50,0.7268,0.5123,0.6196\r\n",
        "dataset\tdomain\tRN50\nofficehome\tArt\t72.68\nofficehome\tClipart\t51.23\n",
    ],
    ids=["a column a domain", "a column a backbone"],
)
def test_a_wide_csv_is_read_either_way(text: str, tmp_path: Path):
    (tmp_path / "paper.csv").write_bytes(text.encode())
    found = against(evaluation(("officehome",), ("RN50",)), find_table(str(tmp_path / "paper.csv")))
    assert [(each.domain, each.verdict, each.candidates) for each in found.cells] == [
        ("Art", SAME, (1764, 1764)),
        ("Clipart", SAME, (2236, 2236)),
    ]


def test_an_impossible_printed_number_is_not_comparable(tmp_path: Path):
    (tmp_path / "paper.csv").write_text("dataset,domain,backbone,accuracy\nofficehome,Art,RN50,72.69\n")
    (cell,) = against(evaluation(("officehome",), ("RN50",)), find_table(str(tmp_path / "paper.csv"))).cells
    assert (cell.verdict, cell.reasons) == (NOT_COMPARABLE, ("no number of 2,427 images is printed so",))


def test_a_table_without_prompts_is_refused_for_a_result_of_several(tmp_path: Path):
    (tmp_path / "paper.csv").write_text("dataset,domain,backbone,accuracy\nofficehome,Art,RN50,72.69\n")
    result = evaluation(("officehome",), ("RN50",), prompts={**TRANSFERLEARNING, "photo": ("a photo of a {}.",)})
    with pytest.raises(UserError, match="transferlearning or photo"):
        against(result, find_table(str(tmp_path / "paper.csv")))


def test_the_document_of_verdicts_is_json_and_whole():
    result = evaluation(("officehome", "office31"), ties=(3, 1))
    result = with_cell(result, ART, "RN50", top1=ART_RN50 - 2)
    result = with_cell(result, "office31/dslr", "RN101", missing_shards=1)
    document = json.loads(json.dumps(against_document(against(result, TABLE)), allow_nan=False))
    assert document["verdicts"] == {"same": 61, "near ties": 1, "differs": 0, "not comparable": 1}
    assert document["source"] == "jindongwang/transferlearning, code/clip/README.md" and len(document["commit"]) == 40
    cell = next(each for each in document["cells"] if each["verdict"] == "near ties")
    assert cell == {
        "dataset": "officehome", "domain": "Art",
        "backbone": "RN50", "head": "zero-shot", "prompts": "transferlearning",
        "accuracy": 0.7268, "decimals": 4, "candidates": [1764, 1764], "images": 2427, "yours": 1762,
        "verdict": "near ties", "difference": -2, "epsilon": 0.001, "could_gain": 3, "could_lose": 1, "reasons": [],
    }  # fmt: skip
    assert document["averages"][0]["printed"] == 0.7225


def test_verdicts_of_nine_backbones_fit_80_columns_and_say_each_thing_once():
    result = evaluation(("officehome", "domainnet", "office31", "pacs"), ties=(3, 5))
    result = with_cell(result, ART, "RN50", top1=ART_RN50 + 4)
    result = with_cell(result, "officehome/Clipart", "RN50", top1=2236 - 4)
    result = with_cell(result, "domainnet/quickdraw", "ViT-L/14@336px", top1=172_500)
    result = replace(
        result, datasets=tuple(replace(each, variant=None) if each.name == "pacs" else each for each in result.datasets)
    )
    found = against(result, TABLE)
    text = text_of(found)
    assert max(map(len, text.splitlines())) <= 80
    rows = [line.split() for line in text.splitlines()]
    assert ["RN50", "≈", "+4", "−4", "=", "="] in rows
    assert text.count("no known variant of PACS") == 1 and "Not comparable, pacs: " in text
    assert not any(row[:2] == ["backbone", "art_painting"] for row in rows), "a table of question marks says nothing"
    assert verdict_line(found).startswith("153 cells: 114 same, 1 within near ties, 2 differ, 36 not comparable")


def test_names_of_strangers_are_printed_without_control_characters():
    result = evaluation(("pacs",), ("RN50",))
    names = {"\x1b[2Jdog": "dog", **{k: v for k, v in result.datasets[0].names.items() if k != "dog"}}
    text = text_of(against(with_facts(result, names=names), TABLE))
    assert "\x1b" not in text and "\\x1b[2Jdog" in text


def test_a_part_of_the_images_is_not_compared_with_a_csv(tmp_path: Path):
    (tmp_path / "paper.csv").write_text("dataset,domain,backbone,accuracy\nofficehome,Art,RN50,72.68\n")
    whole = evaluation(("officehome",), ("RN50",))
    part = replace(whole, cells=tuple(replace(each, sample="the half held out by hash") for each in whole.cells))
    (cell,) = against(part, find_table(str(tmp_path / "paper.csv"))).cells
    assert cell.verdict == NOT_COMPARABLE and cell.reasons == ("only the images of the half held out by hash",)
