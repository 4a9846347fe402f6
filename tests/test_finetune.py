"""`fastclip finetune` end to end on `tiny`: its numbers, its files, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Outcome, Program, Sharded, image_bytes, shard, write
from safetensors.torch import load_file
from scipy.stats import binomtest

from fastclip.data.shapes import CLASSES, draw_shapes
from fastclip.evaluate.options import EvalOptions
from fastclip.files import digest_file
from fastclip.finetune.material import find_material
from fastclip.finetune.options import FinetuneOptions
from fastclip.finetune.plan import make_plan
from fastclip.finetune.training_recipes import find_training_recipe
from fastclip.models.backbones import TINY
from fastclip.models.weights import find_weights

pytestmark = pytest.mark.usefixtures("one_core")

SEED = 3
"""Of the images that train: neither that of the scored ones (0), nor of those that `tiny` has seen (1)."""
FAST = ["--lr", "1e-4", "--epochs", "2", "--batch-size", "16"]


@dataclass(frozen=True)
class Shards:
    """Two datasets in one folder: `new`, outlines that train, and `shapes`, which is tested."""

    folder: Path
    new: Sharded


@pytest.fixture(scope="module")
def two(one_core: None, shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("two")
    draw_shapes(folder / "source", seed=SEED, images_per_class=12, domains=["outline"])
    shutil.copytree(shapes.folder, folder / "shards" / "shapes")
    return Shards(folder / "shards", shard(folder / "source", folder / "shards", "new", shard_images=25))


def finetune(program: Program, two: Shards, *more: object, train: str = "new", test: str = "shapes/outline") -> Outcome:
    return program.here("finetune", train, "--test", test, "-b", "tiny", "--shards", two.folder, *FAST, *more)


def the_run(program: Program, out: str = "finetuned") -> Path:
    (folder,) = (program.folder / out).iterdir()
    return folder


@dataclass(frozen=True)
class Finished:
    """A run that nothing disturbed."""

    program: Program
    outcome: Outcome
    folder: Path
    result: dict


@pytest.fixture(scope="module")
def finished(two: Shards, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    program = Program(tmp_path_factory.mktemp("finished"))
    outcome = finetune(program, two, "--json", "result.json", test="shapes")
    assert outcome.code == 0, outcome.err
    return Finished(program, outcome, the_run(program), json.loads((program.folder / "result.json").read_text()))


def counts(result: dict, head: str) -> dict[str, int]:
    return {cell["domain"]: cell["top1"] for cell in result["cells"] if cell["head"] == head}


def test_epoch_0_is_printed_and_zero_shot_stands_beside(finished: Finished):
    assert "epoch 0, zero-shot" in finished.outcome.err
    assert "zero-shot, transferlearning" in finished.outcome.out and "finetuned ce" in finished.outcome.out
    assert len(counts(finished.result, "zero-shot")) == len(counts(finished.result, "finetuned ce")) == 4


def test_the_files_of_a_run_prove_each_other(finished: Finished):
    facts = json.loads((finished.folder / "finetune.json").read_text())
    assert facts["weights"] == digest_file(finished.folder / "weights.safetensors")
    assert [each["number"] for each in facts["epochs"]] == [0, 1, 2]
    assert facts["training"]["images"] + facts["epochs"][0]["images"] == facts["listed"] == 144
    assert not (finished.folder / "checkpoints").exists(), "they have done their work"
    lines = [json.loads(line) for line in (finished.folder / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, 1 + 2 * -(-facts["training"]["images"] // 16)))


def test_eval_of_the_weights_gives_the_counts_of_the_fine_tuned_rows(finished: Finished, two: Shards):
    weights = finished.folder / "weights.safetensors"
    for given, head in ((["--weights", weights], "finetuned ce"), ([], "zero-shot")):
        outcome = finished.program.here(
            "eval", "shapes", "-b", "tiny", "--shards", two.folder, "--json", "eval.json", *given
        )
        assert outcome.code == 0, outcome.err
        result = json.loads((finished.program.folder / "eval.json").read_text())
        assert counts(result, "zero-shot") == counts(finished.result, head)


def test_only_what_learns_has_moved(finished: Finished):
    new, old = load_file(finished.folder / "weights.safetensors"), load_file(find_weights(TINY, None).path)
    assert new.keys() == old.keys()
    moved = {name for name in new if not torch.equal(new[name], old[name].to(new[name].dtype))}
    assert moved == {
        name for name in new
        if name.startswith("visual.") and "running_" not in name and "num_batches" not in name
    }  # fmt: skip


def test_the_same_command_again_trains_nothing_and_prints_the_same(finished: Finished, two: Shards):
    before = (finished.folder / "weights.safetensors").stat().st_mtime_ns
    again = finetune(finished.program, two, test="shapes")
    assert (again.code, again.out) == (0, finished.outcome.out)
    assert "epoch 0" not in again.err
    assert (finished.folder / "weights.safetensors").stat().st_mtime_ns == before


def test_other_shards_of_the_same_images_give_the_same_weights(finished: Finished, two: Shards, fastclip: Program):
    other = shard(two.new.source, fastclip.folder / "shards", "new", shard_images=60)
    shutil.copytree(two.folder / "shapes", other.shards / "shapes")
    moved = Shards(other.shards, other)
    assert finetune(fastclip, moved).code == 0
    assert load_bytes(the_run(fastclip)) == load_bytes(finished.folder)


def load_bytes(folder: Path) -> dict[str, bytes]:
    tensors = load_file(folder / "weights.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.parametrize("recipe", ["contrastive", "flyp", "clipood", "transferlearning"])
def test_every_recipe_trains_and_is_named(recipe: str, two: Shards, fastclip: Program):
    outcome = finetune(fastclip, two, "--recipe", recipe, "--epochs", 1)
    assert outcome.code == 0, outcome.err
    assert f"finetuned {recipe}" in outcome.out
    facts = json.loads((the_run(fastclip) / "finetune.json").read_text())
    assert facts["recipe"]["name"] == recipe and np.isfinite(facts["epochs"][1]["loss"])


def test_the_demos_two_vices_label_the_result(two: Shards, fastclip: Program):
    vices = ["--recipe", "transferlearning", "--select", "test", "--fp16-round-trip"]
    outcome = finetune(fastclip, two, *vices, "--epochs", 1)
    assert outcome.code == 0, outcome.err
    words = " ".join(outcome.out.split())
    assert "transferlearning, fp16 round trip" in words and "the test domain shapes/outline" in words
    facts = json.loads((the_run(fastclip) / "finetune.json").read_text())
    assert facts["epochs"][0]["images"] == 60, "the tested images choose the epoch"
    assert facts["training"]["images"] == 144, "and nothing is held out"


def test_leave_one_out_trains_once_a_domain(two: Shards, fastclip: Program):
    arguments = ["finetune", "shapes/flat,night", "--leave-one-out", "-b", "tiny", "--shards", two.folder]
    outcome = fastclip.here(*arguments, *FAST, "--epochs", 1, "--json", "result.json")
    assert outcome.code == 0, outcome.err
    result = json.loads((fastclip.folder / "result.json").read_text())
    trained_on = {head["domains"][0]: head["facts"]["training"][0]["domain"] for head in result["heads"]}
    assert trained_on == {"flat": "night", "night": "flat"}
    assert counts(result, "finetuned ce").keys() == {"flat", "night"}


def test_accumulated_passes_are_one_batch_to_rounding(two: Shards, finished: Finished, fastclip: Program):
    assert finetune(fastclip, two, "--accumulate", 2).code == 0
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (the_run(fastclip), finished.folder))
    start = load_file(find_weights(TINY, None).path)
    apart = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    moved = max(float((theirs[name] - start[name].float()).abs().max()) for name in ours)
    assert apart < 0.05 * moved


def test_weights_that_are_trained_twice_name_all_that_they_saw(finished: Finished, two: Shards, fastclip: Program):
    once = finished.folder / "weights.safetensors"
    arguments = ["finetune", "shapes/flat", "--test", "shapes/night", "-b", "tiny", "--shards", two.folder, *FAST]
    outcome = fastclip.here(*arguments, "--weights", once, "--epochs", 1)
    assert outcome.code == 0, outcome.err
    assert "0, as before" in outcome.out and "zero-shot" in outcome.out
    facts = json.loads((the_run(fastclip) / "finetune.json").read_text())["training"]
    assert [each["domain"] for each in facts["domains"]] == ["outline", "flat"] and facts["recipe"] == "ce after ce"
    words = [
        "eval",
        "new",
        "-b",
        "tiny",
        "--shards",
        two.folder,
        "--weights",
        the_run(fastclip) / "weights.safetensors",
    ]
    assert "trained on images of new/outline that are tested here" in " ".join(fastclip.here(*words).out.split())


def test_a_record_says_what_differs_from_the_recipe_by_that_name(finished: Finished):
    facts = json.loads((finished.folder / "finetune.json").read_text())["training"]
    assert (facts["recipe"], facts["changes"]) == ("ce", "learning rate 0.0001, batch size 16, epochs 2")


def test_tested_images_that_trained_or_chose_the_epoch_are_counted_whatever_was_tested_first(
    two: Shards, fastclip: Program
):
    mixed = fastclip.folder / "source" / "outline"
    shutil.copytree(two.new.source / "outline", mixed)
    draw_shapes(fastclip.folder / "more", seed=9, images_per_class=1, domains=["outline"])
    for number, path in enumerate(sorted((fastclip.folder / "more").rglob("*.*"))):
        shutil.copy(path, mixed / path.parent.name / f"more{number}{path.suffix}")
    shutil.copytree(two.folder / "new", fastclip.folder / "shards" / "new")
    shutil.copytree(two.folder / "shapes", fastclip.folder / "shards" / "shapes")
    shard(fastclip.folder / "source", fastclip.folder / "shards", "mixed", shard_images=60)
    for tested, count in (("shapes/outline", None), ("mixed", 144), ("shapes/flat", None)):
        outcome = fastclip.here("finetune", "new", "--test", tested, "-b", "tiny", *FAST, "--epochs", 1)
        assert outcome.code == 0, outcome.err
        line = f"{count} tested images have the bytes of a training image"
        assert ("have the bytes" in outcome.out) == (count is not None) and (count is None or line in outcome.out)
    assert len(list((fastclip.folder / "finetuned").iterdir())) == 1, "one training serves all tests"


def test_a_domain_may_have_a_comma_and_an_empty_name_means_nothing(two: Shards, fastclip: Program):
    shutil.copytree(two.new.source / "outline", fastclip.folder / "source" / "out,line")
    shutil.copytree(two.new.source / "outline", fastclip.folder / "source" / "other")
    shard(fastclip.folder / "source", fastclip.folder / "shards", "odd", shard_images=60)
    words = ["--test", "odd/other", "-b", "tiny", "--dry-run"]
    assert fastclip.here("finetune", "odd/out,line", *words).code == 0
    refused = fastclip.here("finetune", "odd/out,line,", *words)
    assert refused.code == 2 and "empty name between its commas" in refused.err


def test_every_option_is_declared_and_the_declarations_are_true(two: Shards, fastclip: Program):
    """A run's folder is another one exactly for options that decide what the weights become."""
    base = FinetuneOptions(recipe=find_training_recipe("ce"))
    others = {
        "recipe": find_training_recipe("ce").changed(epochs=3), "precision": "bf16", "accumulate": 2,
        "checkpointing": True, "save_every_s": 1.0, "out": fastclip.folder / "elsewhere",
    }  # fmt: skip
    evaluation = EvalOptions(backbones=("tiny",), shards=two.folder, store=fastclip.folder / "store")

    def run(options: FinetuneOptions) -> str:
        plan = make_plan(evaluation, options, ["new"], ["shapes/outline"], one_out=False)
        return find_material(plan, plan.folds[0]).run

    assert {field.name for field in fields(FinetuneOptions)} == others.keys()
    for field in fields(FinetuneOptions):
        another = run(replace(base, **{field.name: others[field.name]})) != run(base)
        assert another == (field.metadata["changes"] == "identity"), field.name


