"""Shares, parts and their names: who does what, and what may be used again."""

from __future__ import annotations

import dataclasses
import inspect
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Sharded, recipe

from fastclip.cli import evaluate as eval_command
from fastclip.data.image_headers import check_header
from fastclip.data.shards.manifest import Shard, Unreadable, images_sha256
from fastclip.data.shards.reader import OpenShard, read_index
from fastclip.data.shards.targets import find_targets
from fastclip.embed.attempts import Attempts
from fastclip.embed.loop import EmbeddingLoop
from fastclip.embed.plan import Unit, shares, work_order
from fastclip.embed.processes import find_process
from fastclip.errors import IntegrityError, UserError
from fastclip.evaluate.embedding import launching, load_towers, make_loop, missing_units
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import resolve
from fastclip.models.backbones import TINY
from fastclip.models.numerics import fixed_numerics
from fastclip.models.tower import Embedded, ImageTower
from fastclip.models.weights import find_weights
from fastclip.pixels.decoder import DecodedBatch, Decoder, EncodedImage
from fastclip.pixels.decoders import make_decoder
from fastclip.pixels.torchvision import crop, decode_rgb
from fastclip.store.parts import Part, part_name
from fastclip.store.recipes import Recipe
from fastclip.store.store import Store

CPU = torch.device("cpu")


def units(*images: int) -> list[Unit]:
    return [
        Unit(Path("d"), Shard(name=f"a/{i}.tar", domain="a", images=n, bytes=1, sha256="", index_sha256=""), f"{i}", {})
        for i, n in enumerate(images)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 16])
def test_every_unit_is_in_exactly_one_share_and_shares_are_level(world_size: int):
    rng = np.random.default_rng(world_size)
    work = units(*rng.integers(1, 1000, 60).tolist())
    parts = shares(work, world_size)
    names = [unit.shard.name for share in parts for unit in share]
    assert sorted(names) == sorted(unit.shard.name for unit in work)
    images = [sum(unit.shard.images for unit in share) for share in parts]
    assert max(images) - min(images) <= 1000
    assert shares(list(reversed(work)), world_size) == parts, "the order of the manifest must not matter"


def test_a_process_takes_its_own_share_largest_first_and_then_all_the_others():
    work = units(5, 9, 1, 7)
    orders = [[unit.shard.images for unit in work_order(work, rank, 2)] for rank in (0, 1)]
    assert orders == [[9, 1, 5, 7], [7, 5, 1, 9]]


