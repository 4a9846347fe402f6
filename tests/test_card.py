"""`fastclip card`: the hub's own library reads the numbers back, nothing is sent, and nothing untrue is written."""

from __future__ import annotations

import socket
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from drawn_results import evaluation, with_cell, with_facts
from helpers import Program, recipe, training
from huggingface_hub import ModelCard

from fastclip.errors import IncompleteError, UserError
from fastclip.files import digest, write_whole
from fastclip.publish.card import choose_model, eval_results, model_card
from fastclip.results.cells import Evaluation, UsedPrompts
from fastclip.results.files.result import to_json

PROMPTS = {"photo": ("a photo of a {}",), "transferlearning": ("a picture of a {folder}",)}


@pytest.fixture(scope="module")
def result() -> Evaluation:
    return evaluation(("pacs",), ("RN50", "ViT-B/32"), prompts=PROMPTS)


def card_of(result: Evaluation, backbone: str | None = "RN50", **options: Any) -> ModelCard:
    own = choose_model(result, backbone, options.pop("head", None), options.pop("prompts", None))
    return ModelCard(model_card(own, "0" * 64, **options))


def test_the_hub_reads_every_accuracy_back(result: Evaluation):
    data = card_of(result).data
    assert data.model_name == "RN50" and data.pipeline_tag == "zero-shot-image-classification"
    found = {(each.dataset_config, each.metric_name): each for each in data.eval_results}
    cells = [cell for cell in result.cells if cell.backbone == "RN50"]
    for cell in cells:
        each = found.pop((cell.domain, f"Top-1 accuracy, prompts {cell.prompts}"))
        assert Fraction(each.metric_args["right"], each.metric_args["images"]) == Fraction(cell.top1, cell.images)
        assert each.metric_value == cell.top1 / cell.images and each.metric_type == "accuracy"
        assert (each.task_type, each.dataset_type) == ("zero-shot-image-classification", "pacs")
    for name in PROMPTS:
        shares = [cell.top1 / cell.images for cell in cells if cell.prompts == name]
        each = found.pop((None, f"Top-1 accuracy, average over domains, prompts {name}"))
        assert each.metric_value == pytest.approx(sum(shares) / 4)
    assert not found
    assert all(each.verified is None and each.verify_token is None for each in data.eval_results)


def test_the_text_shows_the_table_and_the_digests(result: Evaluation):
    text = card_of(result).text
    cell = next(cell for cell in result.cells if (cell.backbone, cell.domain) == ("RN50", "sketch"))
    assert f" {100 * cell.top1 / cell.images:.2f} " in text
    assert "ViT" not in text and result.recipes[0].recipe.weights in text and "0" * 64 in text


def test_the_datasets_name_on_the_hub_is_taken_if_its_card_has_one(result: Evaluation):
    data = card_of(with_facts(result, hub_id="owner/pacs")).data
    assert {each.dataset_type for each in data.eval_results} == {"owner/pacs"}


def test_numbers_of_labels_are_not_called_zero_shot(result: Evaluation):
    chosen = {"labels_used": True, "selected_on": ["pacs/photo"]}
    prompts = {name: UsedPrompts(templates=each, selection=chosen) for name, each in PROMPTS.items()}
    tuned = [
        replace(u, recipe=recipe(backbone=u.backbone, weights="1" * 64, training=training())) for u in result.recipes
    ]
    for other in (replace(result, prompts=prompts), replace(result, recipes=tuple(tuned))):
        card = card_of(other)
        assert {each.task_type for each in card.data.eval_results} == {"image-classification"}
        assert all(each.metric_name.endswith("not zero-shot") for each in card.data.eval_results)
        assert "not zero-shot" in card.text


def test_one_card_is_about_one_model(result: Evaluation):
    with pytest.raises(UserError) as error:
        card_of(result, None)
    assert error.value.fix == "-b RN50 | ViT-B/32"
    with pytest.raises(UserError, match="no ViT-L/14"):
        card_of(result, "ViT-L/14")
    cells = [replace(cell, head="finetuned ce", prompts="") for cell in result.cells if cell.prompts == "photo"]
    both = replace(result, cells=(*result.cells, *cells), patterns=())
    with pytest.raises(UserError) as error:
        card_of(both)
    assert error.value.fix == '--head zero-shot | "finetuned ce"'
    names = {each.metric_name for each in card_of(both, head="zero-shot", prompts="photo").data.eval_results}
    assert names == {"Top-1 accuracy, prompts photo", "Top-1 accuracy, average over domains, prompts photo"}


