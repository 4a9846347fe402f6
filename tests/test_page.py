"""The HTML page of a result: its numbers are the result's, and nothing in it can run, load or hide."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_pages import Drawn, drawn_against, drawn_family, drawn_input, result_of_shards
from helpers import REPOSITORY, Sharded, recipe, shard, write
from html_pages import Element, parse
from PIL import Image

from fastclip.errors import UserError, printable
from fastclip.report.html.compared import MOST_FAMILIES
from fastclip.report.html.page import FOLDER, render_page
from fastclip.report.html.plots import LEVELS, heat_picture, make_axis
from fastclip.report.html.shown import shown_answers
from fastclip.report.html.wrong import wrong_lists
from fastclip.report.numbers import TableStyle, percent
from fastclip.results.answers import NO_ANSWER
from fastclip.results.cells import Column, UnreadableImage, UsedPrompts
from fastclip.results.comparing.columns import compare
from fastclip.results.files.merging import merge
from fastclip.results.files.result import to_json
from fastclip.results.files.result_reader import parse_result
from fastclip.results.statistics import wilson

HOSTILE = (
    "<script>alert(1)</script>",
    '" onload="alert(1)',
    "'><img src=x onerror=alert(1)>",
    "--></style></script><h1>",
    "{{ 7*7 }}{% raw %}",
    "&lt;b&gt;",
    "\u202egnp.exe",
    "two\nlines\x1b[31m",
    "=HYPERLINK(1)",
    "x" * 300,
)


def page_of(drawn: Drawn, **options: Any) -> bytes:
    evaluation, answers = drawn
    usual: dict[str, Any] = {"answers": answers, "against": None, "families": (), "style": TableStyle(), "shards": None}
    return render_page(evaluation, **{**usual, **options})


def full_page(drawn: Drawn, **options: Any) -> bytes:
    """A page with every section."""
    evaluation, answers = drawn
    unreadable = UnreadableImage(dataset=evaluation.datasets[0].name, domain="art", path="c/0.jpg", reason="was cut")
    evaluation = replace(evaluation, unreadable=(unreadable,))
    family = drawn_family(evaluation)
    return page_of((evaluation, answers), against=drawn_against(evaluation), families=(family,), **options)


def section(page: bytes, anchor: str) -> Element:
    return parse(page).one("section", id=anchor)


def rows_of(page: bytes, anchor: str, number: int = 0) -> list[list[str]]:
    """The rows of a table of a section, without the header."""
    return section(page, anchor).all("table")[number].rows()[1:]


# Structure


def test_sections_stand_in_order_and_the_contents_lead_to_each():
    page = parse(full_page(drawn_input(prompts=("photo", "plain"))))
    anchors = [each.attributes["id"] for each in page.all("section")]
    assert anchors == ["verdict", "tables", "published", "domains", "pairs", "prompts", "classes", "confusions",
                       "wrong", "unreadable", "method", "data"]  # fmt: skip
    assert [link.attributes["href"] for link in page.one("nav").all("a")] == [f"#{each}" for each in anchors]


def test_what_there_is_no_data_for_is_not_there_and_its_command_is_named():
    evaluation, _ = drawn_input()
    page = parse(page_of((evaluation, None)))  # type: ignore[arg-type]
    anchors = [each.attributes["id"] for each in page.all("section")]
    assert anchors == ["verdict", "tables", "domains", "method", "data"]
    assert [link.attributes["href"] for link in page.one("nav").all("a")] == [f"#{each}" for each in anchors]
    commands = [code.text for code in page.one("section", id="verdict").all("code")]
    assert "fastclip report RESULT --predictions FILE --html PAGE" in commands
    command = "fastclip report RESULT --against published --html PAGE"
    assert command not in commands, "the published table has no such dataset"
    (facts,) = evaluation.datasets
    known = replace(evaluation, datasets=(replace(facts, name="pacs"),))
    assert command in [code.text for code in parse(page_of((known, None))).all("code")]  # type: ignore[arg-type]


def test_equal_input_gives_equal_bytes_in_every_process():
    code = (
        "import hashlib; from test_page import full_page; from drawn_pages import drawn_input; "
        "print(hashlib.sha256(full_page(drawn_input(120))).hexdigest())"
    )
    path = f"{REPOSITORY}:{REPOSITORY / 'tests'}"
    found = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    digests = [each.communicate()[0].strip() for each in found]
    assert digests == [hashlib.sha256(full_page(drawn_input(120))).hexdigest()] * 2


def test_a_page_needs_no_torch():
    code = "import sys, fastclip.report.html.page; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


# Numbers


def test_the_table_holds_the_results_numbers_with_marks_and_intervals():
    evaluation, answers = drawn_input()
    table = section(page_of((evaluation, answers)), "tables").one("table")
    cells = {(cell.backbone, cell.domain): cell for cell in evaluation.cells}
    backbones = list(dict.fromkeys(backbone for backbone, _ in cells))
    assert table.rows()[0] == ["backbone", "art", "photo", "Avg."]
    for domain, place in (("art", 1), ("photo", 2)):
        accuracies = [Fraction(cells[b, domain].top1, cells[b, domain].images) for b in backbones]
        best, second = sorted(set(accuracies), reverse=True)[:2]
        for row, accuracy, backbone in zip(table.all("tr")[1:], accuracies, backbones, strict=True):
            cell = row.all()[0:1] and [each for each in row.children if isinstance(each, Element)][place]
            interval = wilson(cells[backbone, domain].top1, cells[backbone, domain].images)
            assert cell.text == f"{float(accuracy * 100):.2f} [{interval.low * 100:.2f}, {interval.high * 100:.2f}]"
            assert [each.tag for each in cell.all() if each.tag in "bu"] == (
                ["b"] if accuracy == best else ["u"] if accuracy == second else []
            )
    averages = {row[0]: row[3].split()[0] for row in table.rows()[1:]}
    for backbone in backbones:
        shares = [Fraction(cells[backbone, d].top1, cells[backbone, d].images) for d in ("art", "photo")]
        assert averages[backbone] == percent(sum(shares, Fraction(0)) / 2)


def test_the_verdict_counts_images_and_cells_and_names_the_digest_of_the_result():
    evaluation, answers = drawn_input(1234)
    text = section(page_of((evaluation, answers)), "verdict").text
    assert "Complete: every image was classified." in text
    assert "1,234 images of 1 dataset (2 domains); 3 backbones × 1 prompt set: 6 cells." in text
    assert hashlib.sha256(to_json(evaluation)).hexdigest() in text
    assert "Best on letters (average over domains): ViT-L/14" in text


@pytest.mark.parametrize("policy", ["stop", "wrong", "exclude"])
def test_the_verdict_says_what_unreadable_images_mean(policy: str):
    evaluation, answers = drawn_input()
    broken = tuple(
        UnreadableImage(dataset="letters", domain="art", path=f"c/{n}.jpg", reason="cut") for n in range(250)
    )
    cells = tuple(
        replace(c, unreadable=250, images=c.images + 250) if c.domain == "art" else c for c in evaluation.cells
    )
    evaluation = replace(evaluation, unreadable_policy=policy, unreadable=broken, cells=cells)
    page = page_of((evaluation, answers))
    state = {
        "stop": "Undecided: 250 images are unreadable.",
        "wrong": "250 images are unreadable, and counted as wrong.",
        "exclude": "250 images are unreadable, and left out of the counts.",
    }
    assert state[policy] in section(page, "verdict").text
    assert section(page, "unreadable").text.startswith("Unreadable images 100 of 250.")
    assert len(rows_of(page, "unreadable")) == 100


def test_an_incomplete_result_says_so_first():
    evaluation, answers = drawn_input()
    cells = tuple(
        replace(c, missing_shards=1, images=c.images + 9) if c.domain == "art" else c for c in evaluation.cells
    )
    state = section(page_of((replace(evaluation, cells=cells), answers)), "verdict").all("p")[0].text
    assert state.startswith("✗ Incomplete: shards are missing, and 3 cells have no number.")


def test_random_weights_are_never_the_best_and_are_named():
    evaluation, answers = drawn_input()
    drawn = replace(recipe(), backbone="ViT-L/14", weights="random: seed 1")
    recipes = [replace(each, recipe=drawn) if each.backbone == "ViT-L/14" else each for each in evaluation.recipes]
    page = page_of((replace(evaluation, recipes=tuple(recipes)), answers))
    assert "Best on letters (average over domains): ViT-B/32" in section(page, "verdict").text
    assert "ViT-L/14: random weights" in section(page, "verdict").text
    assert "The answers of ViT-B/32, photo" in section(page, "classes").text


def test_verdicts_against_a_published_table_say_by_how_many_images():
    drawn = drawn_input()
    page = page_of(drawn, against=drawn_against(drawn[0], reason="other templates"))
    matrix = rows_of(page, "published")
    words = ["✓ same", "near ties", "✗ differs by −3", "not comparable"]
    cells = drawn[0].cells
    rows = {row[0]: dict(zip(("art", "photo"), row[1:], strict=True)) for row in matrix}
    for number, cell in enumerate(cells):
        assert rows[cell.backbone][cell.domain] == words[number % 4]
    details = {row[0]: row for row in rows_of(page, "published", 2)}
    differing = details[f"{cells[2].domain}, {cells[2].backbone}"]
    assert differing[1:5] == ["72.68", "1,764", str(cells[2].top1), str(cells[2].images)]
    assert details[f"{cells[3].domain}, {cells[3].backbone}"][5:] == ["not comparable", "other templates"]
    assert (
        "6 cells: 2 same, 2 within near ties, 1 differs, 1 not comparable (against a table, 0123abc)."
        in section(page, "verdict").text
    )


def test_pairs_show_net_images_and_the_adjusted_p():
    drawn = drawn_input()
    family = drawn_family(drawn[0])
    rows = rows_of(page_of(drawn, families=(family,)), "pairs")
    assert len(rows) == len(family.tests) == 6, "of two backbones, in each domain and on average"
    for row, test in zip(rows, family.tests, strict=True):
        net = test.pair.only_a - test.pair.only_b
        assert row[:6] == [test.pair.domain, test.pair.a.backbone, f"{net:+d}".replace("-", "−"),
                           str(test.pair.only_a), str(test.pair.only_b), str(test.pair.images)]  # fmt: skip
        assert float(row[9]) == pytest.approx(test.p_adjusted, rel=0.5, abs=5e-4)
        assert test.interval is not None
        low, high = (float(each) for each in row[7].replace("−", "-").strip("[]").split(","))
        assert (low, high) == pytest.approx((test.interval.low * 100, test.interval.high * 100), abs=0.005)


def test_a_family_says_how_many_of_its_tests_it_shows():
    drawn = drawn_input()
    (chosen,) = compare(drawn[0], "backbones")
    shown = section(page_of(drawn, families=(chosen,)), "pairs")
    assert shown.one("h3").text.endswith("9 tests, all pairs")
    assert shown.one("summary").text == "6 of the 9 tests against ViT-L/14, p corrected by Holm"
    (given,) = compare(drawn[0], "backbones", to="RN50")
    shown = section(page_of(drawn, families=(given,)), "pairs")
    assert shown.one("summary").text == "6 tests against RN50, p corrected by Holm"
    assert [each.text for each in shown.all("thead")[1].all("th")] == ["domain", "backbones", "Q", "degrees", "p"]


def test_the_first_section_speaks_plainly():
    """Of a result with one backbone, on a dataset whose images are too alike, by the average over images."""
    evaluation, _ = drawn_input(dataset="office31", prompts=("photo", "plain"), backbones=("RN50",))
    text = section(page_of((evaluation, None), style=TableStyle(average="micro")), "verdict").text  # type: ignore[arg-type]
    assert "Paired tests: fastclip compare RESULT" in text and "--of" not in text
    assert "Caveats Intervals are too narrow for office31: it has several photos" in text
    assert "Best on office31 (average over images): p" in text


def test_the_bound_of_near_ties_is_a_plain_number():
    drawn = drawn_input()
    assert "(margin below 0.001)" in section(page_of(drawn, against=drawn_against(drawn[0])), "published").text


def test_prompt_sets_are_compared_by_average():
    evaluation, answers = drawn_input(prompts=("photo", "plain"))
    page = page_of((evaluation, answers))
    rows = {row[0]: row[1:] for row in rows_of(page, "prompts")}
    assert list(rows) == ["RN50", "ViT-B/32", "ViT-L/14"]
    for backbone, texts in rows.items():
        for prompts, text in zip(("photo", "plain"), texts, strict=True):
            cells = [c for c in evaluation.cells if (c.backbone, c.prompts) == (backbone, prompts)]
            assert text == percent(sum((Fraction(c.top1, c.images) for c in cells), Fraction(0)) / len(cells))


def test_a_test_that_says_nothing_has_no_p_and_a_family_of_two_runs_has_no_reference():
    drawn = drawn_input()
    family = drawn_family(drawn[0])
    silent = tuple(replace(each, p_exact=None, p_mid=None, p_adjusted=None) for each in family.tests)
    page = page_of(drawn, families=(replace(family, tests=silent, reference=None, of="runs"),))
    assert [row[8:] for row in rows_of(page, "pairs")] == [["—", "—"]] * len(silent)
    assert "Differences from the other run" in section(page, "pairs").text
    assert not section(page, "pairs").one("div", **{"class": "panels"}).all("circle", **{"class": "dot marked"})


def test_only_the_first_family_of_a_kind_has_plots_and_a_page_has_no_end_of_them():
    drawn = drawn_input()
    family = drawn_family(drawn[0])
    others = [replace(family, name=f"family {number}") for number in range(MOST_FAMILIES + 2)]
    pairs = section(page_of(drawn, families=(family, replace(family, of="prompts"), *others)), "pairs")
    assert len(pairs.all("h3")) == 2 and len(pairs.all("details")) == MOST_FAMILIES
    assert "4 further families of tests" in pairs.text


def test_several_datasets_are_told_apart_and_share_the_pictures(shapes: Sharded, wide: Sharded):
    first, second = result_of_shards(shapes), all_wrong(wide)
    evaluation = merge({"first": first[0], "second": second[0]})
    answers = replace(first[1], domains={**first[1].domains, **second[1].domains})
    page = parse(page_of((evaluation, answers), shards=shapes.shards, thumbnails=30))
    anchors = ("tables", "classes", "confusions", "wrong")
    titles = {anchor: [each.text for each in page.one("section", id=anchor).all("h3")] for anchor in anchors}
    assert titles["classes"] == titles["confusions"] == ["shapes", "fruit"]
    subjects = ("2 datasets", "shapes", "fruit")
    assert titles["tables"] == [f"Top-1 accuracy (%) on {each}, zero-shot, prompt set photo" for each in subjects]
    assert titles["wrong"][0] == "shapes" and "fruit" in titles["wrong"]
    assert 10 <= len(page.all("img")) <= 15, "half of the pictures are for the other dataset, which is not there"
    assert "There are no shards of fruit" in page.one("section", id="wrong").text


def plain_counts(drawn: Drawn, column: Column) -> dict[tuple[int, int], int]:
    """Images by true and predicted class, one after the other."""
    counts: Counter[tuple[int, int]] = Counter()
    for each in drawn[1].domains.values():
        for true, predicted in zip(each.labels.tolist(), each.columns[column].predicted.tolist(), strict=True):
            if predicted != NO_ANSWER:
                counts[true, predicted] += 1
    return counts


def with_unreadable(drawn: Drawn) -> Drawn:
    """The same, where no column answers for the first ten images of a domain."""
    for each in drawn[1].domains.values():
        for column in each.columns.values():
            column.predicted[:10], column.rank[:10], column.margin[:10] = NO_ANSWER, NO_ANSWER, NO_ANSWER
    return drawn


BEST = Column("ViT-L/14", "zero-shot", "photo")


def test_classes_and_confusions_are_those_of_a_plain_loop():
    drawn = with_unreadable(drawn_input(1500, classes=30))
    counts = plain_counts(drawn, BEST)
    page = page_of(drawn)
    images = Counter[int]()
    for (true, _), number in counts.items():
        images[true] += number
    every = {row[0]: row for row in rows_of(page, "classes", 1)}
    assert len(every) == 30
    for label in range(30):
        right = counts[label, label]
        assert every[f"thing {label}"][1:4] == [str(right), str(images[label]), percent(Fraction(right, images[label]))]
    worst = sorted(range(30), key=lambda label: (Fraction(counts[label, label], images[label]), -images[label], label))
    assert [row[0] for row in rows_of(page, "classes")] == [f"thing {label}" for label in worst[:20]]
    mean = sum((Fraction(counts[label, label], images[label]) for label in range(30)), Fraction(0)) / 30
    assert f"Mean per class: {percent(mean)}%" in section(page, "classes").text

    wrong = [(-number, true, other) for (true, other), number in counts.items() if true != other]
    shown = rows_of(page, "confusions") + rows_of(page, "confusions", 1)
    assert [row[:3] for row in shown] == [
        [f"thing {true} → thing {other}", str(-number), str(images[true])] for number, true, other in sorted(wrong)[:50]
    ]
    assert f"The 50 largest of {len(wrong)} confusions" in section(page, "confusions").text


def test_wrong_images_are_those_of_a_plain_loop():
    drawn = with_unreadable(drawn_input(400))
    page = section(page_of(drawn), "wrong")
    suspects, wrong = [], []
    for (_, domain), each in drawn[1].domains.items():
        for row, true in enumerate(each.labels.tolist()):
            given = [column.predicted[row] for column in each.columns.values()]
            leads = [column.margin[row] for column in each.columns.values()]
            if given[0] not in (true, NO_ANSWER) and len(set(given)) == 1:
                suspects.append((-min(leads), f"{domain}/{row:08d}"))
            if each.columns[BEST].predicted[row] not in (true, NO_ANSWER):
                wrong.append((-each.columns[BEST].margin[row], f"{domain}/{row:08d}"))
    lists = [[item.all("small")[1].text.split(" ")[0] for item in each.all("li")] for each in page.all("ul")]
    assert [each.text for each in page.all("h3")] == [
        f"Label suspects: 24 of {len(suspects)}",
        f"A random sample: 24 of {len(wrong)} wrong",
        f"Largest margins: 24 of {len(wrong)} wrong",
    ]
    assert lists[0] == [key for _, key in sorted(suspects, key=lambda each: each[0])[:24]]
    assert lists[2] == [key for _, key in sorted(wrong, key=lambda each: each[0])[:24]]
    assert len(set(lists[1])) == 24 and set(lists[1]) <= {key for _, key in wrong}


def test_each_wrong_image_says_who_is_right():
    drawn = drawn_input(400)
    sample = section(page_of(drawn), "wrong").all("ul")[1].all("li")
    answers = {domain: each for (_, domain), each in drawn[1].domains.items()}
    for item in sample:
        domain, row = item.all("small")[1].text.split(" ")[0].split("/")
        right = [c.backbone for c, own in answers[domain].columns.items() if own.rank[int(row)] == 0]
        listed = re.search(r"right: (.*) \((\d) of 3\)", item.text)
        assert listed and listed[1] == (", ".join(right) or "none") and int(listed[2]) == len(right)


def test_the_sample_is_drawn_by_the_digest_of_the_images_alone():
    def sample(seed_of_digest: str) -> Sequence[object]:
        evaluation, answers = drawn_input(2000)
        facts = replace(evaluation.datasets[0], manifest_sha256=seed_of_digest)
        (shown,) = shown_answers(replace(evaluation, datasets=(facts,)), answers)
        return next(each.places for each in wrong_lists(shown, 0, with_pictures=False) if each.kind == "sample")

    assert sample("a") == sample("a") != sample("b")


def test_the_data_block_is_the_result():
    evaluation, answers = drawn_input(names=["</script><b>", *map(str, range(11))])
    page = page_of((evaluation, answers))
    block = parse(page).one("script", id="result").raw
    assert "<" not in block
    assert to_json(parse_result(block.encode(), "the page")) == to_json(evaluation)


def test_a_result_too_long_for_the_page_says_what_is_left_out():
    evaluation, answers = drawn_input(20 * 150, domains=[f"site {n}" for n in range(150)], prompts=list("abcdefgh"))
    assert len(to_json(evaluation)) > 2_000_000
    page = parse(page_of((evaluation, answers)))
    document = json.loads(page.one("script", id="result").raw)
    assert "patterns" not in document and "datasets" in document
    left_out = re.search(r"but for its entries (.*), for which", page.one("section", id="data").text)
    assert left_out and not set(left_out[1].split(", ")) & document.keys()


# Plots


def test_dots_lie_where_their_numbers_are_on_an_axis_whose_range_is_stated():
    evaluation, answers = drawn_input()
    panel = section(page_of((evaluation, answers)), "domains").all("svg")[0]
    stated = re.search(r"from (\S+) to (\S+)", panel.one("title").text if len(panel.all("title")) == 1 else panel.text)
    assert stated
    low, high = float(stated[1]), float(stated[2])
    cells = [cell for cell in evaluation.cells if cell.domain == "art"]
    for dot, cell in zip(panel.all("circle"), cells, strict=True):
        share = (float(dot.attributes["cx"]) - 130) / (326 - 130)
        assert low + share * (high - low) == pytest.approx(cell.top1 / cell.images * 100, abs=0.3)


@pytest.mark.parametrize(
    ("low", "high"), [(93.1, 98.3), (0.2, 99.7), (50.0, 50.0), (-0.004, 0.013), (-15.5, 0.0), (0.0, 0.0)]
)
def test_an_axis_holds_its_values_and_has_few_round_marks(low: float, high: float):
    axis = make_axis(low, high)
    assert axis.low <= low and high <= axis.high and axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 7
    assert float(f"{axis.step:.0e}") == pytest.approx(axis.step)


def test_a_matrix_of_many_classes_is_a_picture_of_a_pixel_a_cell():
    drawn = drawn_input(3000, classes=41)
    counts = plain_counts(drawn, BEST)
    image = section(page_of(drawn), "confusions").one("img")
    picture = Image.open(io.BytesIO(base64.b64decode(image.attributes["src"].partition(",")[2])))
    pixels = np.asarray(picture)
    assert picture.size == (41, 41) and picture.mode == "P"
    rows = [sum(counts.get((true, other), 0) for other in range(41)) for true in range(41)]
    for true in range(41):
        for other in range(41):
            share = counts.get((true, other), 0) / rows[true]
            assert abs(pixels[true, other] - share**0.5 * LEVELS) < 1, (true, other)
            assert (pixels[true, other] == 0) == (share == 0)


def test_a_matrix_of_few_classes_is_drawn_and_says_k_of_n():
    drawn = drawn_input(600, classes=12)
    counts = plain_counts(drawn, BEST)
    drawing = section(page_of(drawn), "confusions").one("svg")
    titles = {each.one("title").text for each in drawing.all("rect") if each.all("title")}
    images = [sum(counts.get((true, other), 0) for other in range(12)) for true in range(12)]
    assert titles == {f"thing {t} → thing {o}: {n} of {images[t]}" for (t, o), n in counts.items() if n}


def test_a_picture_of_345_classes_is_small():
    counts = np.random.default_rng(0).poisson(0.4, (345, 345)).astype(np.int64)
    assert len(heat_picture(counts)) < 60_000


# Safety


def hostile_page() -> bytes:
    """A page on which every text from elsewhere is hostile."""
    drawn = drawn_input(
        300, names=HOSTILE, classes=len(HOSTILE), domains=HOSTILE[:4], backbones=HOSTILE[:5], prompts=HOSTILE[5:8]
    )
    evaluation, answers = drawn
    for each in answers.domains.values():
        each.keys[:] = [HOSTILE[row % len(HOSTILE)] for row in range(len(each.keys))]  # type: ignore[index]
        each.paths[:] = each.keys[::-1]  # type: ignore[index]
    facts = replace(evaluation.datasets[0], title=HOSTILE[0], variant=HOSTILE[1], licence=HOSTILE[2])
    prompts = {name: UsedPrompts(templates=HOSTILE[: 3 + n]) for n, name in enumerate(evaluation.prompts)}
    broken = tuple(
        UnreadableImage(dataset="letters", domain=HOSTILE[0], path=each, reason=each) for each in HOSTILE
    )  # fmt: skip
    evaluation = replace(evaluation, datasets=(facts,), prompts=prompts, unreadable=broken, program=HOSTILE[0])
    return page_of(
        (evaluation, answers),
        against=drawn_against(evaluation, source=HOSTILE[0], reason=HOSTILE[2]),
        families=[drawn_family(evaluation, name=each) for each in HOSTILE[:3]],
    )


TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "link",
        "style",
        "body",
        "header",
        "h1",
        "h2",
        "h3",
        "main",
        "section",
        "p",
        "bdi",
    ),
    *(
        "strong",
        "em",
        "ul",
        "ol",
        "li",
        "nav",
        "a",
        "code",
        "div",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    ),
    *(
        "b",
        "u",
        "small",
        "span",
        "figure",
        "figcaption",
        "img",
        "svg",
        "path",
        "text",
        "g",
        "circle",
        "rect",
        "details",
    ),
    *("summary", "dl", "dt", "dd", "script"),
}


@pytest.mark.parametrize("make", [hostile_page, lambda: full_page(drawn_input(200, classes=50))])
def test_nothing_on_a_page_can_run_or_load(make: Any):
    page = parse(make())
    everything = page.all()
    assert {each.tag for each in everything} <= TAGS
    assert [each.attributes for each in page.all("script")] == [{"type": "application/json", "id": "result"}, {}]
    for each in everything:
        assert not [name for name in each.attributes if name.startswith("on") or name in ("style", "srcset", "action")]
        for name in ("href", "src"):
            assert each.attributes.get(name, "#").startswith(("#", "data:")), each.attributes
        if each.tag == "img":
            assert each.attributes["alt"]
        if each.tag == "svg":
            assert each.attributes["aria-label"] and each.all("title")


def test_hostile_texts_are_shown_as_they_are_with_control_characters_as_numbers():
    page = parse(hostile_page())
    for anchor in ("tables", "classes", "wrong", "unreadable"):
        text = page.one("section", id=anchor).text
        wanted = {"tables": HOSTILE[:8], "wrong": HOSTILE[:1]}.get(anchor, HOSTILE)
        assert not [each for each in wanted if " ".join(printable(each).split()) not in text], anchor
    shown = "".join(each.raw for each in page.one("body").children if isinstance(each, Element))
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f\x7f]", shown)
    assert "49" not in page.one("section", id="unreadable").text, "a text was taken for a template"


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else():
    page = parse(page_of(drawn_input(50)))
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    sources = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (page.one("style").raw, page.all("script")[1].raw)
    ]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{sources[0]}'; script-src 'sha256-{sources[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_the_script_is_short_and_no_template_switches_escaping_off():
    assert (FOLDER / "script.js").stat().st_size <= 2000
    templates = list(FOLDER.glob("*.j2"))
    assert len(templates) > 5
    for each in templates:
        assert not re.search(r"\|\s*safe|autoescape|Markup", each.read_text("utf-8")), each.name


# Size


def test_the_size_of_a_page_does_not_depend_on_the_number_of_predictions():
    sizes = [
        len(full_page(drawn_input(rows // 6, classes=65, prompts=("photo", "plain"))))
        for rows in (1000, 100_000, 500_000)
    ]
    assert max(sizes) < 1.1 * min(sizes), sizes


def test_many_classes_domains_and_rows_fit_on_a_page():
    many = drawn_input(
        8000, classes=345, domains=[f"site {n}" for n in range(200)], backbones=[f"B{n}" for n in range(9)]
    )
    assert len(full_page(many)) < 3_000_000


def test_a_page_too_large_for_browsers_is_refused():
    evaluation, answers = drawn_input(50)
    evaluation = replace(evaluation, prompts={"photo": UsedPrompts(templates=("x" * 6_000_000,))})
    with pytest.raises(UserError, match=r"The page would have .* bytes") as caught:
        page_of((evaluation, answers))
    assert "--thumbnails 200" in caught.value.fix


# Pictures


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    """Wide photos that say they lie on their side, where they were taken, and something else."""
    files = {}
    for number in range(8):
        picture = Image.new("RGB", (120, 40), (255, 0, 0))
        picture.paste((0, 0, 10 * number), (40, 0, 80, 40))
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "secret place"
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=95, exif=exif, comment=b"secret comment")
        files[f"photo/{['apple', 'bread'][number % 2]}/{number:03d}.jpg"] = file.getvalue()
    folder = tmp_path_factory.mktemp("wide")
    write(folder / "source" / "fruit", files)
    return shard(folder / "source" / "fruit", folder / "shards", "fruit", shard_images=3, layout="domain/class")


def all_wrong(sharded: Sharded) -> Drawn:
    """Answers of which every one is wrong."""
    drawn = result_of_shards(sharded)
    for each in drawn[1].domains.values():
        for column in each.columns.values():
            column.predicted[:], column.rank[:] = 1 - each.labels, 1
    return drawn


def jpegs(page: bytes) -> dict[str, bytes]:
    """The pictures of a page, by the key of their image."""
    items = [item for each in section(page, "wrong").all("ul") for item in each.all("li") if item.all("img")]
    return {
        item.all("small")[1].text.split(" ")[0]: base64.b64decode(item.one("img").attributes["src"].partition(",")[2])
        for item in items
    }


def test_a_picture_is_the_crop_that_the_model_saw_and_nothing_else(wide: Sharded):
    page = page_of(all_wrong(wide), shards=wide.shards)
    found = jpegs(page)
    assert len(found) == 8
    for data in found.values():
        assert b"secret" not in data and b"Exif" not in data
        picture = Image.open(io.BytesIO(data))
        assert picture.size == (96, 96)
        red = np.asarray(picture)[..., 0]
        assert red[8:-8, 8:-8].max() < 40, "the crop is the dark middle: not turned by EXIF, not squeezed"
    assert "Licence of the images: for research." in section(page, "wrong").text


def test_pictures_are_those_of_their_keys_also_if_answers_are_of_a_part_of_the_images(shapes: Sharded):
    evaluation, answers = result_of_shards(shapes)
    whole = jpegs(page_of((evaluation, answers), shards=shapes.shards))
    domains = {}
    for place, each in answers.domains.items():
        columns = {column: type(own)(own.predicted[::2], own.rank[::2], own.margin[::2])
                   for column, own in each.columns.items()}  # fmt: skip
        domains[place] = replace(each, labels=each.labels[::2], keys=each.keys[::2], paths=each.paths[::2],
                                 digests=each.digests[::2], columns=columns)  # fmt: skip
    half = jpegs(page_of((evaluation, replace(answers, domains=domains)), shards=shapes.shards))
    assert len(half) > 20 and half.items() <= whole.items()


@pytest.mark.parametrize("thumbnails", [7, 40])
def test_a_page_has_no_more_pictures_than_asked_for(shapes: Sharded, thumbnails: int):
    page = parse(page_of(result_of_shards(shapes), shards=shapes.shards, thumbnails=thumbnails))
    assert thumbnails - 3 <= len(page.all("img")) <= thumbnails


def test_without_shards_or_with_others_the_page_says_why_there_are_no_pictures(shapes: Sharded, tmp_path: Path):
    drawn = result_of_shards(shapes)
    facts = replace(drawn[0].datasets[0], manifest_sha256="f" * 64)
    cases = {
        "They are read from the shards: add --shards DIR": page_of(drawn),
        "There are no shards of shapes where they were looked for.": page_of(drawn, shards=tmp_path),
        "are not those of the result": page_of((replace(drawn[0], datasets=(facts,)), drawn[1]), shards=shapes.shards),
        "They were not asked for: --thumbnails 0": page_of(drawn, shards=shapes.shards, thumbnails=0),
    }
    for words, page in cases.items():
        text = section(page, "wrong").text
        assert words in text and "There are no pictures." in text
        assert not parse(page).all("img") and str(tmp_path).encode() not in page
        assert len(section(page, "wrong").all("li")) > 24


def test_damaged_shards_cost_the_pictures_and_not_the_page(wide: Sharded, tmp_path: Path):
    copy = tmp_path / "fruit"
    shutil.copytree(wide.folder, copy)
    index = next(copy.glob("photo/*.index.jsonl"))
    index.write_bytes(index.read_bytes().replace(b"apple", b"apply"))
    part = section(page_of(all_wrong(wide), shards=tmp_path), "wrong")
    lost = [item for item in part.all("li") if "its shard cannot be read: fastclip shards check fruit" in item.text]
    assert lost and not any(item.all("img") for item in lost) and part.all("img"), "other shards have their pictures"
    (copy / "manifest.json").write_text("{}")
    text = section(page_of(all_wrong(wide), shards=tmp_path), "wrong").text
    assert "The manifest of fruit cannot be used: fastclip shards check fruit" in text


def test_an_image_of_other_bytes_or_without_pixels_has_a_text_for_a_picture(tmp_path: Path, wide: Sharded):
    drawn = all_wrong(wide)
    each = next(iter(drawn[1].domains.values()))
    each.digests[0] = "0" * 64  # type: ignore[index]
    items = section(page_of(drawn, shards=wide.shards), "wrong").all("ul")[1].all("li")
    assert [bool(item.all("img")) for item in items] == [False] + [True] * 7
    assert "no picture: its bytes are not those of the result" in items[0].text