def test_the_process_is_read_from_the_environment():
    process = find_process({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
    assert (process.rank, process.world_size, process.local_rank, process.reports) == (5, 8, 1, False)
    assert find_process({}).reports
    for environment in ({"RANK": "x"}, {"RANK": "2", "WORLD_SIZE": "2"}):
        with pytest.raises(UserError):
            find_process(environment)


MINE, OTHER = recipe(), recipe(precision="fp32")
NAME = "a" * 64


def part() -> Part:
    rows = np.eye(2, 3, dtype=np.float16)
    rows[1] = 0
    return Part(rows, np.array([7, 0], np.float32), (Unreadable(1, "why"),))


def test_a_part_comes_back_as_it_was_published(tmp_path: Path):
    store = Store(tmp_path)
    assert store.read(MINE.id, NAME) is None and not store.has(MINE.id, NAME)
    store.publish(MINE, NAME, part())
    store.publish(MINE, NAME, part())
    found = store.read(MINE.id, NAME)
    assert found is not None and store.has(MINE.id, NAME)
    assert np.array_equal(found.embeddings, part().embeddings) and np.array_equal(found.norms, part().norms)
    assert found.unreadable == part().unreadable and found.readable_rows().tolist() == [0]
    with pytest.raises(IntegrityError, match="other bytes"):
        store.publish(MINE, NAME, dataclasses.replace(part(), embeddings=part().embeddings + 1))


def test_a_damaged_or_misplaced_part_is_moved_aside(tmp_path: Path):
    store = Store(tmp_path)
    names = ("a" * 64, "b" * 64)
    for each in (MINE, OTHER):
        for name in names:
            store.publish(each, name, part())
    whole = store.path(MINE.id, names[0]).read_bytes()
    store.path(MINE.id, names[1]).write_bytes(whole)  # of another shard
    store.path(OTHER.id, names[0]).write_bytes(whole)  # of another recipe
    store.path(OTHER.id, names[1]).write_bytes(whole[:-1])
    for each, name in ((MINE, names[1]), (OTHER, names[0]), (OTHER, names[1])):
        assert store.has(each.id, name) and store.read(each.id, name) is None and not store.has(each.id, name)
    assert store.read(MINE.id, names[0]) is not None
    assert len(list((tmp_path / "damaged").iterdir())) == 3


def test_every_option_says_whether_it_changes_an_embedding():
    undeclared = [
        f.name for f in dataclasses.fields(EvalOptions) if f.metadata.get("changes") not in ("identity", "runtime")
    ]
    assert not undeclared
    # The first is a way to write `backbones`, the second embeds nothing, the third is scored beside zero-shot.
    shown_only = {"all_backbones", "dry_run", "head", "results", "json", "predictions"}
    typed = set(inspect.signature(eval_command.command).parameters)
    assert typed - shown_only == {field.name for field in dataclasses.fields(EvalOptions)}


ANOTHER = {
    "targets": ("shapes/flat",),
    "backbones": ("ViT-B/32",),
    "prompts": ("photo", "openai80"),
    "random_weights": True,
    "precision": "fp16",
    "decoder": "dali",
    "batch_size": 8,
    "compile_towers": "on",
    "workers": 5,
    "share": "2/3",
    "unreadable": "exclude",
    "here": True,
}
"""An other value of every option that can be tried without a GPU, a copy of the shards or other weights."""


@pytest.mark.parametrize("name", sorted({f.name for f in dataclasses.fields(EvalOptions)} - {"device"}))
def test_identity_options_change_every_recipe_and_runtime_options_none(name: str, shapes: Sharded, tmp_path: Path):
    def owed(options: EvalOptions) -> set[tuple[str, str]]:
        """Every part that is to be embedded, as (its name, its recipe)."""
        return {(unit.part, recipe.id) for unit in resolve(options).units for recipe in unit.recipes.values()}

    usual = EvalOptions(backbones=("tiny",), shards=shapes.shards, store=tmp_path / "store", precision="fp32")
    mine = [recipe for unit in resolve(usual).units for recipe in unit.recipes.values()][:1]
    Store(usual.store).publish(mine[0], "0" * 64, part())
    before = owed(usual)
    value = ANOTHER.get(name)
    if name == "weights":
        path = find_weights(TINY, None).path
        assert path is not None
        (tmp_path / "other.safetensors").write_bytes(path.read_bytes() + b"\0")
        value = {"tiny": tmp_path / "other.safetensors"}
    elif name == "shards":
        (tmp_path / "elsewhere").symlink_to(shapes.shards)
        value = tmp_path / "elsewhere"
    elif name == "store":
        value = tmp_path / "another"
    elif name == "recipes":
        value = (mine[0].id[:8],)
    changes = {name: value, **({"random_weights": True} if name == "backbones" else {})}
    changed = owed(dataclasses.replace(usual, **changes))
    (field,) = (field for field in dataclasses.fields(EvalOptions) if field.name == name)
    assert changed
    if field.metadata["changes"] == "identity":
        assert not {recipe for _, recipe in changed} & {recipe for _, recipe in before}
        assert {part for part, _ in changed} == {part for part, _ in before}, "parts are named by images alone"
    else:
        assert changed <= before


def shards_of(sharded: Sharded) -> list[Shard]:
    """Its shards, each with the digest of its images."""
    (target,) = find_targets(sharded.shards, [sharded.name])
    return list(target.shards)


def test_every_batch_is_decoded_once_for_all_towers_and_sides(shapes: Sharded, tmp_path: Path):
    made: list[CountingDecoder] = []

    class CountingDecoder:
        def __init__(self) -> None:
            self.inner, self.batches = make_decoder("torchvision", [32, 64], 8, CPU, 1), 0
            made.append(self)

        def decode(self, images: Sequence[EncodedImage]) -> DecodedBatch:
            self.batches += 1
            return self.inner.decode(images)

    class MeanTower(ImageTower):
        """Embeds a crop as the mean of each colour: known without any weights."""

        def __init__(self, side: int) -> None:
            self.side = side

        def __call__(self, crops: torch.Tensor) -> Embedded:
            return Embedded(crops.float().mean(dim=(2, 3)), torch.ones(len(crops)))

    shards = shards_of(shapes)
    recipes = {name: recipe(backbone=name) for name in ("small", "large")}
    work = [Unit(shapes.folder, shard, part_name(shard), recipes) for shard in shards]
    towers = {"small": MeanTower(32), "large": MeanTower(64)}
    store = Store(tmp_path)
    EmbeddingLoop(
        towers, CountingDecoder, store, Attempts(tmp_path), batch_size=8, workers=2, storage=torch.float32
    ).run(work)
    assert sum(decoder.batches for decoder in made) == sum(-(-shard.images // 8) for shard in shards)
    for unit in work:
        opened = OpenShard(unit.folder, unit.shard)
        for name, side in (("small", 32), ("large", 64)):
            found = store.read(recipes[name].id, unit.part)
            assert found is not None
            images = [opened.image_bytes(row) for row in range(20)]
            pixels = [decode_rgb(data, check_header(data)) for data in images]
            expected = [crop(image, side).float().mean(dim=(1, 2)) for image in pixels]
            assert np.allclose(found.embeddings, torch.stack(expected).numpy(), atol=1e-3)


def test_while_a_shard_is_published_those_after_it_are_embedded(shapes: Sharded, tmp_path: Path):
    """Three batches a shard. The store is so slow that it is only done once the next shard is under way."""
    embedded = 0
    changed = threading.Condition()
    overlapped: list[bool] = []

    class Colour(ImageTower):
        def __init__(self) -> None:
            self.side = 32

        def __call__(self, crops: torch.Tensor) -> Embedded:
            nonlocal embedded
            with changed:
                embedded += 1
                changed.notify_all()
            return Embedded(crops.float().mean(dim=(2, 3)), torch.ones(len(crops)))

    class SlowStore(Store):
        def publish(self, recipe: Recipe, name: str, part: Part) -> None:
            batches = 3 * (len(overlapped) + 1)
            with changed:
                overlapped.append(changed.wait_for(lambda: embedded > batches or batches == 9, timeout=20))
            super().publish(recipe, name, part)

    work = [Unit(shapes.folder, each, part_name(each), {"c": MINE}) for each in shards_of(shapes)[:3]]
    store = SlowStore(tmp_path)

    def decoder() -> Decoder:
        return make_decoder("torchvision", [32], 8, CPU, 1)

    EmbeddingLoop({"c": Colour()}, decoder, store, Attempts(tmp_path), 8, 2, torch.float32).run(work)
    assert overlapped == [True, True, True]


@pytest.mark.gpu
@pytest.mark.parametrize("decoder", ["dali", "torchvision"])
def test_no_operation_of_the_loop_makes_the_host_wait_for_a_gpu(decoder: str, shapes: Sharded, tmp_path: Path):
    options = EvalOptions(backbones=("tiny",), shards=shapes.shards, store=tmp_path, device="cuda", decoder=decoder)
    setup = resolve(options)
    engine = setup.engine
    assert engine
    with fixed_numerics(engine.device), launching(engine) as launch:
        towers = load_towers(engine, list(engine.candidates.values()), launch)
        loop = make_loop(setup, engine, towers, Attempts(tmp_path), launch)
        torch.cuda.set_sync_debug_mode("error")
        try:
            loop.run(setup.units)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert not loop.failures and not missing_units(setup)


def test_a_backbone_in_two_spellings_is_one(shapes: Sharded, tmp_path: Path):
    setup = resolve(EvalOptions(backbones=("tiny", "TINY"), shards=shapes.shards, store=tmp_path))
    assert setup.backbones == ("tiny",) and setup.engine and list(setup.engine.candidates) == ["tiny"]


def test_a_parts_name_changes_with_a_byte_of_the_tar_or_an_image_in_it_and_with_nothing_else(shapes: Sharded):
    shard = shards_of(shapes)[0]
    records = read_index(shapes.folder, shard)

    def with_first(**changes: object) -> str:
        """The name when the first row of the index is another."""
        rows = [dataclasses.replace(records[0], **changes), *records[1:]]
        return part_name(dataclasses.replace(shard, images_sha256=images_sha256(rows)))

    assert with_first() == part_name(shard), "the manifest's digest is that of the index"
    others = {part_name(dataclasses.replace(shard, sha256="0" * 64)), with_first(offset=1), with_first(size=1)}
    others |= {with_first(height=1), with_first(width=1), with_first(sha256="0" * 64)}
    assert len(others | {part_name(shard)}) == 7
    assert with_first(label=5, key="another", path="elsewhere/1.png") == part_name(shard)
    moved = dataclasses.replace(shard, name="b/9.tar", domain="b", index_sha256="0" * 64)
    assert part_name(moved) == part_name(shard), "the same bytes elsewhere are the same images"
