"""`fastclip track`: a result as runs, and trackers that fail, which cost nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from drawn_results import evaluation, with_cell
from fake_trackers import FAILS, draw_trackers, kept
from helpers import Program, recipe, training

from fastclip.errors import UserError
from fastclip.files import write_whole
from fastclip.publish.runs import metric_part, runs_of
from fastclip.publish.secrets import without_secrets
from fastclip.publish.targets import Target, find_targets
from fastclip.results.cells import Evaluation, UsedPrompts
from fastclip.results.files.result import to_json

PROMPTS = {"photo": ("a photo of a {}",), "transferlearning": ("a picture of a {folder}",)}


@pytest.fixture(scope="module")
def result() -> Evaluation:
    return evaluation(("pacs",), ("RN50", "ViT-B/32"), prompts=PROMPTS)


@pytest.fixture
def folder(result: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a result in `r`, and the fake trackers on the path."""
    write_whole(tmp_path / "r" / "result.json", to_json(result))
    monkeypatch.syspath_prepend(str(draw_trackers(tmp_path / "fakes", "raise RuntimeError('no network')")))
    monkeypatch.setenv("FAKE_TRACKIO", str(tmp_path / "kept"))
    return tmp_path


def test_a_run_a_backbone_and_prompt_set_with_the_accuracies_of_its_counts(result: Evaluation):
    runs = runs_of(result)
    assert [run.name for run in runs] == [f"pacs: {b}, {p}" for b in ("RN50", "ViT-B/32") for p in PROMPTS]
    for run in runs:
        cells = [c for c in result.cells if (c.backbone, c.prompts) == (run.config["backbone"], run.config["prompts"])]
        shares = {f"accuracy/pacs/{c.domain}": c.top1 / c.images for c in cells}
        assert {name: run.metrics[name] for name in shares} == shares
        assert run.metrics["average/pacs"] == pytest.approx(sum(shares.values()) / 4)
        assert run.metrics["micro/pacs"] == pytest.approx(sum(c.top1 for c in cells) / sum(c.images for c in cells))
        assert len(run.metrics) == len(shares) + 3
        assert run.config["manifest/pacs"] == "a" * 64
        assert run.config["weights"] == next(
            u.recipe.weights for u in result.recipes if u.backbone == cells[0].backbone
        )
        assert run.config["zero_shot"] is True
        assert [row[:4] for row in run.rows] == [["pacs", c.domain, c.images, c.top1] for c in cells]


def test_ids_follow_from_the_result_alone(result: Evaluation):
    ids = [run.id for run in runs_of(result)]
    assert ids == [run.id for run in runs_of(result)] and len(set(ids)) == 4
    other = with_cell(result, "pacs/sketch", "RN50", top1=3)
    assert not set(ids) & {run.id for run in runs_of(other)}


def test_labels_random_weights_and_missing_numbers_show(result: Evaluation):
    chosen = {"labels_used": True, "selected_on": ["pacs/photo"]}
    prompts = {name: UsedPrompts(templates=each, selection=chosen) for name, each in PROMPTS.items()}
    for other in (replace(result, prompts=prompts), _with_recipe(result, training=training())):
        assert all(run.config["zero_shot"] is False and run.notes for run in runs_of(other))
    drawn = runs_of(_with_recipe(result, weights="drawn"))
    assert all("RANDOM WEIGHTS, NOT A RESULT" in run.name for run in drawn)
    missing = with_cell(result, "pacs/sketch", "RN50", missing_shards=1)
    run = runs_of(missing)[0]
    assert run.config["complete"] is False
    assert not {"accuracy/pacs/sketch", "average/pacs", "micro/pacs", "worst/pacs"} & run.metrics.keys()


def _with_recipe(result: Evaluation, **changes: object) -> Evaluation:
    of = {used.backbone: recipe(backbone=used.backbone, **{"weights": "1" * 64, **changes}) for used in result.recipes}
    return replace(result, recipes=tuple(replace(u, recipe=of[u.backbone]) for u in result.recipes))


HOSTILE = ["<script>", "a/../b", "..", "=1+1", "a|b", "a\nb", "\u202eabc", "长" * 300, "a b", "a-b", "a\tb", "", " "]


def test_hostile_names_become_metrics_that_every_tracker_takes_and_stay_apart():
    names = [metric_part(name) for name in HOSTILE if name]
    assert len(set(names)) == len(names)
    for name in names:
        full = f"accuracy/{name}/{name}"
        assert re.fullmatch(r"[/\w.\- :]+", full) and len(full) <= 250  # MLflow's rule
        assert os.path.normpath(full) == full
    assert metric_part("Real World") == "Real World" and metric_part("art_painting") == "art_painting"


def test_no_control_character_reaches_a_tracker(result: Evaluation):
    name = "a\x1b[31m\n\u202eb"
    cells = tuple(replace(c, prompts=name) for c in result.cells if c.prompts == "photo")
    runs = runs_of(replace(result, cells=cells, prompts={name: UsedPrompts(templates=("\x1b {}",))}, patterns=()))
    texts = [t for run in runs for t in (run.name, *run.config.values(), *run.notes) if isinstance(t, str)]
    assert all(text.isprintable() for text in texts)


