"""Fine-tuning beside OpenAI's own CLIP code, trained as the demo trains it, and on several processes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from drawn_training import SMALL, draw_crops, draw_tokens, lively_tensors, trained
from helpers import REPOSITORY
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastclip.finetune.losses import class_loss, gather, pair_loss, shared
from fastclip.finetune.optimizer import after_step, halved, make_optimizer
from fastclip.finetune.training_recipes import TRAINING_RECIPES
from fastclip.models.backbones import Backbone
from fastclip.models.weights import weights_in

DEMO = TRAINING_RECIPES["transferlearning"]
STEPS, BATCH = 5, 8


@dataclass(frozen=True)
class Trainings:
    """Losses and weights after five steps: theirs, ours, and ours in fp64."""

    theirs: Mapping[str, Tensor]
    ours: Mapping[str, Tensor]
    truth: Mapping[str, Tensor]
    rounded: frozenset[str]
    """Names of what `halved` returns."""


def train(backbone: Backbone, file: Path, round_trip: bool, dtype: torch.dtype) -> tuple[dict[str, Tensor], set[str]]:
    recipe = replace(DEMO, fp16_round_trip=round_trip)
    model = trained(backbone, recipe, weights_in(file)).to(dtype)
    optimizer = make_optimizer(model.learning(), recipe)
    losses = []
    for step in range(STEPS):
        images, texts, scale = model(draw_crops(backbone.side, BATCH, step), draw_tokens(BATCH, step))
        loss = pair_loss(images, texts, scale, torch.arange(BATCH), same_class=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after_step(model, recipe)
        losses.append(loss.item())
    names = {id(each): name for name, each in model.learning().items()}
    state = {name: each.detach() for name, each in model.clip.state_dict().items()}
    return {"losses": torch.tensor(losses, dtype=torch.float64), **state}, {names[id(e)] for e in halved(model.clip)}


CASES = [
    pytest.param(("small ViT", True), id="small ViT, round trip"),
    pytest.param(("small ResNet", False), id="small ResNet"),
    pytest.param(("small ViT", False), id="small ViT", marks=pytest.mark.slow),
    pytest.param(("small ResNet", True), id="small ResNet, round trip", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=CASES)
def trainings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, reference_python: Path
) -> Trainings:
    name, round_trip = request.param
    backbone, folder = SMALL[name], tmp_path_factory.mktemp("training")
    weights = lively_tensors(backbone)
    save_file(weights, folder / "weights.safetensors")
    crops = torch.stack([draw_crops(backbone.side, BATCH, step) for step in range(STEPS)])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    batches = {"pixels": (crops / 255 - mean) / std, "tokens": torch.stack([draw_tokens(BATCH, s) for s in range(5)])}
    inputs = {f"weights/{key}": tensor for key, tensor in weights.items()} | batches
    save_file(inputs, folder / "in.safetensors", metadata={"round_trip": str(int(round_trip))})
    script = REPOSITORY / "tests" / "reference" / "finetune.py"
    command = [reference_python, "-W", "ignore", script, folder / "in.safetensors", folder / "out.safetensors"]
    subprocess.run([str(word) for word in command], check=True)
    theirs = {key.removeprefix("weights/"): each for key, each in load_file(folder / "out.safetensors").items()}
    ours, rounded = train(backbone, folder / "weights.safetensors", round_trip, torch.float32)
    truth, _ = train(backbone, folder / "weights.safetensors", round_trip, torch.float64)
    return Trainings(theirs, ours, truth, frozenset(rounded) if round_trip else frozenset())


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor], name: str) -> Tensor:
    return (one[name].double() - other[name].double()).abs()


def key_biases(name: str, tensor: Tensor) -> Tensor:
    """Which numbers of a tensor are key biases of attention. They move all scores of a query alike, so that their true
    gradient is zero.
    """
    which = torch.zeros(tensor.shape, dtype=torch.bool)
    if name.endswith("in_proj_bias"):
        which[len(which) // 3 : 2 * len(which) // 3] = True
    elif name.endswith("k_proj.bias"):
        which[:] = True
    return which


def test_losses_and_weights_of_the_demos_training_are_those_of_openais_code(trainings: Trainings):
    theirs, ours = trainings.theirs, trainings.ours
    assert theirs.keys() == ours.keys()
    assert difference(ours, theirs, "losses").max() < 1e-5
    assert (theirs["losses"].diff().abs() > 1e-2).all(), "the same loss at each step would prove nothing"
    for name in ours.keys() - trainings.rounded - {"losses"}:
        off, keys = difference(ours, theirs, name), key_biases(name, ours[name])
        # Weights move by 2.5e-4 in five steps of 5e-5. A step is lr·g / (|g| + 1e-6), so a rounding error of 1e-9 in a
        # gradient moves it by 5e-8 at most, and by far less where the gradient or the decay is larger than 1e-6.
        assert (off[~keys] < 1e-6).all(), name
        # Keys' biases begin at zero, where neither a gradient nor the decay outweighs rounding.
        assert (off[keys] < 2e-5).all(), name


def test_our_rounding_is_no_worse_than_theirs(trainings: Trainings):
    for name in trainings.ours.keys() - trainings.rounded - {"losses"}:
        ours, theirs = (difference(each, trainings.truth, name).max() for each in (trainings.ours, trainings.theirs))
        assert ours <= 4 * theirs + 1e-7, name


@pytest.mark.parametrize("trainings", [CASES[0], CASES[3]], indirect=True)
def test_the_round_trip_to_fp16_is_that_of_openais_conversion(trainings: Trainings):
    unequal = total = 0
    for name in trainings.rounded:
        ours, theirs = trainings.ours[name], trainings.theirs[name]
        assert torch.equal(ours, ours.half().float())
        assert torch.equal(theirs, theirs.half().float())
        spacing = torch.maximum(ours.abs(), theirs.abs()) * 2**-10 + 2**-24
        keys = key_biases(name, ours)
        # A rounding error can send a weight to the next number of fp16. That happens to few.
        assert (difference(trainings.ours, trainings.theirs, name) <= spacing)[~keys].all(), name
        unequal, total = unequal + int((ours != theirs)[~keys].sum()), total + ours.numel()
    assert unequal <= 1e-4 * total
    for name in trainings.ours.keys() - trainings.rounded - {"losses", "logit_scale"}:
        theirs = trainings.theirs[name]
        if theirs.is_floating_point() and "running_" not in name:
            assert not torch.equal(theirs, theirs.half().float()), f"OpenAI rounds {name}, we do not"


COUNTS = {1: (9,), 2: (4, 5), 3: (4, 0, 5)}
"""Images that each of so many processes has of the same nine."""


def save_gradients(rank: int, counts: tuple[int, ...], folder: str) -> None:
    """Write the gradients of one global batch, under both kinds of loss, as this process has them after DDP."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store {len(counts)}", len(counts))
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=len(counts))
    for recipe in ("ce", "contrastive"):
        for dtype in (torch.float32, torch.float64):
            found = gradients_of(recipe, dtype, rank, counts, Path(folder))
            save_file(found, Path(folder) / f"{recipe} {dtype} {len(counts)} {rank}.safetensors")
    torch.distributed.destroy_process_group()


