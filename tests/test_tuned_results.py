"""Results of fine-tuning: epochs that come back, notes that say which labels were seen, and weights never mixed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import drawn_results
import pytest
from drawn_tables import HOSTILE, drawn_result
from helpers import recipe, training
from html_pages import Element, parse

from fastclip.errors import IntegrityError, UserError
from fastclip.report.document import make_document
from fastclip.report.finetuning import epoch_table
from fastclip.report.head_notes import labels_notes, settings_text
from fastclip.report.html.page import render_page
from fastclip.report.latex import latex
from fastclip.report.markdown import markdown
from fastclip.report.numbers import TableStyle
from fastclip.report.training_notes import training_notes
from fastclip.results.cells import Epoch, Evaluation, UsedHead
from fastclip.results.comparing.columns import compare
from fastclip.results.files.merging import merge
from fastclip.results.files.result import result_digest, to_document, to_json
from fastclip.results.files.result_reader import parse_result
from fastclip.results.published.comparable import why_not
from fastclip.results.published.embedded import published_table
from fastclip.store.training import Training, TrainingSet, classes_digest

EPOCHS = (
    Epoch(number=0, loss=None, right=80, images=120),
    Epoch(number=1, loss=1.25, right=101, images=120),
    Epoch(number=2, loss=0.5, right=99, images=120),
)
CLASSES = classes_digest({"a": "a", "b": "b"})
"""Those of `drawn_result`."""


def tuned_head(*, epochs: tuple[Epoch, ...] = EPOCHS, name: str = "fitted ce", **facts: Any) -> Evaluation:
    """A result in which a fine-tuned backbone stands beside zero-shot."""
    result = drawn_result({("outline", "tiny", "photo"): (139, 204), ("outline", "tiny", name): (170, 204)})
    (head,) = result.heads
    tuned = recipe(weights="cd" * 32, training=training(**{"epoch": 1, "classes": CLASSES, **facts}))
    of = replace(head.facts, recipe=tuned, images=1080, settings={"learning_rate": 1e-4, "epoch": 1.0})
    return replace(result, heads=(replace(head, epochs=epochs, facts=of),))


def tuned_weights(result: Evaluation | None = None, **facts: Any) -> Evaluation:
    """A result whose backbone has fine-tuned weights."""
    result = result or drawn_result({("outline", "tiny", "photo"): (139, 204)})
    usual = {"classes": CLASSES, "prompts": "photo", "templates": ("a {}.",)}
    recipes = []
    for each in result.recipes:
        tuned = replace(each.recipe, weights="cd" * 32, training=training(**{**usual, **facts}))
        recipes.append(replace(each, recipe=tuned, id=tuned.id))
    return replace(result, recipes=tuple(recipes))


def test_epochs_come_back_and_are_not_in_results_without_any():
    result = tuned_head()
    assert parse_result(to_json(result), "it").heads == result.heads
    plain = tuned_head(epochs=())
    assert "epochs" not in to_document(plain)["heads"][0] and parse_result(to_json(plain), "it").heads == plain.heads
    assert to_document(result)["heads"][0]["epochs"][1] == {"number": 1, "loss": 1.25, "right": 101, "images": 120}


@pytest.mark.parametrize(
    ("place", "field", "value"),
    [
        (1, "loss", "1.25"),
        (1, "loss", True),
        (1, "right", 121),
        (1, "right", -1),
        (1, "images", 120.0),
        (1, "number", "1"),
        (2, "number", 1),  # twice
        (0, "number", 3),  # not in order
    ],
)
def test_epochs_that_cannot_be_are_refused(place: int, field: str, value: object):
    document = json.loads(to_json(tuned_head()))
    document["heads"][0]["epochs"][place][field] = value
    document["digest"] = result_digest(document)
    with pytest.raises(IntegrityError, match="damaged result"):
        parse_result(json.dumps(document).encode(), "it")


@pytest.mark.parametrize("value", [7, "no", [7], [{"number": 1}]])
def test_something_else_than_epochs_is_refused(value: object):
    document = json.loads(to_json(tuned_head()))
    document["heads"][0]["epochs"] = value
    document["digest"] = result_digest(document)
    with pytest.raises(IntegrityError, match="damaged result"):
        parse_result(json.dumps(document).encode(), "it")


def test_epochs_survive_merging_with_a_result_of_another_domain():
    other = drawn_result({("flat", "tiny", "photo"): (190, 204)})
    merged = merge({"one": tuned_head(), "other": other})
    assert merged.heads == tuned_head().heads and len(merged.cells) == 3


def test_two_weights_of_one_backbone_never_become_one_table():
    base = drawn_result({("flat", "tiny", "photo"): (190, 204)})
    elsewhere = tuned_weights(drawn_result({("flat", "tiny", "photo"): (190, 204)}, dataset="digits"))
    with pytest.raises(UserError, match=r"base and tuned .* tiny has other weights, and an average would mix them"):
        merge({"base": base, "tuned": elsewhere})
    with pytest.raises(UserError, match="was embedded by another recipe"):
        merge({"base": base, "tuned": tuned_weights(base)})


def test_the_table_of_epochs_names_zero_shot_and_the_chosen_one():
    (table,) = epoch_table(tuned_head())
    assert table.title == "tiny, fitted ce: epochs" and table.headers == ("epoch", "loss", "held out", "%")
    assert table.rows == (
        ("0, zero-shot", "—", "80/120", "66.67"),
        ("1, chosen", "1.2500", "101/120", "84.17"),
        ("2", "0.5000", "99/120", "82.50"),
    )
    (table,) = epoch_table(tuned_head(selected="the test domain shapes/outline"))
    assert table.headers == ("epoch", "loss", "test domain", "%")
    assert epoch_table(tuned_head(epochs=())) == ()


def test_a_backbone_that_was_tested_on_two_datasets_has_one_table():
    result = tuned_head()
    (head,) = result.heads
    assert len(epoch_table(replace(result, heads=(head, replace(head, dataset="digits"))))) == 1


def test_settings_of_fine_tuning_are_a_rate_and_an_epoch():
    (head,) = tuned_head().heads
    assert settings_text(head) == "lr 0.0001, epoch 1"


LINE = (
    "tiny: weights cdcdcdcdcdcd fine-tuned with labels of 1,080 images (new/outline), recipe ce, epoch 3 chosen by "
    "held-out images: its rows are not zero-shot."
)


def test_numbers_of_fine_tuned_weights_say_which_labels_were_seen_in_every_text():
    assert training_notes(drawn_result({("outline", "tiny", "photo"): (139, 204)})) == []
    result = parse_result(to_json(tuned_weights()), "it")
    assert training_notes(result) == [LINE]
    document = make_document(result, TableStyle(), "command")
    assert LINE in document.labels
    text = re.sub(r"\\(.)", r"\1", markdown(document))
    assert f"- {LINE}" in text
    assert "fine-tuned with labels of 1,080 images (new/outline)" in latex(document)
    section = page_of(result).one("section", id="verdict")
    assert LINE in section.text


FINGERPRINT = "1" * 64
"""Of every domain of `drawn_result`."""

REASONS: dict[str, tuple[dict[str, Any], str]] = {
    "by its place": (
        {"domains": (TrainingSet(dataset="letters", domain="outline", fingerprint="9" * 64, images=5),)},
        "tiny: its weights were trained on images of letters/outline that are tested here.",
    ),
    "by its images": (
        {"domains": (TrainingSet(dataset="copy", domain="of it", fingerprint=FINGERPRINT, images=5),)},
        "tiny: its weights were trained on images of letters/outline that are tested here.",
    ),
    "other classes": ({"classes": "e" * 64}, "letters: other classes than the weights of tiny were trained on."),
    "other prompts": (
        {"prompts": "mine", "templates": ("a {}.", "the {}.")},
        "prompts photo: not those that the weights of tiny were trained with (mine).",
    ),
    "the test domain": (
        {"selected": "the test domain letters/outline"},
        "tiny: its epoch was chosen by the test domain letters/outline, so that its number there is no measure of "
        "new images.",
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_to_read_the_numbers_otherwise_is_said(reason: str):
    facts, line = REASONS[reason]
    assert training_notes(tuned_weights(**facts))[1:] == [line]


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"selected": "the last epoch", "epoch": 10}, "recipe ce, epoch 10, the last: "),
        ({"alpha": 0.25}, "recipe ce (α 0.25), epoch 3 chosen by"),
        ({"prompts": "same words, another name"}, "recipe ce, epoch 3 chosen by held-out images: "),
    ],
)
def test_the_line_says_what_the_weights_are(facts: dict[str, Any], text: str):
    (line,) = training_notes(tuned_weights(**facts))
    assert text in line


def test_a_fine_tuned_head_says_that_its_epoch_was_chosen_by_the_test_domain():
    first, second = training_notes(tuned_head(selected="the test domain letters/outline"))
    assert first.startswith("fitted ce: weights cdcdcdcdcdcd fine-tuned with labels of 1,080 images (new/outline), ")
    assert second.startswith("fitted ce: its epoch was chosen by the test domain letters/outline")
    assert labels_notes(tuned_head()) == [], "it is said once"


def test_texts_of_a_strangers_training_run_nothing():
    text = "\x1b[31m<b>|\n" + "".join(HOSTILE[:3])
    result = tuned_weights(recipe=text, prompts=text, selected=text, domains=tuple(
        TrainingSet(dataset=text, domain=text, fingerprint=FINGERPRINT, images=5) for _ in range(1)
    ))  # fmt: skip
    lines = training_notes(result)
    assert lines and not [line for line in lines if "\x1b" in line or "\n" in line]
    assert not page_of(result).all("b") or "<b>" in page_of(result).text


def test_a_comparison_names_the_backbones_that_saw_labels():
    result = drawn_results.evaluation(("pacs",), ("RN50", "ViT-B/32"))
    first, *others = result.recipes
    tuned = replace(first.recipe, training=training())
    (family,) = compare(replace(result, recipes=(replace(first, recipe=tuned, id=tuned.id), *others)), "backbones")
    assert "RN50: fine-tuned with labels (ce on new/outline, epoch 3)." in family.notes
    assert not [line for each in compare(result, "backbones") for line in each.notes if "fine-tuned" in line]


def test_fine_tuned_weights_are_not_comparable_with_a_published_table():
    result = drawn_results.evaluation(("pacs",), ("RN50",))
    table = published_table()
    known = {(each.dataset, each.domain, each.backbone): each for each in table.cells}
    cell = result.cells[0]
    published = known[cell.dataset, cell.domain, cell.backbone]
    assert why_not(result, cell, published, table) == ()
    tuned = tuned_weights(result, prompts="transferlearning", templates=("a picture of a {folder}",))
    assert why_not(tuned, cell, published, table) == ("its weights were fine-tuned with labels (new/outline)",)


def page_of(result: Evaluation) -> Element:
    page = render_page(result, answers=None, against=None, families=[], style=TableStyle(), shards=None)
    return parse(page)


def labels_of(drawing: Element) -> list[Element]:
    """The numbers beside the vertical axis; the last text of their kind is the name of the other axis."""
    return drawing.all("text", **{"class": "tick end"})[:-1]


def test_the_page_draws_epochs_where_their_numbers_are():
    section = page_of(tuned_head()).one("section", id="finetuning")
    loss, accuracy = section.all("svg")
    assert [each.text for each in loss.all("circle")] == ["epoch 1, chosen: loss 1.2500", "epoch 2: loss 0.5000"]
    said = [each.text for each in accuracy.all("circle")]
    assert said[0] == "epoch 0, zero-shot: 66.67%, 80 of 120"
    ticks = {
        text.text: float(text.attributes["y"]) - 3.5 for text in accuracy.all("text", **{"class": "tick end"})[:-1]
    }
    low, high = min(map(float, ticks)), max(map(float, ticks))
    bottom, top = ticks[f"{low:g}"], ticks[f"{high:g}"]
    for circle, epoch in zip(accuracy.all("circle"), EPOCHS, strict=True):
        share = (float(Fraction(100 * epoch.right, epoch.images)) - low) / (high - low)
        assert float(circle.attributes["cy"]) == pytest.approx(bottom + share * (top - bottom), abs=0.06)
        assert ("marked" in circle.attributes["class"]) == (epoch.number == 1)
    cells = [each.text for each in section.all("td")]
    assert cells[:3] == ["—", "80/120", "66.67"] and len(section.all("tr")) == 1 + len(EPOCHS)
    assert page_of(tuned_head(epochs=())).all("section", id="finetuning") == []


@pytest.mark.parametrize(
    "epochs",
    [
        EPOCHS[:1],
        EPOCHS[1:2],
        tuple(replace(each, right=60, loss=0.0) for each in EPOCHS),
        tuple(replace(each, right=0, images=0) for each in EPOCHS),
        tuple(replace(EPOCHS[1], number=number, loss=number * 1e-9 - 2) for number in range(100)),
    ],
    ids=["zero-shot alone", "one", "all alike", "nothing held out", "a hundred"],
)
def test_odd_epochs_are_drawn_inside_the_picture(epochs: tuple[Epoch, ...]):
    section = page_of(tuned_head(epochs=epochs)).one("section", id="finetuning")
    for drawing in section.all("svg"):
        labels = [each.text for each in labels_of(drawing)]
        assert len(labels) == len(set(labels)) >= 2
        for circle in drawing.all("circle"):
            assert 44 <= float(circle.attributes["cx"]) <= 322 and 12 <= float(circle.attributes["cy"]) <= 132


def test_many_fine_tuned_backbones_fit_on_a_page():
    result = tuned_head()
    (head,) = result.heads
    heads: list[UsedHead] = [replace(head, name=f"fitted ce {number}", sha256=f"{number:064x}") for number in range(40)]
    section = page_of(replace(result, heads=tuple(heads))).one("section", id="finetuning")
    assert len(section.all("svg")) == 2 * 24 and "16 more fine-tuned backbones in the result" in section.text


def test_the_summary_of_a_training_is_short():
    make: Callable[..., Training] = training
    assert make().summary == "ce on new/outline, epoch 3"
    assert make(alpha=0.5).summary == "ce (α 0.5) on new/outline, epoch 3"