# Bad input: two lines each, before any training.


REFUSED = {
    "no test": (["new"], "No domain is tested", "--test"),
    "trained and tested": (["shapes/flat", "--test", "shapes"], "shapes/flat is trained and tested", "Leave out"),
    "no such recipe": (["new", "--test", "shapes", "--recipe", "x"], "does not know 'x'", "ce | contrastive"),
    "a vice elsewhere": (["new", "--test", "shapes", "--select", "test"], "belongs to the recipe", "transferlearning"),
    "rounding elsewhere": (["new", "--test", "shapes", "--fp16-round-trip"], "belongs to the recipe", "transferl"),
    "small passes of pairs": (
        ["new", "--test", "shapes", "--recipe", "flyp", "--accumulate", "2"], "several small passes", "--checkpointing",
    ),
    "two prompt sets": (
        ["new", "--test", "shapes", "--prompts", "photo", "--prompts", "openai80"], "One prompt", "once",
    ),
    "a rate of 0": (["new", "--test", "shapes", "--lr", "0"], "--lr must be between 0 and 1", "--lr 1e-5"),
    "no time to save": (["new", "--test", "shapes", "--save-every", "nan"], "--save-every is in", "Leave it"),
    "more than there can be": (["new", "--test", "shapes", "--batch-size", "9" * 20], "is at most", "Leave it out"),
    "one domain left out": (["new", "--leave-one-out"], "needs two domains", "fastclip finetune DATASET"),
    "no epoch": (["new", "--test", "shapes", "--epochs", "0"], "--epochs must be at least 1", "Leave it out"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_refused_in_two_lines(case: str, two: Shards, fastclip: Program):
    words, what, fix = REFUSED[case]
    outcome = fastclip.here("finetune", *words, "-b", "tiny", "--shards", two.folder)
    assert outcome.code == 2, outcome.err
    error, mend = outcome.err.splitlines()[-2:]
    assert error.startswith("Error: ") and what in error, error
    assert mend.startswith("Fix:   ") and fix in mend, mend
    assert not (fastclip.folder / "finetuned").exists()


def test_other_classes_are_refused(two: Shards, fastclip: Program):
    files = {f"photo/{name}/0.png": image_bytes(color=number) for number, name in enumerate(("apple", "bread"))}
    shard(write(fastclip.folder / "source", files), fastclip.folder / "shards", "fruit")
    shutil.copytree(two.folder / "shapes", fastclip.folder / "shards" / "shapes")
    outcome = fastclip.here("finetune", "fruit", "--test", "shapes", "-b", "tiny")
    assert outcome.code == 2 and "fruit has 2 classes and shapes 12" in outcome.err


def one_domain(folder: Path, kept: Callable[[Path], bool]) -> Sharded:
    """Outlines of which some are left out, and flat ones, in one dataset."""
    draw_shapes(folder / "source", seed=SEED, images_per_class=4, domains=["outline", "flat"])
    for path in (folder / "source" / "outline").rglob("*.*"):
        if not kept(path):
            path.unlink()
    return shard(folder / "source", folder / "shards", "some")


def test_one_class_is_refused(fastclip: Program):
    one_domain(fastclip.folder, lambda path: path.parent.name == "star")
    outcome = fastclip.here("finetune", "some/outline", "--test", "some/flat", "-b", "tiny")
    assert outcome.code == 2 and "are of one class, 'star'" in outcome.err


def test_too_few_images_to_hold_some_out_are_refused(fastclip: Program):
    one_domain(fastclip.folder, lambda path: path.name.startswith("0000") and path.parent.name in ("star", "ring"))
    outcome = fastclip.here("finetune", "some/outline", "--test", "some/flat", "-b", "tiny")
    assert outcome.code == 2 and "too few to hold out" in outcome.err and "--select last" in outcome.err
    last = fastclip.here("finetune", "some/outline", "--test", "some/flat", "-b", "tiny", "--select", "last", *FAST)
    assert last.code == 0, last.err
    assert "epoch 0" in last.err and "epoch 2, the last" in " ".join(last.out.split())


def cut_image(sharded: Sharded) -> str:
    """Cut an image behind its header and write the shards anew, unverified: only decoding shows it. Its path."""
    source = next(path for path in sorted((sharded.source / "outline").rglob("*.jpg")))
    source.write_bytes(image_bytes("JPEG", (640, 640))[:-2000])
    shutil.rmtree(sharded.folder)
    shard(sharded.source, sharded.shards, sharded.name, shard_images=25, verify=False)
    return f"{source.parent.name}/{source.name}"


def test_an_unreadable_training_image_stops_or_is_left_out_and_listed(two: Shards, fastclip: Program):
    draw_shapes(fastclip.folder / "source", seed=SEED, images_per_class=4, domains=["outline"])
    new = shard(fastclip.folder / "source", fastclip.folder / "shards", "new", shard_images=25)
    shutil.copytree(two.folder / "shapes", new.shards / "shapes")
    path = cut_image(new)
    ours = Shards(new.shards, new)
    stopped = finetune(fastclip, ours)
    assert stopped.code == 3 and path in stopped.err and "--unreadable exclude" in stopped.err
    assert finetune(fastclip, ours, "--unreadable", "exclude", "--out", "without").code == 0
    facts = json.loads((the_run(fastclip, "without") / "finetune.json").read_text())
    (named,) = facts["unreadable"]
    assert path in named["image"] and facts["training"]["images"] + facts["epochs"][0]["images"] == 47


def test_a_harmful_rate_shows_a_fall_against_epoch_0(two: Shards, fastclip: Program):
    outcome = finetune(fastclip, two, "--lr", "0.01", "--epochs", 1, "--json", "result.json")
    assert outcome.code == 0, outcome.err
    epochs = json.loads((fastclip.folder / "result.json").read_text())["heads"][0]["epochs"]
    assert epochs[1]["right"] < epochs[0]["right"]


def test_a_loss_that_is_not_finite_stops_with_step_and_images_and_publishes_nothing(
    two: Shards, finished: Finished, fastclip: Program
):
    tensors = load_file(find_weights(TINY, None).path)
    tensors["visual.conv1.weight"] = tensors["visual.conv1.weight"].float() * 1e38
    from safetensors.torch import save_file

    save_file({name: tensor.float() for name, tensor in tensors.items()}, fastclip.folder / "broken.safetensors")
    outcome = finetune(fastclip, two, "--weights", "broken.safetensors", "--select", "last")
    assert outcome.code == 5, outcome.err
    assert "at step 1" in outcome.err and "new/outline" in outcome.err
    assert not list((fastclip.folder / "finetuned").rglob("weights.safetensors"))


# What it is for


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,200 tested outlines, and three sets of 1,200 that train; in one of them classes are mixed up."""
    folder = tmp_path_factory.mktemp("many")
    for name, seed in (("tested", 0), ("new3", 3), ("new4", 4), ("new5", 5)):
        draw_shapes(folder / name, seed=seed, images_per_class=100, domains=["outline"])
        shard(folder / name, folder / "shards", name, shard_images=200)
    random = np.random.default_rng(0)
    for number, path in enumerate(sorted((folder / "new3").rglob("*.*"))):
        target = folder / "mixed" / "outline" / CLASSES[random.integers(12)] / f"{number}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shard(folder / "mixed", folder / "shards", "mixed", shard_images=200)
    return folder / "shards"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["new3", "new4", "new5"])
def test_new_images_of_a_domain_help_on_it(name: str, many: Path, fastclip: Program):
    outcome = fastclip.here(
        "finetune", name, "--test", "tested", "-b", "tiny", "--shards", many, "--lr", "1e-4", "--epochs", 4,
        "--predictions", "p.parquet", "--json", "result.json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    import pyarrow.parquet as pq

    table = pq.read_table(fastclip.folder / "p.parquet").to_pandas()
    right = {head: set(rows.loc[rows["rank"] == 0, "key"]) for head, rows in table.groupby("head")}
    gained, lost = (len(right["finetuned ce"] - right["zero-shot"]), len(right["zero-shot"] - right["finetuned ce"]))
    assert gained > lost and binomtest(gained, gained + lost).pvalue < 0.01


@pytest.mark.slow
def test_mixed_up_labels_teach_nothing_about_new_images(many: Path, fastclip: Program):
    """If a tested label leaked into training, accuracy would not fall to chance, one in twelve."""
    outcome = fastclip.here(
        "finetune", "mixed", "--test", "tested", "-b", "tiny", "--shards", many, "--lr", "1e-3", "--epochs", 8,
        "--json", "result.json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (right,) = counts(json.loads((fastclip.folder / "result.json").read_text()), "finetuned ce").values()
    assert right < 1200 / 4
