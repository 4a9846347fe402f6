"""Costs counted before a run, what is grouped by memory, and `fastclip bench`: what it says, never how fast it was."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import threading
from pathlib import Path

import pytest
import torch
from helpers import Program, Sharded, image_bytes, shard, write
from torch import nn

from fastclip.bench import stages
from fastclip.bench.devices import peak_flops
from fastclip.bench.forecast import forecast
from fastclip.bench.records import conditions, measurement
from fastclip.bench.stages import bench
from fastclip.cli.forecast import duration
from fastclip.embed.loop import EmbeddingLoop
from fastclip.errors import UserError
from fastclip.evaluate.embedding import embed, missing_units, share_images
from fastclip.evaluate.engine import Engine
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import Setup, resolve
from fastclip.machine import available_memory
from fastclip.models.backbones import OPENAI_BACKBONES, TINY, Backbone
from fastclip.models.cost import count_flops, count_memory, flops, tower_memory
from fastclip.models.tower import build_model, load_visual
from fastclip.models.weights import random_weights

PUBLISHED_GFLOPS = {
    "RN50": 12.22,
    "RN50x4": 42.56,
    "RN50x16": 149.39,
    "RN50x64": 529.11,
    "ViT-B/32": 8.82,
    "ViT-B/16": 35.13,
    "ViT-L/14": 162.03,
    "ViT-L/14@336px": 381.92,
}
"""Of the image towers, from open_clip's `model_profile.csv`."""


@pytest.fixture
def few(tmp_path: Path) -> Sharded:
    files = {f"a/{'xy'[i % 2]}/{i}.png": image_bytes(size=(40 + i, 50)) for i in range(14)}
    return shard(write(tmp_path / "few", files), tmp_path / "shards", "few", shard_images=8, layout="domain/class")


@pytest.mark.parametrize("name", PUBLISHED_GFLOPS)
def test_operations_are_those_published_without_what_only_the_first_token_needs(name: str):
    """The attention pool's four products, or the twelve of a last block, one the width times the width, are made for
    one token of all."""
    backbone = OPENAI_BACKBONES[name]
    visual = build_model(backbone, drawn=False).visual
    if name.startswith("RN"):
        tokens, width = visual.attnpool.positional_embedding.shape
        products = 3 + visual.output_dim / width
    else:
        tokens, width = visual.positional_embedding.shape
        products = 12
    without = PUBLISHED_GFLOPS[name] * 1e9 - 2 * tokens * width**2 * products
    assert flops(backbone) == pytest.approx(without, rel=0.01)


@pytest.mark.parametrize("name", OPENAI_BACKBONES)
def test_what_is_known_of_the_nine_is_what_is_counted(name: str):
    backbone = OPENAI_BACKBONES[name]
    assert (tower_memory(backbone), flops(backbone)) == (count_memory(backbone), count_flops(backbone))


@pytest.mark.parametrize(
    "backbone", [TINY, OPENAI_BACKBONES["RN50"], OPENAI_BACKBONES["ViT-B/32"]], ids=lambda b: b.name
)
def test_operations_and_working_memory_are_those_of_a_real_pass(backbone: Backbone):
    """Against hooks on every convolution and linear layer of a tower that computes."""
    visual = load_visual(backbone, random_weights(backbone), "fp32", torch.device("cpu"))
    counted, widest = [], []

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        per_output = module.weight[0].numel()
        counted.append(2 * output.numel() * per_output)
        widest.append(inputs[0].numel() + output.numel())

    for module in visual.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(hook)
    visual(torch.zeros(1, 3, backbone.side, backbone.side))
    # Attention's own products are no modules, nor are the projections inside of torch's attention.
    assert 0.6 * flops(backbone) < sum(counted) <= flops(backbone)
    memory = tower_memory(backbone)
    assert max(widest) <= memory.activations <= 2 * max(widest)
    assert memory.parameters == sum(each.numel() for each in visual.parameters())
    assert memory.parameters <= sum(each.numel() for each in build_model(backbone, drawn=False).visual.parameters())


