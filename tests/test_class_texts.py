"""Texts of each class's own are a prompt set like any other, and a set that was chosen says so under every table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_jobs import ALONE, small_job
from helpers import Program, Sharded

from fastclip.data.shapes import CLASSES
from fastclip.errors import UserError
from fastclip.finetune.learner import Learner
from fastclip.finetune.team import Team
from fastclip.models.backbones import TINY
from fastclip.models.tower import find_tokenizer, load_text_tower, tokenize
from fastclip.models.weights import find_weights
from fastclip.text.prompt_sets import PromptSet
from fastclip.text.prompts import find_prompt_set, prompt_file
from fastclip.text.prototypes import Question, compute_prototypes

FOLDERS, NAMES = ("alarm_clock", "TV", "crane_1"), ("Alarm Clock", "television", "crane")
TEXTS = {"a": ["x"], "b": ["y", "z"]}


def read(tmp_path: Path, document: object) -> PromptSet:
    """The prompt set in a JSON file, a text as it is."""
    text = document if isinstance(document, str) else json.dumps(document)
    (tmp_path / "mine.json").write_text(text)
    return find_prompt_set(str(tmp_path / "mine.json"))


def test_a_class_finds_its_texts_by_its_folder_then_its_readable_name_and_never_by_its_place(tmp_path: Path):
    texts = {"CRANE": ["third"], "Alarm-Clock": ["first"], "Television": ["second", "again"]}
    found = read(tmp_path, texts)
    assert found.kind == "texts" and found.classes(FOLDERS, NAMES) == tuple(zip(FOLDERS, NAMES, strict=True))
    assert [found.prompts(*names) for names in zip(FOLDERS, NAMES, strict=True)] == [
        ["first"], ["second", "again"], ["third"]
    ]  # fmt: skip
    both = read(tmp_path, {"b": ["of the folder"], "a": ["of the name"]})
    assert both.prompts("b", "a") == ["of the folder"]


def test_missing_and_surplus_classes_are_listed(tmp_path: Path):
    with pytest.raises(UserError) as refused:
        read(tmp_path, {"TV": ["a"], "crane": ["b"], "Dog\x1b": ["c"]}).classes(FOLDERS, NAMES)
    assert "no texts for 1 class (alarm_clock)" in str(refused.value)
    assert "1 name that is no class (Dog\\x1b)" in str(refused.value)


def test_classes_of_one_readable_name_need_texts_under_their_folders(tmp_path: Path):
    folders, names = ("crane_bird", "crane_machine"), ("crane", "crane")
    with pytest.raises(UserError, match="one list of texts, 'crane', for 2 classes: crane_bird, crane_machine"):
        read(tmp_path, {"crane": ["a"]}).classes(folders, names)
    read(tmp_path, {"crane bird": ["a"], "crane machine": ["b"]}).classes(folders, names)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"a": ["x"], "a": ["y"]}', "'a' stands in it twice"),
        ({"alarm_clock": ["x"], "Alarm Clock": ["y"]}, "one class in two spellings"),
        ({}, "holds no texts"),
        ({"a": []}, "no list of texts"),
        ({"a": [" "]}, "an empty text"),
        ({"a": "x"}, "no list of texts"),
        ({"pacs": {"a": ["x"]}}, "several datasets"),
        ('{"a": ["\\ud800"]}', "no Unicode text"),
        ({"schema": "fastclip.prompts/2", "templates": ["{}"]}, "fastclip.prompts/2"),
        ({"schema": "fastclip.prompts/1", "templates": []}, "no template"),
        ({"schema": "fastclip.prompts/1", "templates": ["{}"], "selection": {"labels_used": 1}}, "say rightly how"),
        ('{"schema": "fastclip.prompts/1", "templates": ["{}"], "selection": {"gap": NaN}}', "NaN is no number"),
    ],
)
def test_a_file_that_can_be_read_in_two_ways_or_in_none_is_refused(tmp_path: Path, document: object, message: str):
    with pytest.raises(UserError, match=message):
        read(tmp_path, document)


@pytest.mark.parametrize("content", [{"templates": ("a {}", "the {}")}, {"texts": {"a": ("x",), "b": ("y", "z")}}])
def test_a_chosen_set_is_read_as_it_was_written(tmp_path: Path, content: dict):
    selection = {"labels_used": True, "selected_on": ["pacs/art"], "seed": 3}
    chosen = PromptSet("chosen", **content, selection=selection)
    (tmp_path / "chosen.json").write_bytes(prompt_file(chosen))
    assert find_prompt_set(str(tmp_path / "chosen.json")) == chosen


def test_a_prototype_is_the_mean_direction_of_the_classs_own_texts(tmp_path: Path):
    tower = load_text_tower(TINY, find_weights(TINY, None), torch.device("cpu"))
    texts = {
        name: [f"a {name} number {number}" for number in range(count)]
        for name, count in zip("abc", (1, 5, 2), strict=True)
    }
    found = compute_prototypes(tower, read(tmp_path, texts), [(name, name) for name in "abc"], 2)
    for row, of_class in zip(found, texts.values(), strict=True):
        mean = tower(of_class, 1).numpy().astype(np.float64).mean(axis=0)
        assert np.abs(row - mean / np.linalg.norm(mean)).max() < 1e-6


def test_texts_are_a_question_of_their_own_and_questions_of_templates_keep_their_names():
    question = Question(weights="w", architecture="a", templates=("{}",), classes=(("a", "a"),))
    assert question.id == "a549f108a18c59125d797feae92eb0d1238c1d42114cd844896bea28c9bb9481"
    assert question.to_document().keys() == {"weights", "architecture", "templates", "classes"}
    one, other = (replace(question, templates=(), texts=((text,),)) for text in "xy")
    assert len({question.id, one.id, other.id}) == 3


def filled(template: str) -> dict[str, list[str]]:
    """The texts that a template gives, a class each, in another order than the classes'."""
    return {name: [template.replace("{}", name.replace("_", " "))] for name in sorted(CLASSES, reverse=True)}


