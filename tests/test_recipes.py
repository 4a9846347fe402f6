"""Recipes: embeddings are read by every machine, the same ones by all, and never under another recipe's name."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import oracle
import pytest
import torch
from helpers import Program, Sharded, image_bytes, shard, training, wait_until, write
from rich.console import Console
from safetensors.numpy import load_file, save_file

from fastclip.data.shards.manifest import images_sha256, read_manifest
from fastclip.data.shards.reader import read_index
from fastclip.embed.attempts import Attempts
from fastclip.errors import IncompleteError, IntegrityError, UserError
from fastclip.evaluate import engine as engine_module
from fastclip.evaluate import prototypes as prototypes_module
from fastclip.evaluate.embedding import embed, missing_units
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.score import score
from fastclip.evaluate.setup import Setup, resolve
from fastclip.evaluate.status import status
from fastclip.features import choose
from fastclip.files import canonical_json, digest, write_whole
from fastclip.models import numerics
from fastclip.report.terminal import footnotes, tables
from fastclip.results.cells import Evaluation, UsedRecipe
from fastclip.results.files.result import to_json
from fastclip.store import recipes as recipes_module
from fastclip.store.copying import copy_recipe
from fastclip.store.recipes import Preprocessing, Recipe, differences, parse_recipe
from fastclip.store.store import Store
from fastclip.store.training import Training, TrainingSet

FLAT = ("shapes/flat",)


def flat(shapes: Sharded, store: Path, **options: object) -> EvalOptions:
    """60 images in three shards, by `tiny`."""
    return EvalOptions(**{"targets": FLAT, "backbones": ("tiny",), "shards": shapes.shards, "store": store, **options})


def embedded(options: EvalOptions) -> Setup:
    """The setup of `options`, with everything embedded."""
    setup = resolve(options)
    done = embed(setup)
    assert not done.failures and not missing_units(setup)
    return setup


def text(setup: Setup) -> str:
    """Everything that `fastclip eval` prints of an evaluation."""
    evaluation, _ = score(setup)
    console = Console(width=80, record=True, file=io.StringIO())
    for table in tables(evaluation):
        console.print(table)
    for line in footnotes(evaluation):
        console.print(line)
    return console.export_text() + to_json(evaluation).decode()


@pytest.fixture
def as_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this process describe itself as another machine."""

    def describe(machine: str = "cpu AVX2 Other 1 2", libraries: str = "torch 9.9.9, open_clip 9.9", **switches: str):
        monkeypatch.setattr(engine_module, "describe_machine", lambda device: machine)
        monkeypatch.setattr(engine_module, "describe_libraries", lambda: libraries)
        monkeypatch.setattr(engine_module, "find_switches", lambda: tuple(f"{k}={v}" for k, v in switches.items()))

    return describe