def with_engine(setup: Setup, **changed: object) -> Setup:
    """`setup` on another machine."""
    assert isinstance(setup.engine, Engine)
    return dataclasses.replace(setup, engine=dataclasses.replace(setup.engine, **changed))


def parts_of(store: Path) -> dict[Path, bytes]:
    return {path.relative_to(store): path.read_bytes() for path in store.glob("*/*.safetensors")}


def test_towers_that_do_not_fit_together_take_turns_and_embed_the_same_bytes(
    few: Sharded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def embed_in(name: str, free_memory: int) -> tuple[dict[Path, bytes], int]:
        options = EvalOptions(
            backbones=("tiny", "ViT-B/32"), random_weights=True, shards=few.shards, store=tmp_path / name, batch_size=4
        )
        setup = with_engine(resolve(options), free_memory=free_memory)
        batches = []
        real = EmbeddingLoop._embed
        monkeypatch.setattr(EmbeddingLoop, "_embed", lambda *a: batches.append(a) or real(*a))
        expected = share_images(setup, missing_units(setup))
        images: list[int] = []
        embed(setup, images.append)
        monkeypatch.undo()
        assert sum(images) == expected
        return parts_of(tmp_path / name), len(batches)

    together, batches = embed_in("together", 1 << 40)
    in_turns, twice = embed_in("in turns", 0)
    assert in_turns == together and len(together) == 4
    assert (batches, twice) == (4, 8), "one decode a pass"


def test_what_several_backbones_take_is_said_before_they_embed(few: Sharded, fastclip: Program):
    run = fastclip.here("eval", "-b", "tiny", "-b", "ViT-B/32", "--random-weights", "--shards", few.shards)
    assert "2 backbones at once take about 0." in run.err and "free." in run.err
    again = fastclip.here("eval", "-b", "tiny", "-b", "ViT-B/32", "--random-weights", "--shards", few.shards)
    assert "at once" not in again.err


def test_free_memory_is_less_than_there_is():
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < available_memory() < int(total.split()[1]) * 1024


def test_only_devices_with_a_data_sheet_have_a_peak():
    assert peak_flops("NVIDIA H200", "fp16") == 989e12
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert peak_flops("NVIDIA L4", "fp16") == 121e12 and peak_flops("NVIDIA L40S", "fp16") == 362e12
    assert peak_flops("Tesla V100-SXM2-16GB", "bf16") is None
    assert peak_flops("NVIDIA GeForce RTX 9999", "fp16") is None


def test_bench_measures_each_stage_and_says_what_bounds(
    shapes: Sharded, fastclip: Program, monkeypatch: pytest.MonkeyPatch
):
    arguments = ["-b", "tiny", "--shards", shapes.shards, "--images", 30, "--rounds", 2, "--precision", "fp32"]
    monkeypatch.setenv("HOME", str(fastclip.folder))
    run = fastclip.here("bench", *arguments, "--json", "b.jsonl")
    assert run.code == 0, run.err
    assert max(map(len, run.out.splitlines())) <= 80
    assert "Bounded by " in run.out and "40 images; fp32 on cpu, decoded by torchvision" in run.out
    assert "No data sheet" in run.out and " — " in run.out, "no ratio where the device is not known"
    records = [json.loads(line) for line in (fastclip.folder / "b.jsonl").read_text().splitlines()]
    assert [each["what"] for each in records] == ["decode", "tower", "together", "read", "write", "score"]
    for each in records:
        assert each["images"] == 40 and len(each["all_seconds"]) == 2 and each["seconds"] > 0
        assert {"cpu", "cores", "torch", "commit"} <= each["machine"].keys()
    assert int(records[3]["settings"]["bytes"]) == sum(
        path.stat().st_size for path in sorted(shapes.folder.rglob("*.tar"))[:2]
    )
    assert not (fastclip.folder / "embeddings").exists(), "what bench embeds is thrown away"


def test_bench_says_which_backbones_fit_together(shapes: Sharded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = EvalOptions(backbones=("ViT-L/14", "RN50x64"), random_weights=True, shards=shapes.shards, device="cpu")
    monkeypatch.setattr("fastclip.evaluate.engine.free_memory_bytes", lambda *_: 2 << 30)
    with pytest.raises(UserError, match="do not fit into memory together; eval takes 2 passes") as error:
        bench(options, 20, 1, tmp_path)
    assert error.value.fix.endswith("-b ViT-L/14")


def test_bench_reads_no_recipe(shapes: Sharded, tmp_path: Path):
    options = EvalOptions(backbones=("tiny",), shards=shapes.shards, recipes=("0a",))
    with pytest.raises(UserError, match="reads no recipe"):
        bench(options, 20, 1, tmp_path)


def test_bench_leaves_nothing_behind_in_its_process(shapes: Sharded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Flags and environment are as before, and no thread goes on, which would make the scratch folder again."""
    monkeypatch.setattr("fastclip.embed.attempts.HEARTBEAT_S", 0.01)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    before = set(threading.enumerate())
    bench(EvalOptions(backbones=("tiny",), shards=shapes.shards), 20, 1, tmp_path / "scratch")
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=30)
    assert set(threading.enumerate()) <= before
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ and not torch.backends.cudnn.deterministic


def test_bench_drives_the_loop_that_eval_does(shapes: Sharded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The parts that it makes with every stage in place are those of an evaluation, byte for byte."""
    kept: dict[Path, bytes] = {}
    real = stages._Stages._score

    def keep(self: stages._Stages) -> None:
        kept.update(parts_of(tmp_path / "bench" / "parts"))
        real(self)

    monkeypatch.setattr(stages._Stages, "_score", keep)
    options = EvalOptions(backbones=("tiny",), shards=shapes.shards, store=tmp_path / "eval")
    bench(options, 1000, 1, tmp_path / "bench")
    assert not (tmp_path / "eval").exists()
    embed(resolve(options))
    assert len(kept) == 12 and kept == parts_of(tmp_path / "eval")


def test_bench_embeds_where_everything_is_embedded_already(shapes: Sharded, tmp_path: Path):
    options = EvalOptions(backbones=("tiny",), shards=shapes.shards, store=tmp_path / "eval")
    embed(resolve(options))
    assert bench(options, 20, 1, tmp_path / "bench").images == 20


def test_dry_run_says_what_is_left_and_times_it_by_what_bench_measured(
    shapes: Sharded, fastclip: Program, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(fastclip.folder))
    home = fastclip.here
    arguments = ["-b", "tiny", "--shards", shapes.shards, "--precision", "fp32"]
    before = home("eval", "--dry-run", *arguments)
    assert before.code == 0 and "No time: nothing was measured here yet" in before.out
    assert not (fastclip.folder / "embeddings").exists()
    assert home("bench", *arguments, "--images", 20, "--rounds", 1).code == 0
    after = home("eval", "--dry-run", *arguments)
    tars = sum(path.stat().st_size for path in shapes.folder.rglob("*.tar"))
    assert f"{tars / 1e6:,.1f} MB to read and decode once; 12 parts of 0.1 MB to write." in after.out
    assert re.search(r"^ tiny +12/12 +240 ", after.out, re.M)
    assert re.search(r"Time: .* s by this process, .* s by 8 like it.* each reads .* MB/s", " ".join(after.out.split()))
    assert "bounded by" in after.out and max(map(len, after.out.splitlines())) <= 80
    assert home("eval", *arguments).code == 0
    done = home("eval", "--dry-run", *arguments)
    assert done.out == "Everything is embedded: only scoring is left.\n"
    here = home("eval", "--dry-run", *arguments, "--here")
    assert "Everything is embedded: only scoring is left." in here.out and "0/12" in here.out


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_forecast_adds_up(shapes: Sharded, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch):
    """Twelve shards of twenty images, made-up speeds, counted by hand."""
    options = EvalOptions(
        backbones=("tiny",), shards=shapes.shards, store=tmp_path, precision="fp32", device="cpu", decoder="torchvision"
    )
    here = resolve(options)
    like = conditions(here.engine)
    assert like["device"] == "cpu" and like["compile"] == "off" and like["decoder"] == "torchvision"
    decode = measurement("decode", 100, [1.0], like)
    tower = measurement("tower", 100, [4.0], {**like, "backbone": "tiny", "flops per image": 1})
    records = [dataclasses.replace(each, settings={**each.settings, "device": device}) for each in (decode, tower)]
    monkeypatch.setattr("fastclip.bench.records.describe_numerics", lambda device: like["numerics"])
    setup = with_engine(here, device=torch.device(device))
    found = forecast(setup, records)
    one = 240 * (1 / 100 + 1 / 25) if device == "cpu" else 240 / 25
    assert found.seconds(1) == pytest.approx(one) and found.bounded_by == "embedding"
    assert found.seconds(8) == pytest.approx(one / 8)
    assert found.seconds(64) == found.seconds(1000) == pytest.approx(one / 12), "no faster than its twelve shards"
    assert (found.parts, found.read_bytes) == (12, sum(path.stat().st_size for path in shapes.folder.rglob("*.tar")))
    assert found.written_bytes == 240 * 64 * 4 and found.flops == 240 * flops(TINY)
    assert not forecast(setup, records[:1]).unit_seconds and not forecast(setup, []).unit_seconds
    assert not forecast(with_engine(setup, batch_size=7), records).unit_seconds, "other conditions say nothing"


@pytest.mark.parametrize(
    ("rate", "load_s", "pays_from"), [(50.0, 42.0, 2000.0), (24.0, 42.0, math.inf), (50.0, 1.0, 0.0)]
)
def test_compiling_pays_from_as_many_images_as_were_measured(
    rate: float, load_s: float, pays_from: float, shapes: Sharded, tmp_path: Path
):
    """25 images/s after 2 s without it: at 50 after 42 s, 40 s are made good by 2,000 times 0.02 s."""
    options = EvalOptions(backbones=("tiny",), shards=shapes.shards, store=tmp_path, precision="fp32", device="cpu")
    setup = resolve(options)
    like = {**conditions(setup.engine), "backbone": "tiny", "flops per image": 1}
    plain = measurement("tower", 25, [1.0], {**like, "load seconds": 2.0})
    compiled = measurement("tower", 25, [25 / rate], {**like, "compile": "on", "load seconds": load_s})
    found = forecast(setup, [plain, compiled]).backbones[0]
    assert found.compiling_pays_from == pytest.approx(pays_from)
    assert found.rate == pytest.approx(25), "only records of what is asked for count"
    assert forecast(setup, [plain]).backbones[0].compiling_pays_from is None


def test_durations_read_well():
    shown = [duration(seconds) for seconds in (0.01, 0.44, 9.96, 99.0, 100.0, 5900.0, 6000.0, 172_700.0, 2e5)]
    assert shown == ["0.1 s", "0.4 s", "10 s", "99 s", "1.7 min", "98 min", "1.7 h", "48 h", "2 days"]


def test_black_images_are_no_obstacle_to_measuring(tmp_path: Path):
    files = {f"{name}/{n}.png": image_bytes(size=(40 + n, 50), color=0) for name in ("cat", "dog") for n in range(4)}
    black = shard(write(tmp_path / "in", files), tmp_path / "shards", "black")
    options = EvalOptions(targets=("black",), backbones=("tiny",), shards=black.shards, store=tmp_path / "store")
    assert bench(options, 8, 1, tmp_path / "bench").images == 8


def test_bench_measures_decoding_and_the_step_of_fine_tuning_side_by_side(shapes: Sharded, fastclip: Program):
    words = ["bench", "shapes", "-b", "tiny", "--random-weights", "--shards", shapes.shards, "--finetune", "ce"]
    outcome = fastclip.here(*words, "--batch-size", 8, "--rounds", 1, "--json", "records.jsonl")
    assert outcome.code == 0, outcome.err
    assert "Bounded by" in outcome.out and "of what the two allow" in outcome.out
    records = [json.loads(line) for line in (fastclip.folder / "records.jsonl").read_text().splitlines()]
    assert [(each["what"], each["images"]) for each in records] == [
        (f"finetune {stage}", 64) for stage in ("decode", "step", "together")
    ]