def test_secrets_are_hidden():
    environment = {"WANDB_API_KEY": "abcdef123456", "HOME": "/home/me", "A_TOKEN": "1"}
    text = "https://me:pa:ss@host/x?write_token=xyz&a=b failed at /home/me: abcdef123456, 1"
    assert without_secrets(text, environment) == "https://***@host/x?write_token=***&a=b failed at /home/me: ***, 1"
    assert str(Target("mlflow", "e", "https://me:secret@host")) == "mlflow:e@https://***@host"


@pytest.mark.parametrize("text", ["comet:x", "wandb", "wandb:", "mlflow:@x", "https://me:secret@host"])
def test_a_target_that_is_none_is_refused_without_its_password(text: str):
    with pytest.raises(UserError, match="names no tracker") as error:
        find_targets([text])
    assert "secret" not in str(error.value)


def test_a_library_that_is_missing_is_told_before_anything_is_written(folder: Path, fastclip: Program):
    outcome = fastclip.here("track", folder / "r", "--to", "trackio:p", "--to", "mlflow:e", "--to", "tensorboard:t")
    if outcome.code == 0:
        pytest.skip("MLflow and TensorBoard are installed here")
    assert (outcome.code, outcome.out) == (2, ""), outcome.err
    assert outcome.err == "Error: Not installed: mlflow and tensorboard.\nFix:   pip install mlflow tensorboard\n"
    assert not (folder / "kept").exists()


def test_a_folder_that_is_called_as_a_library_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    if find_spec_origin("wandb"):
        pytest.skip("wandb is installed here")
    with pytest.raises(UserError, match="Not installed: wandb"):
        find_targets(["wandb:p"])


def find_spec_origin(name: str) -> object:
    spec = find_spec(name)
    return spec and spec.origin


@pytest.mark.parametrize("way", list(FAILS))
def test_a_tracker_that_fails_costs_nothing(way: str, folder: Path, fastclip: Program, result: Evaluation):
    body, words = FAILS[way]
    draw_trackers(folder / "fakes", body)
    outcome = fastclip.here("track", folder / "r", "--to", "wandb:p", "--to", "trackio:p", "--timeout", 2)
    assert outcome.code == 4
    assert outcome.out == "trackio:p: 4 runs tracked → trackio show --project p\n"
    assert outcome.err.splitlines()[-2].startswith("Error: wandb:p failed: ") and words in outcome.err
    assert "noise" not in outcome.out + outcome.err
    assert (folder / "r" / "result.json").read_bytes() == to_json(result)
    runs = {run.name: run for run in runs_of(result)}
    logged = {each[1]: each[3] for each in kept(folder / "kept") if each[0] == "log"}
    assert len(logged) == 4
    for name, metrics in logged.items():
        assert metrics.pop("table") and metrics == runs[name.rpartition(" ")[0]].metrics
    files = [each[2] for each in kept(folder / "kept") if each[0] == "files"]
    assert files == [[["result.json", to_json(result).decode()]]] * 4


def test_tracking_again_adds_nothing_and_another_process_of_a_launcher_does_nothing(
    folder: Path, fastclip: Program, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        assert fastclip.here("track", folder / "r", "--to", "trackio:p").out == ""
    assert not (folder / "kept").exists()
    assert fastclip.here("track", folder / "r", "--to", "trackio:p").code == 0
    before = [each for each in kept(folder / "kept") if each[0] != "init"]
    outcome = fastclip.here("track", folder / "r", "--to", "trackio:p")
    assert (outcome.code, outcome.out) == (0, "trackio:p: 4 there already → trackio show --project p\n")
    assert [each for each in kept(folder / "kept") if each[0] != "init"] == before


def test_no_process_group_is_opened_and_torch_is_not_loaded(folder: Path, tmp_path: Path):
    """As a launcher starts it: whoever opened a group of two processes would wait for the other one for ever."""
    draw_trackers(folder / "fakes", "import sys\nraise RuntimeError(f'torch loaded: {\"torch\" in sys.modules}, rank: '"
                  " f'{__import__(\"os\").environ.get(\"RANK\")}')")  # fmt: skip
    launched = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "LOCAL_RANK": "0"}
    code = (
        "import sys, os; sys.argv = ['fastclip', *sys.argv[1:]]; from fastclip.cli import main\n"
        "main._leave = lambda ended: print('torch' in sys.modules, file=sys.stderr)\n"
        "main.run()"
    )
    environment = {**os.environ, **launched, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["track", str(folder / "r"), "--to", "wandb:p", "--to", "trackio:p"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert ended.returncode == 4 and "4 runs tracked" in ended.stdout
    assert "torch loaded: False, rank: None" in ended.stderr
    assert ended.stderr.splitlines()[-1] == "False"


def test_a_page_is_sent_if_it_is_asked_for(folder: Path, fastclip: Program):
    outcome = fastclip.here("track", folder / "r", "--to", "trackio:p", "--page")
    assert outcome.code == 0, outcome.err
    files = next(each[2] for each in kept(folder / "kept") if each[0] == "files")
    assert [name for name, _ in files] == ["result.json", "report.html"]
    assert files[1][1].startswith("<!DOCTYPE html>") and str(folder) not in files[1][1] + files[0][1]