def gradients_of(name: str, dtype: torch.dtype, rank: int, counts: tuple[int, ...], folder: Path) -> dict[str, Tensor]:
    recipe, processes, total = TRAINING_RECIPES[name], len(counts), sum(counts)
    model = trained(SMALL["small ResNet"], recipe, weights_in(folder / "weights.safetensors")).to(dtype)
    learns = torch.nn.parallel.DistributedDataParallel(model) if processes > 1 else model
    start = sum(counts[:rank])
    rows = torch.arange(start, start + max(counts)) % total  # the last ones may belong to others: they fill up
    labels, crops, tokens = torch.arange(total) % 4, draw_crops(model.side, total), draw_tokens(4)
    if recipe.both_towers:
        texts, which = labels[rows].unique(return_inverse=True)
        images, vectors, scale = learns(crops[rows], tokens[texts])
        everything = (gather(each, counts, rank) for each in (images, vectors[which]))
        loss = pair_loss(*everything, shared(scale, processes), labels, same_class=True)
    else:
        prototypes = torch.eye(4, 64, dtype=dtype)
        images, _, scale = learns(crops[rows])
        real = torch.arange(len(rows)) < counts[rank]
        loss = class_loss(images, prototypes, labels[rows], scale, real, total)
    (loss * processes).backward()
    return {name: each.grad for name, each in model.learning().items()}


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_have_the_gradients_of_one(processes: int, tmp_path: Path):
    save_file(lively_tensors(SMALL["small ResNet"]), tmp_path / "weights.safetensors")
    torch.multiprocessing.spawn(save_gradients, (COUNTS[processes], str(tmp_path)), nprocs=processes)
    for recipe in ("ce", "contrastive"):
        for dtype, bound in ((torch.float32, 3e-6), (torch.float64, 1e-14)):
            alone = gradients_of(recipe, dtype, 0, COUNTS[1], tmp_path)
            assert ("logit_scale" in alone) == (recipe == "contrastive")
            for rank in range(processes):
                found = load_file(tmp_path / f"{recipe} {dtype} {processes} {rank}.safetensors")
                assert found.keys() == alone.keys()
                length = torch.cat([each.flatten() for each in alone.values()]).norm()
                off = torch.cat([(found[name] - each).flatten() for name, each in alone.items()])
                assert off.norm() < bound * length