@pytest.fixture(scope="module")
def stores(shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores of shapes/flat with one complete recipe each, prototypes included. Copied by tests that change them."""
    folder = tmp_path_factory.mktemp("stores")
    for precision in ("fp32", "bf16"):
        score(embedded(flat(shapes, folder / precision, precision=precision)))
    return {precision: folder / precision for precision in ("fp32", "bf16")}


def both(stores: dict[str, Path], folder: Path) -> Path:
    """A store with both recipes."""
    shutil.copytree(stores["bf16"], folder)
    shutil.copytree(stores["fp32"], folder, dirs_exist_ok=True)
    return folder


def other_weights(path: Path) -> Path:
    """The weights of `tiny` in a file with another digest."""
    save_file(load_file(oracle.TINY / "tiny.safetensors"), path, metadata={"another": "file"})
    return path


def recipe_of(store: Path) -> Recipe:
    (recipe,) = Store(store).recipes()
    return recipe


MACHINES: dict[str, dict[str, str]] = {
    "another CPU": {"machine": "cpu AVX512 amx Other 6 143"},
    "a GPU": {"machine": "cuda 13.0 cudnn 91002 NVIDIA H200"},
    "another torch": {"libraries": "torch 3.0.0, open_clip 4.0"},
    "a switch": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
}


@pytest.mark.parametrize("there", MACHINES)
def test_every_machine_prints_the_same_table_of_what_another_one_embedded(
    there: str, shapes: Sharded, tmp_path: Path, as_machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    as_machine(**MACHINES[there])
    expected = text(embedded(flat(shapes, tmp_path)))
    monkeypatch.undo()
    own = embedded(flat(shapes, tmp_path / "own", here=True)).recipes["shapes", "tiny"]
    assert own.id != recipe_of(tmp_path).id, "this machine is another one"
    for here in ({}, *MACHINES.values()):
        as_machine(**here)
        setup = resolve(flat(shapes, tmp_path))
        assert setup.engine is None and not setup.units, "nothing is left to embed"
        assert text(setup) == expected


NO_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "open_clip", "timm", "nvidia"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
"""


def test_a_machine_without_torch_and_weights_prints_the_table_and_asks_for_weights_for_a_new_prompt_set(
    shapes: Sharded, stores: dict[str, Path], fastclip: Program
):
    write(fastclip.folder / "bare", {"sitecustomize.py": NO_TORCH.encode()})
    path = os.pathsep.join([str(fastclip.folder / "bare"), os.environ.get("PYTHONPATH", "")])
    bare = dataclasses.replace(fastclip, environment={"PYTHONPATH": path})
    command = ["eval", "shapes/flat", "-b", "tiny", "--shards", shapes.shards, "--store", stores["bf16"]]
    usual, there = fastclip(*command), bare(*command, "--json", "r.json", "--predictions", "p.parquet")
    assert (there.code, there.out) == (0, usual.out), there.err
    assert json.loads((fastclip.folder / "r.json").read_text())["recipes"][0]["recipe"]["precision"] == "bf16"
    shown = bare("status", "shapes/flat", "-b", "tiny", "--shards", shapes.shards, "--store", stores["bf16"])
    assert shown.code == 0 and "bf16" in shown.out
    listed = bare("store", "--shards", shapes.shards, "--store", stores["bf16"])
    assert listed.code == 0 and recipe_of(stores["bf16"]).id[:12] in listed.out
    asked = bare(*command, "--prompts", "photo")
    assert asked.code == 2 and asked.out == "" and asked.err.count("\n") == 2, asked.err
    assert "has no prototypes of shapes by tiny under the prompts 'photo'" in asked.err and "torch" in asked.err
    empty = ["shapes/flat", "-b", "tiny", "--shards", shapes.shards, "--store", "empty"]
    nothing = bare("eval", *empty)
    assert nothing.code == 2 and nothing.err.count("\n") == 2 and "needs torch" in nothing.err, nothing.err
    shown = bare("status", *empty)
    assert shown.code == 4 and "needs torch" in " ".join(shown.out.split()), shown


def test_new_prompts_need_the_weights_of_the_embeddings_and_no_others(
    shapes: Sharded, fastclip: Program, stores: dict[str, Path]
):
    weights = other_weights(fastclip.folder / "mine.safetensors")
    command = ["eval", "shapes/flat", "-b", "tiny", "--shards", shapes.shards]
    assert fastclip.here(*command, "--weights", weights).code == 0
    weights.rename(fastclip.folder / "elsewhere.safetensors")
    assert fastclip.here(*command).code == 0, "stored prototypes need no weights"
    asked = fastclip.here(*command, "--prompts", "photo")
    assert asked.code == 2 and asked.out == "" and asked.err.count("\n") == 2, asked.err
    assert "has no prototypes of shapes by tiny under the prompts 'photo'" in asked.err
    assert "Fix:   --weights tiny=FILE" in asked.err
    given = fastclip.here(*command, "--prompts", "photo", "--weights", "elsewhere.safetensors")
    assert given.code == 0 and "Embedded" not in given.err
    again = fastclip.here(*command, "--prompts", "photo")
    assert (again.code, again.out) == (0, given.out), "now they are stored"


def test_reading_features_scoring_and_rendering_load_no_torch(shapes: Sharded, stores: dict[str, Path]):
    code = f"""
import sys
from pathlib import Path
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import resolve
from fastclip.evaluate.score import score
from fastclip.features.read import Features
from fastclip.report.terminal import footnotes, tables
from fastclip.results.files.result import to_json
setup = resolve(EvalOptions(targets=("shapes/flat",), backbones=("tiny",), shards={str(shapes.shards)!r},
                            store=Path({str(stores["bf16"])!r})))
features = Features(setup.targets[0], setup.recipes["shapes", "tiny"], setup.store)
assert sum(len(each.vectors) for each in features) == 60
evaluation, _ = score(setup)
list(tables(evaluation)), footnotes(evaluation), to_json(evaluation)
print([name for name in ("torch", "open_clip", "PIL", "torchvision", "pyarrow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("damage", ["torn", "empty", "another recipe", "no JSON object"])
def test_a_torn_or_foreign_recipe_file_is_made_up_for_by_its_parts(
    damage: str, shapes: Sharded, stores: dict[str, Path], tmp_path: Path
):
    shutil.copytree(stores["bf16"], tmp_path / "store")
    expected = text(resolve(flat(shapes, stores["bf16"])))
    recipe = recipe_of(stores["bf16"])
    path = tmp_path / "store" / recipe.id / "recipe.json"
    other = canonical_json(recipe_of(stores["fp32"]).to_document())
    path.write_bytes(
        {"torn": path.read_bytes()[:100], "another recipe": other, "no JSON object": b"[]"}.get(damage, b"")
    )
    setup = resolve(flat(shapes, tmp_path / "store"))
    assert setup.engine is None and text(setup) == expected
    next((tmp_path / "store" / recipe.id).glob("*.safetensors")).unlink()
    embedded(flat(shapes, tmp_path / "store", here=True))
    assert parse_recipe(json.loads(path.read_text())) == recipe, "a process that embeds puts it right"


def test_a_lost_recipe_file_is_written_again_where_the_parts_were_embedded(
    shapes: Sharded, stores: dict[str, Path], tmp_path: Path
):
    shutil.copytree(stores["fp32"], tmp_path / "store")
    expected = text(resolve(flat(shapes, stores["fp32"])))
    path = tmp_path / "store" / recipe_of(stores["fp32"]).id / "recipe.json"
    before = path.read_bytes()
    path.unlink()
    assert Store(tmp_path / "store").recipes() == [], "a removal begins so"
    setup = resolve(flat(shapes, tmp_path / "store", precision="fp32"))
    assert all(cell.complete for cell in status(setup))
    assert embed(setup).seconds.images == 0 and path.read_bytes() == before and text(setup) == expected


def test_a_fault_of_the_machine_hides_no_recipe(stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    """Else another recipe would be read, or everything embedded anew."""
    store = Store(stores["fp32"])

    def too_many(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", too_many)
    with pytest.raises(IncompleteError, match=r"recipe\.json: Too many open files"):
        store.recipes()


def test_datasets_may_owe_different_backbones(shapes: Sharded, tmp_path: Path):
    """One is complete by one backbone, the other has nothing: each shard is embedded by the towers that it owes."""
    few = write(tmp_path / "few", {f"{name}/0.png": image_bytes(size=(9, 9)) for name in ("a", "b")})
    shutil.copytree(shapes.shards, tmp_path / "shards")
    shard(few, tmp_path / "shards", "few")
    options = {"shards": tmp_path / "shards", "random_weights": True, "batch_size": 4}
    embedded(flat(shapes, tmp_path / "store", **options))
    both = embedded(
        flat(shapes, tmp_path / "store", targets=("shapes/flat", "few"), backbones=("RN50", "tiny"), **options)
    )
    owed = {unit.folder.name: sorted(unit.recipes) for unit in both.units}
    assert owed == {"shapes": ["RN50"], "few": ["RN50", "tiny"]}
    assert score(both)[0].complete


def test_settings_of_a_notebook_move_no_bit_and_come_back(shapes: Sharded, tmp_path: Path):
    """`torch.set_float32_matmul_precision` lets a CPU multiply fp32 numbers in bf16."""
    plain = embedded(flat(shapes, tmp_path / "plain", precision="fp32"))
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    try:
        set_otherwise = embedded(flat(shapes, tmp_path / "set", precision="fp32"))
        assert torch.get_float32_matmul_precision() == "medium" and torch.get_num_threads() == 2
        assert torch.backends.cudnn.benchmark
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.benchmark = False
        numerics.fix_numerics(torch.device("cpu"))
    name = plain.recipes["shapes", "tiny"].id
    assert set_otherwise.recipes["shapes", "tiny"].id == name
    for path in (tmp_path / "plain" / name).iterdir():
        assert (tmp_path / "set" / name / path.name).read_bytes() == path.read_bytes()


def test_a_recipe_that_is_alone_with_a_foreign_file_is_nobodys(stores: dict[str, Path], tmp_path: Path):
    name = "0" * 64
    write(tmp_path, {f"{name}/recipe.json": canonical_json(recipe_of(stores["fp32"]).to_document())})
    assert Store(tmp_path).recipes() == [] and Store(tmp_path).recipe_folders() == [name]


def recipe(**changes: object) -> Recipe:
    facts = {
        "backbone": "tiny",
        "architecture": "a",
        "weights": "1" * 64,
        "preprocessing": Preprocessing(resize="r", side=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        "decoder": "torchvision 1",
        "precision": "fp32",
        "batch_size": 32,
        "engine": "eager",
        "libraries": "torch 1",
        "machine": "cpu x",
        "switches": (),
        "numerics": 6,
    }
    return Recipe(**{**facts, **changes})


def test_readers_prefer_by_precision_decoder_numerics_and_digest_in_this_order():
    ordered = [
        recipe(numerics=7),
        *sorted((recipe(), recipe(machine="cuda y")), key=lambda each: each.id),
        recipe(decoder="dali 2 cpu", numerics=9),
        recipe(precision="fp16"),
        recipe(precision="bf16"),
        recipe(precision="int8"),
    ]
    assert choose.admissible(reversed(ordered), choose.Wanted(backbone="tiny")) == ordered


def test_every_fact_of_a_recipe_changes_its_name_and_comes_back_from_json():
    plain = recipe()
    others = {
        "preprocessing": dataclasses.replace(plain.preprocessing, side=65),
        "switches": ("ONEDNN_X=1",),
        "batch_size": 33,
        "numerics": 5,
        "training": training(),
    }
    for each in dataclasses.fields(Recipe):
        changed = dataclasses.replace(plain, **{each.name: others.get(each.name, "another")})
        assert changed.id != plain.id and differences(plain, changed)
        assert parse_recipe(json.loads(canonical_json(changed.to_document()))) == changed
    for broken in ({}, [], {**plain.to_document(), "more": 1}, {**plain.to_document(), "batch_size": "32"}):
        with pytest.raises(ValueError, match=r"recipe|fields|batch_size"):
            parse_recipe(broken)


def test_a_recipe_without_fine_tuning_has_the_name_that_it_had_before_there_was_any():
    assert recipe().id == "d6a7437f7439983f463c1aa077db77bf55f925bb0ee3a72b2c2d73a71213128f"
    assert "training" not in recipe().to_document()


def test_every_fact_of_a_fine_tuning_changes_the_name_of_its_recipe_and_comes_back_from_json():
    tuned = recipe(training=training())
    others = {
        "domains": (TrainingSet(dataset="new", domain="flat", fingerprint="f" * 64, images=1200),),
        "templates": ("{}.",),
        "images": 7,
        "epoch": 7,
        "seed": 7,
        "alpha": 0.5,
    }
    for each in dataclasses.fields(Training):
        changed = recipe(training=training(**{each.name: others.get(each.name, "another")}))
        assert changed.id != tuned.id
        assert parse_recipe(json.loads(canonical_json(changed.to_document()))) == changed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", "3"),
        ("alpha", 1),
        ("alpha", float("nan")),
        ("templates", [1]),
        ("templates", "{}."),
        ("domains", [{}]),
        ("more", 1),
        ("images", True),
    ],
)
def test_a_recipe_whose_fine_tuning_is_malformed_is_none(field: str, value: object):
    document = recipe(training=training()).to_document()
    document["training"] = {**document["training"], field: value}
    with pytest.raises(ValueError, match="fine-tuned"):
        parse_recipe(document)


def test_of_two_complete_recipes_every_machine_reads_the_preferred_one_and_options_filter(
    shapes: Sharded, stores: dict[str, Path], tmp_path: Path, as_machine: Callable[..., None]
):
    store = both(stores, tmp_path / "store")
    names = {precision: recipe_of(folder).id for precision, folder in stores.items()}
    assert len(set(names.values())) == 2
    for machine in ({}, *MACHINES.values()):
        as_machine(**machine)
        for options, precision in (
            ({}, "fp32"),
            ({"precision": "bf16"}, "bf16"),
            ({"recipes": (names["bf16"][:8],)}, "bf16"),
            ({"decoder": "torchvision", "batch_size": 32, "device": "cpu", "compile_towers": "off"}, "fp32"),
        ):
            setup = resolve(flat(shapes, store, **options))
            assert setup.recipes["shapes", "tiny"].id == names[precision] and setup.engine is None
    for options in ({"batch_size": 5}, {"precision": "fp16"}, {"decoder": "dali"}, {"compile_towers": "on"}):
        assert resolve(flat(shapes, store, **options)).units, f"{options} admit neither"
    with pytest.raises(UserError, match="no recipe of tiny that begins with 'xyz'"):
        resolve(flat(shapes, store, recipes=("xyz",)))


def test_an_incomplete_recipe_is_not_read_beside_a_complete_one_however_preferred(
    shapes: Sharded, stores: dict[str, Path], tmp_path: Path
):
    store = both(stores, tmp_path / "store")
    better = recipe_of(stores["fp32"])
    removed = sorted((store / better.id).glob("*.safetensors"))[0]
    removed.unlink()
    setup = resolve(flat(shapes, store))
    assert setup.recipes["shapes", "tiny"].precision == "bf16" and not setup.units
    evaluation, _ = score(setup)
    assert evaluation.complete and {used.recipe.precision for used in evaluation.recipes} == {"bf16"}
    whole = resolve(flat(shapes, store, precision="fp32"))
    assert [unit.part for unit in missing_units(whole)] == [removed.stem], "asked for, it is completed"


def test_here_reads_and_embeds_under_this_machines_own_recipe_alone(
    shapes: Sharded, tmp_path: Path, as_machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    as_machine(**MACHINES["a GPU"])
    embedded(flat(shapes, tmp_path, precision="fp32"))
    monkeypatch.undo()
    setup = embedded(flat(shapes, tmp_path, precision="fp32", here=True))
    assert len(Store(tmp_path).recipes()) == 2
    assert setup.recipes["shapes", "tiny"].machine == numerics.describe_machine(setup.engine.device)


def test_weights_are_never_chosen_by_rank(shapes: Sharded, stores: dict[str, Path], tmp_path: Path):
    shutil.copytree(stores["bf16"], tmp_path / "store")
    mine = other_weights(tmp_path / "mine.safetensors")
    other = embedded(flat(shapes, tmp_path / "store", weights={"tiny": mine})).recipes["shapes", "tiny"]
    with pytest.raises(UserError, match="different weights") as error:
        resolve(flat(shapes, tmp_path / "store"))
    assert other.weights[:12] in str(error.value) and "--recipe" in error.value.fix
    first = recipe_of(stores["bf16"])
    for options, expected in (({"weights": {"tiny": mine}}, other), ({"recipes": (first.id[:10],)}, first)):
        assert resolve(flat(shapes, tmp_path / "store", **options)).recipes["shapes", "tiny"] == expected
    # A machine whose own weights are others embeds nothing under a name that is taken.
    only = tmp_path / "only"
    embedded(flat(shapes, only, weights={"tiny": mine}))
    next((only / other.id).glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="different weights"):
        resolve(flat(shapes, only))


def test_random_weights_are_read_only_when_they_are_asked_for(shapes: Sharded, stores: dict[str, Path], tmp_path: Path):
    shutil.copytree(stores["bf16"], tmp_path / "store")
    drawn = embedded(flat(shapes, tmp_path / "store", random_weights=True)).recipes["shapes", "tiny"]
    assert drawn.random_weights
    assert resolve(flat(shapes, tmp_path / "store")).recipes["shapes", "tiny"] == recipe_of(stores["bf16"])
    again = resolve(flat(shapes, tmp_path / "store", random_weights=True))
    assert again.recipes["shapes", "tiny"] == drawn and "RANDOM WEIGHTS" in text(again)


def test_a_withdrawn_numerics_version_is_never_chosen(
    shapes: Sharded, stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    old = recipe_of(stores["bf16"])
    monkeypatch.setattr(recipes_module, "WITHDRAWN_NUMERICS", frozenset({old.numerics}))
    monkeypatch.setattr(engine_module, "NUMERICS_VERSION", old.numerics + 1)
    shutil.copytree(stores["bf16"], tmp_path / "store")
    setup = resolve(flat(shapes, tmp_path / "store", precision="bf16"))
    assert setup.recipes["shapes", "tiny"].numerics == old.numerics + 1 and len(setup.units) == 3
    with pytest.raises(UserError, match=r"its numerics are withdrawn.* is excluded"):
        resolve(flat(shapes, tmp_path / "store", recipes=(old.id[:12],)))


def test_a_recipe_that_another_option_excludes_is_refused_before_any_model_is_loaded(
    shapes: Sharded, stores: dict[str, Path]
):
    recipe = recipe_of(stores["bf16"])
    with pytest.raises(UserError, match=rf"{recipe.id[:12]} of tiny .*bf16.* is excluded by another option"):
        resolve(flat(shapes, stores["bf16"], recipes=(recipe.id[:12],), precision="fp32"))


@pytest.mark.parametrize("removed", (0, 1, 2))
def test_a_removal_that_is_killed_leaves_nothing_that_is_read_and_is_finished_by_the_next(
    removed: int, shapes: Sharded, stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(stores["bf16"], tmp_path / "store")
    store, recipe = Store(tmp_path / "store"), recipe_of(stores["bf16"])
    unlink, calls = Path.unlink, iter(range(4))

    def unlink_or_die(path: Path, missing_ok: bool = False) -> None:
        if next(calls) > removed:
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", unlink_or_die)
        store.remove(recipe.id)
    assert store.recipes() == [] and len(store.parts(recipe.id)) == 3 - removed
    assert Store(store.folder).remove(recipe.id) == 3 - removed and not (store.folder / recipe.id).exists()


def test_signs_of_life_of_dead_processes_go_after_a_day(shapes: Sharded, tmp_path: Path):
    signs = [tmp_path / "processes" / f"{'0' * 12}-{number}-1.json" for number in (1, 2)]
    for sign in signs:
        write_whole(sign, b"{}")
    os.utime(signs[0], (time.time() - 2 * 86_400,) * 2)
    embedded(flat(shapes, tmp_path))
    assert [sign.exists() for sign in signs] == [False, True]


def relabel(sharded: Sharded, folder: Path) -> Path:
    """A copy of the shards in which the first image of flat/0.tar has another label, by index and manifest alone."""
    shutil.copytree(sharded.shards, folder)
    manifest = folder / "shapes" / "manifest.json"
    document = json.loads(manifest.read_text())
    index = folder / "shapes" / "flat" / "0.index.jsonl"
    rows = [json.loads(line) for line in index.read_bytes().splitlines()]
    rows[0]["label"], rows[0]["path"], rows[0]["key"] = (rows[0]["label"] + 1) % 12, "corrected/0.png", "corrected"
    index.write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
    (row,) = (row for row in document["shards"] if row["name"] == "flat/0.tar")
    row["index_sha256"] = digest(index.read_bytes())
    document["digest"] = digest(canonical_json({k: v for k, v in document.items() if k != "digest"}))
    manifest.write_text(json.dumps(document))
    return folder


def test_a_corrected_label_embeds_nothing_anew_and_counts_at_once(
    shapes: Sharded, stores: dict[str, Path], tmp_path: Path
):
    corrected = relabel(shapes, tmp_path / "shards")
    before, _ = score(resolve(flat(shapes, stores["fp32"])))
    setup = resolve(flat(shapes, stores["fp32"], shards=corrected))
    assert not setup.units
    after, _ = score(setup)
    assert after.cells[0].top1 != before.cells[0].top1 and after.cells[0].classified == 60


def test_an_index_of_other_images_than_the_manifest_says_is_refused(
    shapes: Sharded, stores: dict[str, Path], tmp_path: Path
):
    """Else labels would stand beside the embeddings of other images."""
    folder = relabel(shapes, tmp_path / "shards")
    index = folder / "shapes" / "flat" / "0.index.jsonl"
    manifest = folder / "shapes" / "manifest.json"
    rows = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(b"".join([rows[1], rows[0], *rows[2:]]))
    document = json.loads(manifest.read_text())
    (row,) = (row for row in document["shards"] if row["name"] == "flat/0.tar")
    shard = next(each for each in read_manifest(shapes.folder).shards if each.name == "flat/0.tar")
    row |= {
        "index_sha256": digest(index.read_bytes()),
        "images_sha256": images_sha256(read_index(shapes.folder, shard)),
    }
    document["digest"] = digest(canonical_json({k: v for k, v in document.items() if k != "digest"}))
    manifest.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="its images are not those of the manifest"):
        score(resolve(flat(shapes, stores["fp32"], shards=folder)))


def test_a_recipe_that_is_removed_while_somebody_embeds_ends_whole(shapes: Sharded, tmp_path: Path):
    store = Store(tmp_path / "store")
    calm = embedded(flat(shapes, tmp_path / "calm", workers=1))
    name = calm.recipes["shapes", "tiny"].id
    removed: list[int] = []

    def remove_once(images: int) -> None:
        if not removed and store.parts(name):
            removed.append(store.remove(name))

    setup = resolve(flat(shapes, tmp_path / "store", workers=1))
    embed(setup, remove_once)
    assert removed and removed[0] > 0
    assert [recipe.id for recipe in store.recipes()] == [name], "whoever goes on embedding names the recipe anew"
    assert not score(setup)[0].complete, "the parts that were removed are missing, and no number is printed"
    again = embedded(flat(shapes, tmp_path / "store"))
    assert text(again) == text(calm)
    for path in (tmp_path / "calm" / name).iterdir():
        assert (tmp_path / "store" / name / path.name).read_bytes() == path.read_bytes()


def test_processes_of_one_run_that_are_unlike_machines_are_told_so_by_name(shapes: Sharded, fastclip: Program):
    base = ["eval", "shapes", "-b", "RN50", "--random-weights", "--precision", "fp32", "--batch-size", "4"]
    base += ["--shards", shapes.shards]
    first = fastclip.start(*base, "--share", "1/2", "--workers", "1")
    try:
        wait_until(lambda: list((fastclip.folder / "embeddings").glob("processes/*.json")), "the first worker's sign")
        other = dataclasses.replace(fastclip, environment={"ONEDNN_MAX_CPU_ISA": "AVX2"})
        second = other(*base, "--share", "2/2")
        assert second.code == 2 and second.err.count("\n") == 2, second.err
        assert f"Process 2 on {os.uname().nodename} would embed RN50 under another recipe than process 1" in second.err
        assert "switches: [] there, ['ONEDNN_MAX_CPU_ISA=AVX2'] here" in second.err
    finally:
        first.kill()
        first.communicate()
    # A dead process stops nobody.
    later = other.start(*base, "--share", "2/2")
    wait_until(lambda: list((fastclip.folder / "embeddings").glob("*/*.safetensors")), "parts of the second worker")
    later.kill()
    later.communicate()


def test_runs_of_their_own_may_be_of_any_kind(tmp_path: Path):
    facts = {"tiny": {"machine": "a"}}
    Attempts(tmp_path, process=1).join("run", 0, facts)
    Attempts(tmp_path).join("another run", 0, {"tiny": {"machine": "b"}})
    Attempts(tmp_path).join("run", 1, {"RN50": {"machine": "b"}})
    with pytest.raises(UserError, match=r"machine: a there, b here"):
        Attempts(tmp_path).join("run", 1, {"tiny": {"machine": "b"}})


def test_store_lists_copies_and_removes_recipes(shapes: Sharded, stores: dict[str, Path], fastclip: Program):
    store = both(stores, fastclip.folder / "embeddings")
    fp32, bf16 = (recipe_of(stores[precision]) for precision in ("fp32", "bf16"))
    listed = fastclip("store", "--shards", shapes.shards)
    assert listed.code == 0 and max(map(len, listed.out.splitlines())) <= 80
    rows = [line.split() for line in listed.out.splitlines() if " shapes " in line]
    assert [row[:5] for row in rows] == [[each.id[:12], "tiny", "shapes", "3/12", "60"] for each in (fp32, bf16)]
    said = " ".join(listed.out.split())
    assert f"{bf16.id[:12]}: weights {bf16.weights[:12]} (QuickGELU), bf16" in said and bf16.machine in said
    copied = fastclip("store", "copy", bf16.id[:6], "--to", "copy")
    assert copied.code == 0 and "3 parts copied, 0 there already, 1 prototype files" in copied.out
    assert sorted(path.name for path in (fastclip.folder / "copy").iterdir()) == sorted([bf16.id, "prototypes"])
    again = fastclip("eval", "shapes/flat", "-b", "tiny", "--shards", shapes.shards, "--store", "copy")
    assert again.code == 0 and "Embedded" not in again.err
    part = next((store / fp32.id).glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1])
    damaged = fastclip("store", "copy", "--to", "copy")
    assert damaged.code == 5 and f"{part.name} is damaged" in damaged.err and "2 parts copied" in damaged.out
    assert "0 parts copied, 3 there already" in damaged.out
    removed = fastclip("store", "remove", fp32.id[:6])
    assert removed.code == 0 and "3 parts removed" in removed.out and not (store / fp32.id).exists()
    for wrong in (["remove", fp32.id[:6]], ["copy", "zz", "--to", "copy"]):
        outcome = fastclip("store", *wrong)
        assert outcome.code == 2 and outcome.err.count("\n") == 2, outcome.err


def test_a_copy_never_overwrites_other_bytes(stores: dict[str, Path], tmp_path: Path):
    recipe = recipe_of(stores["bf16"])
    shutil.copytree(stores["bf16"], tmp_path / "store")
    source, target = Store(stores["bf16"]), Store(tmp_path / "store")
    name = min(target.parts(recipe.id))
    part = target.read(recipe.id, name)
    assert part is not None
    target.path(recipe.id, name).unlink()
    target.publish(recipe, name, dataclasses.replace(part, norms=part.norms * 2))
    with pytest.raises(IntegrityError, match="other bytes"):
        copy_recipe(source, target, recipe)
    torn = target.path(recipe.id, max(target.parts(recipe.id)))
    torn.write_bytes(b"torn")
    target.path(recipe.id, name).unlink()
    assert copy_recipe(source, target, recipe) == (2, [], []), "a damaged one in its place is replaced"


def test_a_store_of_before_recipes_is_refused_in_two_lines(shapes: Sharded, fastclip: Program):
    write(fastclip.folder / "embeddings", {"parts/ab/abcd.safetensors": b"old"})
    for command in (["eval", "shapes", "-b", "tiny", "--shards", shapes.shards], ["store"]):
        outcome = fastclip(*command)
        assert outcome.code == 2 and outcome.err.count("\n") == 2 and "older version" in outcome.err, outcome.err


def test_a_store_is_asked_for_what_is_missing_by_name_where_nothing_can_be_embedded(
    shapes: Sharded, stores: dict[str, Path], fastclip: Program, tmp_path: Path
):
    """RN50's weights are nowhere on this machine; the store pretends that another one began with them."""
    part = dataclasses.replace(recipe_of(stores["bf16"]), backbone="RN50", weights="2" * 64)
    store = Store(tmp_path / "store")
    source = recipe_of(stores["bf16"])
    name = min(Store(stores["bf16"]).parts(source.id))
    found = Store(stores["bf16"]).read(source.id, name)
    assert found is not None
    store.publish(part, name, found)
    command = ["shapes/flat", "-b", "RN50", "--shards", shapes.shards, "--store", store.folder]
    outcome = fastclip.here("eval", *command)
    assert outcome.code == 2 and outcome.err.count("\n") == 2, outcome.err
    assert f"shapes is embedded by RN50 in 1 of 3 shards (recipe {part.id[:12]}" in outcome.err
    shown = fastclip.here("status", *command)
    said = " ".join(shown.out.split())
    assert shown.code == 4 and "shapes/flat RN50 1/3" in said and f"recipe {part.id[:12]}" in said, shown.out
    assert "2 shards: not embedded yet, and cannot be embedded here: No weights for RN50" in said


def test_prototypes_of_any_machine_are_read_in_the_same_order(
    shapes: Sharded, stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(stores["bf16"], tmp_path / "store")
    (kept,) = (tmp_path / "store" / "prototypes").glob("*/*.safetensors")
    expected = text(resolve(flat(shapes, stores["bf16"])))
    monkeypatch.setattr(prototypes_module, "compute_prototypes", lambda *_: pytest.fail("existing ones beat computing"))
    assert text(resolve(flat(shapes, tmp_path / "store"))) == expected
    monkeypatch.undo()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert text(resolve(flat(shapes, tmp_path / "store"))) == expected, "a damaged one is computed anew"
    assert kept.read_bytes() == next((stores["bf16"] / "prototypes").glob("*/*.safetensors")).read_bytes()


def test_the_footnote_of_a_table_names_compiling_precision_decoder_and_machine():
    made = recipe(
        engine="compiled by g++ 12", precision="bf16", machine="cuda 13.0 NVIDIA H200", decoder="dali 2, pillow"
    )
    evaluation = Evaluation(
        unreadable_policy="stop",
        datasets=(),
        recipes=(UsedRecipe(dataset="d", backbone="tiny", id=made.id, recipe=made),),
        prompts={},
        cells=(),
        unreadable=(),
    )
    assert footnotes(evaluation) == [
        "0 images; bf16, compiled, decoded by dali 2, batches of 32, on cuda 13.0 NVIDIA H200.",
        f"tiny: weights {made.weights[:12]} (that of a).",
    ]
    plain = dataclasses.replace(made, engine="eager", backbone="RN50")
    other = UsedRecipe(dataset="d", backbone="RN50", id=plain.id, recipe=plain)
    mixed = dataclasses.replace(evaluation, recipes=(*evaluation.recipes, other))
    line, _ = footnotes(mixed)
    assert "d RN50: bf16, decoded" in line and "d tiny: bf16, compiled, decoded" in line
