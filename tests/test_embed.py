"""Shares, parts and their keys: who does what, and what may be used again."""

from __future__ import annotations

import dataclasses
import inspect
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Sharded

from fastclip.cli import evaluate as eval_command
from fastclip.data.shards.manifest import Shard, Unreadable, read_manifest
from fastclip.data.shards.reader import OpenShard
from fastclip.embed.attempts import Attempts
from fastclip.embed.loop import EmbeddingLoop
from fastclip.embed.plan import Unit, shares, work_order
from fastclip.embed.processes import find_process
from fastclip.embed.store import Part, PartStore, part_identity, part_key
from fastclip.errors import IntegrityError, UserError
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.run import Run
from fastclip.models.tower import Embedded, ImageTower
from fastclip.pixels.decoder import DecodedBatch, Decoder, EncodedImage
from fastclip.pixels.decoders import make_decoder
from fastclip.pixels.torchvision import crop, decode_rgb

CPU = torch.device("cpu")


def units(*images: int) -> list[Unit]:
    return [
        Unit(Path("d"), Shard(name=f"a/{i}.tar", domain="a", images=n, bytes=1, sha256="", index_sha256=""), {})
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


def part(**changes: object) -> Part:
    rows = np.arange(6, dtype=np.float16).reshape(2, 3)
    return Part({"weights": "w", **changes}, rows, (Unreadable(1, "why"),))


def test_a_part_comes_back_as_it_was_published(tmp_path: Path):
    store = PartStore(tmp_path)
    key = part_key(part().identity)
    assert store.read(key) is None and not store.has(key)
    store.publish(part())
    store.publish(part())
    found = store.read(key)
    assert found is not None and store.has(key)
    assert np.array_equal(found.embeddings, part().embeddings) and found.unreadable == part().unreadable
    with pytest.raises(IntegrityError, match="other bytes"):
        store.publish(dataclasses.replace(part(), embeddings=part().embeddings + 1))


def test_a_damaged_or_misplaced_part_is_moved_aside(tmp_path: Path):
    store = PartStore(tmp_path)
    store.publish(part())
    store.publish(part(weights="v"))
    first, second = (part_key(part(weights=w).identity) for w in "wv")
    (a,) = tmp_path.rglob(f"{first}*")
    (b,) = tmp_path.rglob(f"{second}*")
    b.write_bytes(a.read_bytes())
    a.write_bytes(a.read_bytes()[:-1])
    assert store.read(first) is None and store.read(second) is None
    assert not store.has(first) and not store.has(second)
    assert len(list((tmp_path / "damaged").iterdir())) == 2


def test_every_option_says_whether_it_changes_an_embedding():
    undeclared = [
        f.name for f in dataclasses.fields(EvalOptions) if f.metadata.get("changes") not in ("identity", "runtime")
    ]
    assert not undeclared
    # The first is a way to write `backbones`, the second embeds nothing.
    shown_only = {"all_backbones", "dry_run", "json", "predictions"}
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
}
"""An other value of every option that can be tried without a GPU, a copy of the shards or other weights."""


