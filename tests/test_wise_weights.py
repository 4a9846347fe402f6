"""`fastclip wise`: weights between two, their curve, and fine-tuned weights beside those that they come from."""

from __future__ import annotations

import json
import re
import signal
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Program, Sharded, stored_files, wait_until
from safetensors.torch import load_file, save_file

from fastclip.cli.beside import embed_with_bar
from fastclip.cli.console import err
from fastclip.errors import UserError
from fastclip.evaluate.options import EvalOptions
from fastclip.files import digest_file
from fastclip.finetune.scoring import Tuned, beside
from fastclip.finetune.wise import alpha_text, alphas, interpolate
from fastclip.models.backbones import TINY
from fastclip.models.trained_weights import write_weights
from fastclip.models.weights import find_weights, weights_in
from fastclip.results.cells import ZERO_SHOT, Column
from fastclip.results.files.result import to_json
from fastclip.results.files.result_reader import parse_result
from fastclip.store.training import Training, TrainingSet
from fastclip.text.prompts import find_prompt_set
from fastclip.transfer.folds import Place

BASE = find_weights(TINY, None)
TRAINING = Training(
    recipe="ce",
    base=BASE.digest,
    backbone="tiny",
    architecture="fastclip-tiny",
    domains=(TrainingSet(dataset="shapes-new", domain="outline", fingerprint="f" * 64, images=90),),
    images=80,
    prompts="transferlearning",
    templates=find_prompt_set("transferlearning").templates,
    classes="c" * 64,
    selected="held-out images",
    epoch=3,
    seed=0,
)
TESTED = ("shapes/outline", "shapes/night")
COMMON = ("--precision", "fp32")
HEADS = (ZERO_SHOT, "ce, α 0.5", "ce, α 1.0")


def shaken(seed: int) -> dict[str, torch.Tensor]:
    """Weights of `tiny` whose image tower was moved a little, and its counters: not trained, but other."""
    assert BASE.path
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in load_file(BASE.path).items():
        if not tensor.is_floating_point():
            found[name] = tensor + 5
        elif name.startswith("visual.") and tensor.ndim > 1:
            noise = torch.randn(tensor.shape, generator=generator)
            found[name] = tensor.float() + 0.35 * tensor.float().std() * noise
        else:
            found[name] = tensor.float()
    return found