def test_texts_that_are_filled_templates_give_the_counts_of_the_templates(shapes: Sharded, fastclip: Program):
    (fastclip.folder / "texts.json").write_text(json.dumps(filled("a photo of a {}.")))
    sets = ("--prompts", "photo", "--prompts", "texts.json")
    outcome = fastclip.here("eval", "shapes", "-b", "tiny", "--shards", shapes.shards, *sets, "--json", "r.json")
    assert outcome.code == 0, outcome.err
    record = json.loads((fastclip.folder / "r.json").read_bytes())
    counts = {name: [c["top1"] for c in record["cells"] if c["prompts"] == name] for name in ("photo", "texts")}
    assert counts["photo"] == counts["texts"] and sum(counts["photo"]) > 100
    used = record["prompts"]["texts"]
    assert (used["kind"], used["templates"], used["texts"], len(used["sha256"])) == ("texts", [], len(CLASSES), 64)
    page = fastclip.here("report", "results", "--html", "page.html")
    assert page.code == 0 and f"{len(CLASSES)} texts of the classes' own" in (fastclip.folder / "page.html").read_text()


def test_texts_for_other_classes_are_refused_before_anything_is_embedded(shapes: Sharded, fastclip: Program):
    (fastclip.folder / "texts.json").write_text(json.dumps(TEXTS))
    outcome = fastclip.here("eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--prompts", "texts.json")
    assert (outcome.code, outcome.out) == (2, "") and "no texts for 12 classes" in outcome.err
    assert len(outcome.err.splitlines()) == 2 and not (fastclip.folder / "embeddings").exists()


def test_every_table_of_a_chosen_set_says_that_labels_were_used_and_where(shapes: Sharded, fastclip: Program):
    selection = {"labels_used": True, "selected_on": ["shapes/flat", "other/x"]}
    for name, how in {"best": selection, "blind": {**selection, "labels_used": False}}.items():
        chosen = PromptSet(name, ("a {}",), selection=how)
        (fastclip.folder / f"{name}.json").write_bytes(prompt_file(chosen))
    sets = ("--prompts", "best.json", "--prompts", "blind.json")
    outcome = fastclip.here("eval", "shapes", "-b", "tiny", "--shards", shapes.shards, *sets)
    assert outcome.code == 0, outcome.err
    fastclip.here("report", "results", "--markdown", "t.md", "--latex", "t.tex", "--html", "t.html")
    shown = [outcome.out, *((fastclip.folder / f"t.{kind}").read_text() for kind in ("md", "tex", "html"))]
    for text in shown:
        words = " ".join(text.replace("\\_", "_").replace("% ", "").split())
        assert "prompts best: chosen with labels of shapes/flat, other/x, so that its rows are not zero-shot" in words
        assert "its numbers on shapes/flat are no measure of new images" in words
        assert "prompts blind: chosen without labels" in words


def test_fine_tuning_draws_and_averages_a_classs_own_texts_however_many_there_are(tmp_path: Path):
    job = small_job(tmp_path, tmp_path / "run", "flyp")
    counts = np.array([1 + number % 3 for number in range(len(CLASSES))])
    texts = [
        [f"{name} {number}" for number in range(count)] for name, count in zip(sorted(CLASSES), counts, strict=True)
    ]
    tokenizer = find_tokenizer(TINY.architecture)
    rows = [tokenize(tokenizer, [each[number % len(each)] for each in texts]) for number in range(3)]
    team = Team(ALONE, torch.device("cpu"))
    learner = Learner(replace(job, tokens=torch.stack(rows), prompts_of=counts), team, 4)
    asked = np.arange(len(job.samples))
    drawn: dict[int, set[bytes]] = {}
    for epoch in range(40):
        tokens, place = learner._texts(asked, epoch)
        for row, label in zip(tokens[place], job.samples.labels[asked], strict=True):
            drawn.setdefault(int(label), set()).add(bytes(row.numpy()))
    assert {label: len(each) for label, each in drawn.items()} == dict(enumerate(counts.tolist()))
    tower = load_text_tower(TINY, find_weights(TINY, None), torch.device("cpu"))
    for row, of_class in zip(learner.prototypes().detach().numpy(), texts, strict=True):
        mean = tower(of_class, 1).numpy().mean(axis=0)
        assert np.abs(row - mean / np.linalg.norm(mean)).max() < 1e-4