def test_random_weights_and_missing_numbers_are_refused(result: Evaluation):
    drawn = [replace(used, recipe=recipe(backbone=used.backbone, weights="drawn")) for used in result.recipes]
    with pytest.raises(UserError, match="random"):
        card_of(replace(result, recipes=tuple(drawn)))
    for changes in ({"missing_shards": 1}, {"unreadable": 1}):
        with pytest.raises(IncompleteError, match="pacs/sketch has no number"):
            card_of(with_cell(result, "pacs/sketch", "RN50", **changes))


HOSTILE = "---\n<script>alert(1)</script>: [x](http://e.com) | # & *a* \x1b[31m\u202e"


def test_hostile_names_stay_texts(result: Evaluation):
    facts = replace(
        result.datasets[0], title=HOSTILE, fingerprints={HOSTILE: "0" * 64, **result.datasets[0].fingerprints}
    )
    cells = tuple(replace(c, domain=HOSTILE) if c.domain == "sketch" else c for c in result.cells)
    card = card_of(replace(result, datasets=(facts,), cells=cells, patterns=(), near_ties=()), name=HOSTILE)
    shown = "---\\n<script>alert(1)</script>: [x](http://e.com) | # & *a* \\x1b[31m\\u202e"
    assert card.data.model_name == shown
    assert {each.dataset_config for each in card.data.eval_results} >= {shown, "photo"}
    assert all(line.isprintable() for line in str(card).splitlines())
    assert "<script>" not in card.text.replace("\\<script", "") and "[x](" not in card.text


@pytest.mark.parametrize("percent", [False, True])
def test_the_file_for_a_leaderboard_is_as_the_hub_reads_it(percent: bool, result: Evaluation):
    own = choose_model(result, "RN50", None, "photo")
    document = yaml.safe_load(eval_results(own, "owner/pacs", "all", percent=percent))
    shares = [Fraction(cell.top1, cell.images) for cell in own.cells]
    wanted = float(sum(shares) / 4) * (100 if percent else 1)
    assert document[0]["dataset"] == {"id": "owner/pacs", "task_id": "all"}
    assert document[0]["value"] == pytest.approx(wanted)
    assert ("percentage" if percent else "fraction of 1") in document[0]["notes"]
    if hasattr(huggingface_hub, "parse_eval_result_entries"):
        (entry,) = huggingface_hub.parse_eval_result_entries(document)
        assert (entry.dataset_id, entry.task_id, entry.value) == ("owner/pacs", "all", document[0]["value"])
        assert entry.verify_token is None and entry.source_url is None
    with pytest.raises(UserError, match="about one model"):
        eval_results(choose_model(result, "RN50", None, None), "owner/pacs", "all", percent=percent)


def test_files_are_written_the_upload_is_named_and_no_network_is_used(
    result: Evaluation, tmp_path: Path, fastclip: Program, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    write_whole(tmp_path / "r" / "result.json", to_json(result))
    words = ["card", tmp_path / "r", "-b", "RN50", "--prompts", "photo"]
    more = ["--output", "m/README.md", "--eval-results", "--hub-dataset", "owner/pacs", "--task", "all"]
    outcome = fastclip.here(*words, *more)
    assert (outcome.code, outcome.out) == (0, ""), outcome.err
    assert outcome.err.splitlines()[2:] == [
        "Upload:  hf upload OWNER/MODEL m/README.md README.md --create-pr",
        "Upload:  hf upload OWNER/MODEL m/.eval_results/all.yaml .eval_results/all.yaml --create-pr",
    ]
    text = (tmp_path / "m" / "README.md").read_text()
    assert ModelCard.load(tmp_path / "m" / "README.md").data.model_name == "RN50"
    assert digest(to_json(result)) in text and str(tmp_path) not in text
    assert (tmp_path / "m" / ".eval_results" / "all.yaml").exists()
    assert fastclip.here(*words).out == text


@pytest.mark.parametrize(
    "words",
    [("--task", "x"), ("--eval-results",), ("--eval-results", "--hub-dataset", "owner/x", "--task", "../../etc")],
)
def test_half_a_leaderboard_is_a_mistake(words: tuple[str, ...], result: Evaluation, tmp_path: Path, fastclip: Program):
    write_whole(tmp_path / "r" / "result.json", to_json(result))
    outcome = fastclip.here("card", tmp_path / "r", "-b", "RN50", *words)
    assert (outcome.code, outcome.out) == (2, "") and "--eval-results" in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r"]