@pytest.fixture(scope="module")
def folder(shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A folder with weights in `one` and `two`, beside the shards of 240 drawn images."""
    program = Program(tmp_path_factory.mktemp("wise"))
    (program.folder / "shards").symlink_to(shapes.shards)
    for seed, name in enumerate(("one", "two")):
        write_weights(program.folder / name / "weights.safetensors", shaken(seed), TRAINING)
    return program


@pytest.fixture(scope="module")
def curve(folder: Program) -> dict:
    """The result of three points on the line to `one`; the one between its ends is kept in `kept`."""
    document = result(folder, "one", "--alpha", "0,0.5,1", "--save", "kept")
    (folder.folder / "curve.json").write_bytes((folder.folder / "wise.json").read_bytes())
    return document


def asked(*domains: str) -> list[str]:
    return [word for each in domains or TESTED for word in ("--test", each)]


def result(program: Program, *words: object) -> dict:
    outcome = program.here("wise", *words, *asked(), *COMMON, "--json", "wise.json")
    assert outcome.code == 0, outcome.err
    return json.loads((program.folder / "wise.json").read_text())


def evaluated(program: Program, weights: Path) -> dict[str, int]:
    """Right answers by domain of `fastclip eval` with a store of its own."""
    words = ("-b", "tiny", "--weights", weights, "--store", "another", "--here", "--json", "eval.json")
    outcome = program.here("eval", *TESTED, *words, *COMMON)
    assert outcome.code == 0, outcome.err
    return right(json.loads((program.folder / "eval.json").read_text()), ZERO_SHOT)


def right(document: Mapping, head: str) -> dict[str, int]:
    return {each["domain"]: each["top1"] for each in document["cells"] if each["head"] == head}


def test_shares_are_exact_decimals():
    assert list(map(alpha_text, alphas("0:1:0.1"))) == [f"0.{n}" for n in range(10)] + ["1.0"]
    assert alphas("0:1:0.1")[3] == Decimal("0.3")
    assert alphas("0.50,0.25,0.5") == (Decimal("0.25"), Decimal("0.5"))
    assert list(map(alpha_text, alphas("0.125,1,0.50"))) == ["0.125", "0.5", "1.0"]
    assert alphas("0:1:0.3")[-1] == Decimal("0.9"), "a last step that does not fit is left out"


@pytest.mark.parametrize("text", ["0:1:0", "1:0:0.1", "0:1", "0:1:-0.1", "", "a", "0:2:0.5", "-0.1", "nan", "0:1:1e-9"])
def test_other_shares_are_refused(text: str):
    with pytest.raises(UserError, match="--alpha"):
        alphas(text)


def test_weights_in_between_are_those_of_a_line_in_fp32():
    start = {"w": torch.randn(50, 3, generator=torch.Generator().manual_seed(1)).half(), "n": torch.tensor(7)}
    end = {"w": torch.randn(50, 3, generator=torch.Generator().manual_seed(2)), "n": torch.tensor(9)}
    first, last = start["w"].numpy().astype(np.float32), end["w"].numpy()
    for alpha in (0.1, 0.5, 0.75):
        found = interpolate(start, end, alpha)
        assert np.array_equal(found["w"].numpy(), first + np.float32(alpha) * (last - first))
        exact = (1 - alpha) * first.astype(np.float64) + alpha * last.astype(np.float64)
        assert np.abs(found["w"].numpy() - exact).max() < 1e-6
        assert found["n"] == 7 and found["n"].dtype == torch.int64, "a counter is no number between two"


def test_the_ends_are_the_given_weights_bit_for_bit():
    assert BASE.path
    start, end = load_file(BASE.path), shaken(0)
    for alpha, given in ((0.0, start), (1.0, end)):
        found = interpolate(start, end, alpha)
        for name, tensor in found.items():
            same = start[name] if not tensor.is_floating_point() else given[name].float()
            assert tensor.dtype == same.dtype and tensor.numpy().tobytes() == same.numpy().tobytes(), name


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.9])
def test_a_tensor_that_both_have_stays_as_it_is(alpha: float):
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(3))
    assert not torch.equal((1 - alpha) * tensor + alpha * tensor, tensor), "the other way to write a line moves it"
    assert torch.equal(interpolate({"w": tensor}, {"w": tensor.clone()}, alpha)["w"], tensor)


def test_other_names_and_shapes_are_refused_by_name():
    weights = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(UserError, match=r"tensor b the first have one of \[3\], the second none"):
        interpolate(weights, {"a": torch.zeros(2)}, 0.5)
    with pytest.raises(UserError, match=r"tensor b the first have one of \[3\], the second one of \[3, 1\]"):
        interpolate(weights, {**weights, "b": torch.zeros(3, 1)}, 0.5)


def test_the_ends_of_the_curve_and_a_point_on_it_count_as_eval_does(folder: Program, curve: dict):
    assert BASE.path
    files = {ZERO_SHOT: BASE.path, "ce, α 0.5": "kept/alpha-0.5.safetensors", "ce, α 1.0": "one/weights.safetensors"}
    counts = {head: right(curve, head) for head in files}
    assert counts == {head: evaluated(folder, folder.folder / file) for head, file in files.items()}
    assert len({tuple(each.values()) for each in counts.values()}) == 3, "weights that answer alike prove nothing"


def test_the_ends_are_embedded_as_the_files_that_are_there(folder: Program, curve: dict):
    ours = [BASE.path, folder.folder / "one" / "weights.safetensors", folder.folder / "kept" / "alpha-0.5.safetensors"]
    recipes = [json.loads(path.read_text()) for path in folder.folder.glob("embeddings/*/recipe.json")]
    assert {digest_file(path) for path in ours if path} <= {each["weights"] for each in recipes}
    heads = {each["name"]: each for each in curve["heads"]}
    assert list(heads) == ["ce, α 0.5", "ce, α 1.0"], "zero-shot itself is no head"
    assert [each["sha256"] for each in heads.values()] == [digest_file(ours[2]), digest_file(ours[1])]
    assert all(each["facts"]["recipe"]["weights"] == each["sha256"] for each in heads.values())
    assert heads["ce, α 0.5"]["facts"]["settings"] == {"alpha": 0.5}


def test_weights_in_between_say_how_they_were_trained_and_the_share(folder: Program, curve: dict):
    assert weights_in(folder.folder / "kept" / "alpha-0.5.safetensors").training == replace(TRAINING, alpha=0.5)


def test_a_second_run_embeds_nothing_writes_the_same_result_and_leaves_no_weights(
    folder: Program, curve: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = stored_files(folder.folder / "embeddings")
    again = result(folder, "zero-shot", "one", "--alpha", "0:1:0.5")
    assert again == curve
    assert stored_files(folder.folder / "embeddings") == before and not [*tmp_path.iterdir()]


def test_the_table_has_a_row_a_share_and_says_which_one_nobody_has_to_choose(folder: Program, curve: dict):
    outcome = folder.here("wise", "one", "--alpha", "0:1:0.25", *asked(), *COMMON)
    rows = [line.split("  ")[0].strip() for line in (line[11:] for line in outcome.out.splitlines())]
    assert [row for row in rows if row.startswith("ce, α")] == [
        f"ce, α {each}" for each in ("0.25", "0.5", "0.75", "1.0")
    ]
    text = " ".join(outcome.out.split())
    assert "α 0 is zero-shot." in text
    assert "α 0.5 is WiSE-FT's fixed choice. The other rows of α show the tested images: choose none by them." in text
    assert "Weights were fine-tuned with labels of 80 images (shapes-new/outline), so that their rows" in text
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_prompts_that_were_not_trained_with_are_named(folder: Program, curve: dict):
    outcome = folder.here("wise", "one", "--alpha", "1", *asked(), *COMMON, "--prompts", "photo")
    text = " ".join(outcome.out.split())
    assert (
        "ce was trained with the prompts transferlearning, and is tested with photo, whose prompts are others." in text
    )


def test_a_line_between_two_fine_tunings_begins_at_the_first_of_them(folder: Program, curve: dict):
    document = result(folder, "two", "one", "--alpha", "0,1")
    counts = {head: right(document, head) for head in (ZERO_SHOT, "ce, α 0.0", "ce, α 1.0")}
    assert counts[ZERO_SHOT] == right(curve, ZERO_SHOT) and counts["ce, α 1.0"] == right(curve, "ce, α 1.0")
    assert counts["ce, α 0.0"] == evaluated(folder, folder.folder / "two" / "weights.safetensors")


def test_files_of_a_result_name_the_weights_of_every_row(folder: Program, curve: dict):
    files = ("--csv", "wise.csv", "--markdown", "wise.md", "--html", "wise.html", "--latex", "wise.tex")
    outcome = folder.here("report", "curve.json", *files)
    assert outcome.code == 0, outcome.err
    rows = (folder.folder / "wise.csv").read_text().splitlines()
    for head in curve["heads"]:
        of_it = [row for row in rows if f'"{head["name"]}"' in row]
        assert len(of_it) == 2 and all(f",{head['sha256']}," in row for row in of_it)
        assert head["sha256"][:12] in (folder.folder / "wise.html").read_text()
    assert folder.here("compare", "curve.json").code == 0


def height(dot: str) -> float:
    return float(re.findall('cy="(.*?)"', dot)[0])


def test_the_page_draws_the_points_that_each_share_gains_over_zero_shot(folder: Program, curve: dict):
    outcome = folder.here("report", "curve.json", "--html", "curve.html")
    assert outcome.code == 0, outcome.err
    section = (folder.folder / "curve.html").read_text().split('<section id="curves">')[1].split("</section>")[0]
    titles, dots = re.findall("<bdi>(.*?)</bdi></figcaption>", section), re.findall("<circle.*?</circle>", section)
    assert titles == ["night", "outline", "average"] and len(dots) == 6
    zero = float(re.findall('stroke-dasharray="2 2" d="M44 (.*?)H322"', section)[0])
    for place, domain in enumerate(titles[:2]):
        before, between, after = (100 * right(curve, head)[domain] / 60 for head in HEADS)
        for dot, alpha, accuracy in zip(dots[2 * place : 2 * place + 2], ("0.5", "1"), (between, after), strict=True):
            assert f"<title>α {alpha}: {accuracy:.2f}%, zero-shot {before:.2f}%</title>" in dot
            assert ("marked" in dot) == (alpha == "0.5")
            assert (height(dot) > zero) == (accuracy < before), "a loss lies below the dashed line"


def test_a_stop_signal_leaves_no_weights(folder: Program, curve: dict, tmp_path: Path):
    program = Program(folder.folder, {"TMPDIR": str(tmp_path)})
    process = program.start("wise", "one", *asked(), *COMMON, "--store", tmp_path / "store")
    try:
        written = "fastclip-wise-*/*.safetensors"
        wait_until(lambda: [*tmp_path.glob(written)] or process.poll() is not None, "weights in between are written")
        assert process.returncode is None, process.communicate()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert not [*tmp_path.glob("fastclip-wise-*")]


@pytest.mark.slow
def test_two_processes_need_not_be_at_the_same_weights(
    folder: Program, curve: dict, tmp_path: Path, launch: Callable[[int], list[str]]
):
    (tmp_path / "shards").symlink_to(folder.folder / "shards")
    words = ("wise", folder.folder / "one", "--alpha", "0,0.5,1", *asked(), *COMMON, "--json", "wise.json")
    outcome = Program(tmp_path)(*words, prefix=launch(2))
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "wise.json").read_text()) == curve


def test_of_several_processes_one_counts_and_the_others_embed(
    folder: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    path = one(folder)
    tuned = Tuned(name="ce", weights=path, sha256=digest_file(path), training=TRAINING, places=PLACES)
    assert scored(folder, tmp_path, tuned) is None
    assert len([*tmp_path.glob("embeddings/*/recipe.json")]) == 2


PLACES = (Place("shapes", "outline"), Place("shapes", "night"))


def one(folder: Program) -> Path:
    return folder.folder / "one" / "weights.safetensors"


def scored(folder: Program, store: Path, *tuned: Tuned):
    options = EvalOptions(
        backbones=("tiny",), shards=folder.folder / "shards", store=store / "embeddings", precision="fp32"
    )
    return beside(options, BASE.path, BASE.digest, tuned, PLACES, lambda setup: embed_with_bar(setup, err()))


def test_weights_of_one_name_are_tested_on_a_domain_each_and_the_result_comes_back(folder: Program, curve: dict):
    files = [one(folder), folder.folder / "two" / "weights.safetensors"]
    tuned = [
        Tuned(
            name="ce",
            weights=file,
            sha256=digest_file(file),
            training=TRAINING,
            places=(place,),
            settings={"lr": 1e-4},
            figures={"held": 3.0},
        )
        for file, place in zip(files, PLACES, strict=True)
    ]
    found = scored(folder, folder.folder, *tuned)
    assert found
    evaluation, answers = found
    assert [(each.domains, each.sha256) for each in evaluation.heads] == [
        (("outline",), digest_file(files[0])), (("night",), digest_file(files[1])),
    ]  # fmt: skip
    cell = evaluation.cell("shapes", "outline", Column("tiny", "ce"))
    assert cell and cell.top1 == right(curve, "ce, α 1.0")["outline"]
    assert cell.top1 == sum(int(a.answers.right.sum()) for a in answers
                            if a.column.head == "ce" and a.shard.domain == "outline")  # fmt: skip
    assert {each.columns for each in evaluation.patterns} == {
        (Column("tiny", ZERO_SHOT, "transferlearning"), Column("tiny", "ce"))
    }
    assert parse_result(to_json(evaluation), "it") == evaluation


def refused(program: Program, *words: object) -> str:
    outcome = program.here("wise", *words)
    assert outcome.code in (2, 5) and len(outcome.err.splitlines()) == 2, outcome.err
    return outcome.err


def test_weights_that_a_line_cannot_have_are_refused(folder: Program, curve: dict, tmp_path: Path):
    assert BASE.path
    test = asked("shapes/outline")
    known = {
        "foreign": (shaken(3), None),
        "other-base": (shaken(3), replace(TRAINING, base="0" * 64)),
        "other-backbone": (shaken(3), replace(TRAINING, backbone="RN50", architecture="RN50-quickgelu")),
        "fewer": ({name: each for name, each in shaken(3).items() if name != "logit_scale"}, TRAINING),
    }
    for name, (tensors, training) in known.items():
        if training:
            write_weights(tmp_path / name, tensors, training)
        else:
            save_file(tensors, tmp_path / name)
    (tmp_path / "damaged").write_bytes(one(folder).read_bytes()[:-100])
    assert "No weights are named" in refused(folder, *test)
    assert "No domain is tested" in refused(folder, "one")
    assert "There is no weights file nowhere" in refused(folder, "nowhere", *test)
    assert "does not say how its weights were fine-tuned" in refused(folder, tmp_path / "foreign", *test)
    assert "was fine-tuned from weights 000000000000" in refused(folder, tmp_path / "other-base", *test)
    assert "is for tiny, not for RN50" in refused(folder, "one", "-b", "RN50", *test)
    assert "is for RN50 (RN50-quickgelu)" in refused(folder, tmp_path / "other-backbone", "one", *test)
    assert "the tensor logit_scale" in refused(folder, tmp_path / "fewer", *test)
    assert "is damaged" in refused(folder, tmp_path / "damaged", *test)
    assert "is between two weights already, at α 0.5" in refused(folder, "kept/alpha-0.5.safetensors", *test)
    assert "holds other weights" in refused(folder, "two", "one", "--save", "kept", "--alpha", "0.5", *test)


def test_a_start_that_the_fine_tuning_did_not_begin_with_is_named(folder: Program, curve: dict, tmp_path: Path):
    save_file(shaken(3), tmp_path / "foreign.safetensors")
    outcome = folder.here("wise", tmp_path / "foreign.safetensors", "one", "--alpha", "0,1", *asked(), *COMMON)
    assert outcome.code == 0, outcome.err
    text = " ".join(outcome.out.split())
    assert f"α 0 is zero-shot. The weights at α 1 were fine-tuned from others, {BASE.digest[:12]}." in text