@pytest.mark.parametrize("name", sorted({f.name for f in dataclasses.fields(EvalOptions)} - {"device"}))
def test_identity_options_change_every_key_and_runtime_options_none(name: str, shapes: Sharded, tmp_path: Path):
    usual = EvalOptions(backbones=("tiny",), shards=shapes.shards, store=tmp_path / "store", precision="fp32")
    value = ANOTHER.get(name)
    if name == "weights":
        from fastclip.models.weights import find_weights

        path = find_weights(Run(usual).candidates[0].backbone, None).path
        assert path is not None
        (tmp_path / "other.safetensors").write_bytes(path.read_bytes() + b"\0")
        value = {"tiny": tmp_path / "other.safetensors"}
    elif name == "shards":
        (tmp_path / "elsewhere").symlink_to(shapes.shards)
        value = tmp_path / "elsewhere"
    elif name == "store":
        value = tmp_path / "another"
    changes = {name: value, **({"random_weights": True} if name == "backbones" else {})}
    keys = {key for unit in Run(usual).units() for key in unit.keys.values()}
    changed = {key for unit in Run(dataclasses.replace(usual, **changes)).units() for key in unit.keys.values()}
    (field,) = (field for field in dataclasses.fields(EvalOptions) if field.name == name)
    assert changed
    if field.metadata["changes"] == "identity":
        assert not changed & keys
    else:
        assert changed <= keys


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

    shards = read_manifest(shapes.folder).shards
    recipes = {name: {"weights": name} for name in ("small", "large")}
    work = [
        Unit(shapes.folder, shard, {name: part_key(part_identity(recipes[name], shard)) for name in recipes})
        for shard in shards
    ]
    towers = {"small": MeanTower(32), "large": MeanTower(64)}
    store = PartStore(tmp_path)
    EmbeddingLoop(
        towers, recipes, CountingDecoder, store, Attempts(tmp_path), batch_size=8, workers=2, storage=torch.float32
    ).run(work)
    assert sum(decoder.batches for decoder in made) == sum(-(-shard.images // 8) for shard in shards)
    for unit in work:
        opened = OpenShard(unit.folder, unit.shard)
        for name, side in (("small", 32), ("large", 64)):
            found = store.read(unit.keys[name])
            assert found is not None
            expected = [crop(decode_rgb(opened.image_bytes(row)), side).float().mean(dim=(1, 2)) for row in range(20)]
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

    class SlowStore(PartStore):
        def publish(self, part: Part) -> None:
            batches = 3 * (len(overlapped) + 1)
            with changed:
                overlapped.append(changed.wait_for(lambda: embedded > batches or batches == 9, timeout=20))
            super().publish(part)

    shards = read_manifest(shapes.folder).shards[:3]
    work = [Unit(shapes.folder, each, {"c": part_key(part_identity({"weights": "c"}, each))}) for each in shards]
    store = SlowStore(tmp_path)

    def decoder() -> Decoder:
        return make_decoder("torchvision", [32], 8, CPU, 1)

    loop = EmbeddingLoop(
        {"c": Colour()}, {"c": {"weights": "c"}}, decoder, store, Attempts(tmp_path), 8, 2, torch.float32
    )
    loop.run(work)
    assert overlapped == [True, True, True]


@pytest.mark.gpu
@pytest.mark.parametrize("decoder", ["dali", "torchvision"])
def test_no_operation_of_the_loop_makes_the_host_wait_for_a_gpu(decoder: str, shapes: Sharded, tmp_path: Path):
    options = EvalOptions(backbones=("tiny",), shards=shapes.shards, store=tmp_path, device="cuda", decoder=decoder)
    run = Run(options)
    loop = run.loop(run.load_towers(run.candidates))
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop.run(run.units())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not loop.failures and not run.missing_units()


def test_a_backbone_in_two_spellings_is_one(shapes: Sharded, tmp_path: Path):
    run = Run(EvalOptions(backbones=("tiny", "TINY"), shards=shapes.shards, store=tmp_path))
    assert [candidate.backbone.name for candidate in run.candidates] == ["tiny"]


def test_a_key_changes_with_a_byte_of_the_shard_or_its_index(shapes: Sharded):
    shard = read_manifest(shapes.folder).shards[0]
    recipe = {"weights": "w"}
    others = [dataclasses.replace(shard, sha256="0" * 64), dataclasses.replace(shard, index_sha256="0" * 64)]
    keys = {part_key(part_identity(recipe, each)) for each in (shard, *others)}
    assert len(keys) == 3
    renamed = dataclasses.replace(shard, name="b/9.tar", domain="b")
    assert part_key(part_identity(recipe, renamed)) in keys, "the same bytes elsewhere are the same images"
