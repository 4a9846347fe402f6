"""Models that learn: gradients, statistics that stay, names, memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from drawn_training import CPU, SMALL, SMALL_RESNET, SMALL_VIT, draw_crops, draw_tokens, lively_tensors, trained
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from fastclip.finetune.losses import pair_loss
from fastclip.finetune.memory import needed_bytes
from fastclip.finetune.model import TrainedModel, trim_tokens
from fastclip.finetune.optimizer import make_optimizer
from fastclip.finetune.training_recipes import TRAINING_RECIPES, TrainingRecipe
from fastclip.models.backbones import OPENAI_BACKBONES, TINY, Backbone
from fastclip.models.tower import build_model, load_image_tower, load_model
from fastclip.models.weights import Weights, find_weights, random_weights, weights_in

CE, PAIRS = TRAINING_RECIPES["ce"], TRAINING_RECIPES["transferlearning"]
LABELS = torch.arange(6)


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Weights]:
    """Files with weights under which drawn images differ."""
    folder = tmp_path_factory.mktemp("weights")
    for name, backbone in SMALL.items():
        save_file(lively_tensors(backbone), folder / f"{name}.safetensors")
    return {name: weights_in(folder / f"{name}.safetensors") for name in SMALL}


def loss_of(model: TrainedModel) -> Tensor:
    images, texts, scale = model(draw_crops(model.side, 6), draw_tokens(6))
    return pair_loss(images, texts, scale, LABELS, same_class=False)


def gradients(model: TrainedModel) -> dict[str, Tensor]:
    model.zero_grad()
    loss_of(model).backward()
    return {name: each.grad.clone() for name, each in model.learning().items()}


@pytest.mark.parametrize("name", list(SMALL))
def test_the_gradient_of_every_parameter_is_that_of_finite_differences(name: str, lively: dict[str, Weights]):
    model = trained(SMALL[name], PAIRS, lively[name]).double()
    generator = torch.Generator().manual_seed(0)
    for parameter, gradient in gradients(model).items():
        weight = model.learning()[parameter]
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        direction *= 1e-6 / direction.norm()  # a longer step crosses kinks of ReLU
        losses = []
        with torch.no_grad():
            start = weight.clone()
            for sign in (1, -1):
                weight.copy_(start + sign * direction)
                losses.append(loss_of(model))
            weight.copy_(start)
        found, expected = float((gradient * direction).sum()), float(losses[0] - losses[1]) / 2
        assert abs(found - expected) < 1e-5 * abs(expected) + 1e-14, parameter


def test_statistics_of_batch_norms_stay_bit_for_bit_while_their_gains_learn():
    model = trained(TINY, CE, find_weights(TINY, None))
    before = {name: each.clone() for name, each in model.tensors().items()}
    optimizer = make_optimizer(model.learning(), CE)
    model.train()  # as DDP and Accelerate do
    for step in range(10):
        optimizer.zero_grad()
        images, _, _ = model(draw_crops(64, 8, seed=step))
        images[:, 0].sum().backward()
        optimizer.step()
    after = model.tensors()
    statistics = [name for name in after if "running_" in name or "num_batches" in name]
    gains = [name for name in after if name.endswith(".bn1.weight")]
    assert len(statistics) == 57
    assert gains
    assert all(torch.equal(after[name], before[name]) for name in statistics)
    assert not any(torch.equal(after[name], before[name]) for name in gains)


def test_a_frozen_text_tower_is_returned_as_the_file_has_it_and_does_not_learn():
    weights = find_weights(TINY, None)
    assert weights.path is not None
    stored = load_file(weights.path)
    model = trained(TINY, CE, weights)
    assert {stored[name].dtype for name in stored if name.startswith("transformer")} == {torch.float16}
    found = model.tensors()
    assert list(found) == list(load_model(TINY, weights).state_dict())
    for name, tensor in stored.items():
        assert torch.equal(found[name], tensor.float() if tensor.is_floating_point() else tensor), name
        assert found[name].is_contiguous()
    assert {name.split(".")[0] for name in model.learning()} == {"visual"}
    assert {name.split(".")[0] for name, _ in model.clip.named_parameters()} == {"visual", "logit_scale"}


@pytest.mark.parametrize("recipe", [CE, PAIRS])
def test_weights_do_not_change_when_their_file_does(recipe: TrainingRecipe, tmp_path: Path, lively: dict[str, Weights]):
    source = lively["small ViT"].path
    assert source is not None
    path = tmp_path / "weights.safetensors"
    data = source.read_bytes()
    path.write_bytes(data)
    model = trained(SMALL_VIT, recipe, weights_in(path))
    with path.open("r+b") as file:  # in place: those that map the file see it
        start = 8 + int.from_bytes(data[:8], "little")
        file.seek(start)
        file.write(bytes(len(data) - start))
    expected = load_file(source)
    assert all(torch.equal(each, expected[name]) for name, each in model.tensors().items())


@pytest.mark.parametrize("name", list(SMALL))
def test_a_written_model_is_the_model(name: str, tmp_path: Path, lively: dict[str, Weights]):
    model = trained(SMALL[name], PAIRS, lively[name])
    with torch.no_grad():
        for each in model.learning().values():
            each.mul_(1.01)
    save_file(model.tensors(), tmp_path / "weights.safetensors")
    again = weights_in(tmp_path / "weights.safetensors")
    crops = draw_crops(model.side, 6)
    assert torch.equal(trained(SMALL[name], PAIRS, again).embed(crops), model.embed(crops))
    tower = load_image_tower(SMALL[name], again, "fp32", CPU)
    assert (tower(crops).vectors - model.embed(crops)).abs().max() < 1e-5


@pytest.mark.parametrize("name", list(SMALL))
def test_checkpointing_changes_no_bit_of_a_gradient_and_no_statistic(name: str, lively: dict[str, Weights]):
    plain = trained(SMALL[name], PAIRS, lively[name])
    again = trained(SMALL[name], PAIRS, lively[name], checkpointing=True)
    found, expected = gradients(again), gradients(plain)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[each], expected[each]) for each in found)
    assert all(torch.equal(each, plain.tensors()[key]) for key, each in again.tensors().items())
    assert torch.equal(again.embed(draw_crops(again.side, 3)), plain.embed(draw_crops(again.side, 3)))


def test_texts_without_their_padding_give_the_same_vectors_and_gradients(lively: dict[str, Weights]):
    model = trained(SMALL_VIT, PAIRS, lively["small ViT"])
    tokens = draw_tokens(6)
    assert tokens.argmax(dim=1).max() < 8
    short = trim_tokens(model, tokens)
    assert short.shape == (6, 8)
    crops, found = draw_crops(model.side, 6), []
    for each in (tokens, short):
        model.zero_grad()
        images, texts, scale = model(crops, each)
        pair_loss(images, texts, scale, LABELS, same_class=False).backward()
        found.append([texts.detach(), *(parameter.grad.clone() for parameter in model.learning().values())])
    for whole, trimmed in zip(*found, strict=True):
        assert (whole - trimmed).abs().max() <= 2e-5 * whole.abs().max() + 1e-8


@pytest.mark.parametrize("name", list(SMALL))
def test_in_bf16_weights_and_gradients_stay_fp32_and_are_near_those_of_fp32(name: str, lively: dict[str, Weights]):
    model = trained(SMALL[name], PAIRS, lively[name], precision="bf16")
    found, expected = gradients(model), gradients(trained(SMALL[name], PAIRS, lively[name]))
    assert {each.dtype for each in (*found.values(), *model.learning().values())} == {torch.float32}
    assert {each.dtype for each in model(draw_crops(model.side, 6), draw_tokens(6))} == {torch.float32}
    ours, theirs = (torch.cat([each.flatten() for each in grads.values()]) for grads in (found, expected))
    cosine = float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0))
    assert 0.99 < cosine < 1 - 1e-7, "equal to the last bit would mean that nothing was computed in bf16"


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", list(SMALL))
def test_two_trainings_on_a_cpu_give_the_same_bits(name: str, lively: dict[str, Weights]):
    finals = []
    for _ in range(2):
        model = trained(SMALL[name], PAIRS, lively[name])
        optimizer = make_optimizer(model.learning(), PAIRS)
        for step in range(2):
            optimizer.zero_grad()
            images, texts, scale = model(draw_crops(model.side, 12, seed=step), draw_tokens(12, seed=step))
            pair_loss(images, texts, scale, torch.arange(12) % 5, same_class=True).backward()
            optimizer.step()
        finals.append({key: each.clone() for key, each in model.tensors().items()})
    assert all(torch.equal(each, finals[1][key]) for key, each in finals[0].items())


QUICK = ("RN50", "ViT-B/32")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPENAI_BACKBONES]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_of_all_nine_has_a_gradient(name: str, checkpointing: bool):
    backbone = OPENAI_BACKBONES[name]
    with FakeTensorMode():
        names = [each for each, _ in build_model(backbone, drawn=False).named_parameters()]
        model = trained(backbone, PAIRS, random_weights(backbone), checkpointing=checkpointing)
        tokens = torch.zeros(2, 16, dtype=torch.int64)
        images, texts, scale = model(torch.zeros(2, 3, backbone.side, backbone.side, dtype=torch.uint8), tokens)
        assert images.shape == texts.shape == (2, open_clip.get_model_config(backbone.architecture)["embed_dim"])
        pair_loss(images, texts, scale, torch.zeros(2, dtype=torch.int64), same_class=False).backward()
        assert list(model.learning()) == names
        assert all(each.grad is not None and each.grad.shape == each.shape for each in model.learning().values())


def measured_bytes(backbone: Backbone, recipe: TrainingRecipe, precision: str, rows: int, checkpointing: bool) -> int:
    """The peak of a second step, from the allocator's own records, with what was there before it."""
    model = trained(backbone, recipe, precision=precision, checkpointing=checkpointing)
    optimizer = make_optimizer(model.learning(), recipe)
    crops = draw_crops(model.side, rows)
    tokens = torch.ones(rows, model.clip.context_length, dtype=torch.int64) if recipe.both_towers else None

    def step() -> None:
        images, texts, scale = model(crops, tokens)
        (images.sum() if texts is None else images.sum() + texts.sum() + scale).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [each for each in profiler.profiler.kineto_results.events() if each.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    kept = sum(each.nbytes for each in (*model.parameters(), *model.buffers()))
    return kept + 2 * sum(each.nbytes for each in model.learning().values()) + peak


@pytest.mark.parametrize("backbone", [TINY, SMALL_VIT, SMALL_RESNET], ids=lambda each: each.name)
@pytest.mark.parametrize("recipe", [CE, PAIRS], ids=lambda each: each.name)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_memory_forecast_is_near_what_a_step_takes(backbone: Backbone, recipe: TrainingRecipe, checkpointing: bool):
    for precision in ("fp32", "bf16"):
        taken = measured_bytes(backbone, recipe, precision, 32, checkpointing)
        forecast = needed_bytes(backbone, recipe, precision, 32, checkpointing)
        assert 1 / 1.3 < forecast / taken < 1.3, precision


@pytest.mark.parametrize("name", list(SMALL))
def test_checkpointing_and_smaller_batches_need_less_memory(name: str):
    def need(rows: int, checkpointing: bool) -> int:
        return needed_bytes(SMALL[name], CE, "fp32", rows, checkpointing)

    assert need(64, True) < 0.8 * need(64, False)
    assert need(32, False) < 0.8 * need(64, False)
