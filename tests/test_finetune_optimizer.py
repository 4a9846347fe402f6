"""Steps of fine-tuning: by hand, by name, and after a restart."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from drawn_training import SMALL_RESNET, SMALL_VIT, draw_crops, draw_tokens, trained
from torch import Tensor, nn

from fastclip.errors import UserError
from fastclip.finetune.losses import class_loss, pair_loss
from fastclip.finetune.model import TrainedModel
from fastclip.finetune.optimizer import (
    Average,
    after_step,
    halved,
    is_decayed,
    learning_rate,
    load_optimizer,
    make_optimizer,
    optimizer_tensors,
)
from fastclip.finetune.training_recipes import TRAINING_RECIPES, TrainingRecipe, find_training_recipe
from fastclip.models.backbones import TINY
from fastclip.models.tower import load_model
from fastclip.models.weights import find_weights

CE, CONTRASTIVE, DEMO = (TRAINING_RECIPES[name] for name in ("ce", "contrastive", "transferlearning"))
CLIPOOD = TRAINING_RECIPES["clipood"]


def one_step(recipe: TrainingRecipe, weight: list[float], gradient: list[float]) -> Tensor:
    learning = {"weight": nn.Parameter(torch.tensor([weight]))}
    learning["weight"].grad = torch.tensor([gradient])
    make_optimizer(learning, recipe).step()
    return learning["weight"].detach()[0]


def test_a_first_step_of_adamw_is_the_one_by_hand():
    # Both moments are corrected to the gradient and its square: the step is lr·sign, after a decay of lr·wd.
    found = one_step(CE, [1.0, -2.0], [0.3, -0.01])
    expected = [1.0 * (1 - 1e-5 * 0.1) - 1e-5, -2.0 * (1 - 1e-5 * 0.1) + 1e-5]
    assert (found - torch.tensor(expected)).abs().max() < 3e-7


def test_a_first_step_of_adam_puts_the_decay_into_the_gradient():
    # 0.2 · 1 − 0.3 < 0, so the weight grows; AdamW would shrink it by its own share and then grow it.
    found = one_step(DEMO, [1.0, -2.0, 0.5], [-0.3, 0.01, -0.1 + 1e-6])
    signs = [0.2 * 1 - 0.3, 0.2 * -2 + 0.01]
    expected = [1 - 5e-5 * math.copysign(1, signs[0]), -2 - 5e-5 * math.copysign(1, signs[1])]
    assert (found[:2] - torch.tensor(expected)).abs().max() < 3e-7
    # The sum is as small as eps: 1e-6 / (1e-6 + 1e-6) of a step, up to the rounding of 0.1 in fp32.
    assert abs(float(found[2]) - (0.5 - 2.5e-5)) < 1e-6


@pytest.mark.parametrize("backbone", [SMALL_VIT, SMALL_RESNET], ids=lambda each: each.name)
def test_gains_biases_and_the_logit_scale_do_not_decay_but_with_recipes_that_say_so(backbone):
    model = trained(backbone, CONTRASTIVE)
    parameters = model.learning()
    decaying = {name for name, each in parameters.items() if is_decayed(name, each)}
    staying = {
        name
        for name in parameters
        if name.endswith(("bias", "logit_scale", "class_embedding")) or ".bn" in name or "ln_" in name
        or ".downsample.1." in name
    }  # fmt: skip
    assert decaying == parameters.keys() - staying
    assert {"logit_scale", "ln_final.weight"} <= staying
    decays = {id(each): group["weight_decay"] for group in make_optimizer(parameters, CONTRASTIVE).param_groups
              for each in group["params"]}  # fmt: skip
    assert {name: decays[id(each)] for name, each in parameters.items()} == {
        name: 0.1 if name in decaying else 0.0 for name in parameters
    }
    (whole,) = make_optimizer(parameters, DEMO).param_groups
    assert (whole["weight_decay"], len(whole["params"])) == (0.2, len(parameters))


def test_the_learning_rate_grows_for_the_warm_up_and_falls_to_zero_by_a_cosine():
    long = [learning_rate(CE, step, 10_500) for step in (0, 249, 499, 500, 5_500, 10_499)]
    assert long == pytest.approx([1e-5 / 500, 5e-6, 1e-5, 1e-5, 5e-6, 0], abs=1e-12)
    short = [learning_rate(CE, step, 100) for step in (0, 9, 10, 55)]
    assert short == pytest.approx([1e-6, 1e-5, 1e-5, 5e-6], abs=1e-12)
    assert [learning_rate(CE, step, 1) for step in range(1)] == [1e-5]
    assert {learning_rate(DEMO, step, 7) for step in range(7)} == {5e-5}
    assert learning_rate(CLIPOOD, 0, 5_000) == 5e-6


@torch.no_grad()
def test_a_capped_logit_scale_stays_at_100_or_below():
    model = trained(SMALL_VIT, CONTRASTIVE)
    for start, expected in ((5.0, 100.0), (3.0, math.exp(3))):
        model.clip.logit_scale.fill_(start)
        after_step(model, CONTRASTIVE)
        assert float(model.scale) == pytest.approx(expected, rel=1e-6)
    model.clip.logit_scale.fill_(5.0)
    after_step(model, DEMO)
    assert float(model.scale) == pytest.approx(math.exp(5))


def test_the_round_trip_to_fp16_eats_the_steps_of_large_weights():
    recipe = replace(DEMO, fp16_round_trip=True)
    model = trained(SMALL_VIT, recipe)
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    weight = model.learning()[name]
    with torch.no_grad():
        magnitudes = torch.linspace(0.001, 0.5, weight.numel()).reshape(weight.shape)
        weight.copy_(magnitudes.half())
    before = weight.detach().clone()
    optimizer = make_optimizer({name: weight}, recipe)
    for _ in range(5):
        weight.grad = torch.ones_like(weight)  # the same way each time, a step of 5e-5
        optimizer.step()
        after_step(model, recipe)
    moved = before - weight.detach()
    # Half a spacing is 6.1e-5 from 0.125 on. At 0.125 itself it is 3.1e-5 downwards.
    assert not moved[before > 0.125].any()
    assert (moved[before < 0.06] > 1e-4).all()
    assert torch.equal(weight, weight.half().float())


def test_tensors_that_are_rounded_are_those_of_openais_conversion():
    for backbone in (SMALL_VIT, SMALL_RESNET):
        model = trained(backbone, DEMO)
        names = {id(each): name for name, each in model.learning().items()}
        rounded = [names[id(each)] for each in halved(model.clip)]
        assert len(rounded) == len(set(rounded))
        kept = set(names.values()) - set(rounded)
        assert {name for name in kept if "ln_" not in name and ".bn" not in name and "downsample.1" not in name} == {
            "logit_scale", "positional_embedding", "token_embedding.weight",
            *(["visual.class_embedding", "visual.positional_embedding"] if backbone is SMALL_VIT else
              ["visual.attnpool.positional_embedding"]),
        }  # fmt: skip


def step_of(model: TrainedModel, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    images, texts, scale = model(draw_crops(model.side, 4, seed), draw_tokens(4, seed))
    pair_loss(images, texts, scale, torch.arange(4), same_class=False).backward()
    optimizer.step()


@pytest.mark.parametrize("recipe", [CONTRASTIVE, DEMO], ids=lambda each: each.name)
def test_a_restarted_optimizer_goes_on_to_the_same_bits(recipe: TrainingRecipe):
    model = trained(SMALL_VIT, recipe)
    optimizer = make_optimizer(model.learning(), recipe)
    assert optimizer_tensors(optimizer, model.learning()) == {}
    for step in range(2):
        step_of(model, optimizer, step)
    weights = {name: each.clone() for name, each in model.tensors().items()}
    kept = {name: each.clone() for name, each in optimizer_tensors(optimizer, model.learning()).items()}
    again = trained(SMALL_VIT, recipe)
    again.clip.load_state_dict(weights)
    restarted = make_optimizer(again.learning(), recipe)
    load_optimizer(restarted, again.learning(), kept, 2)
    for step in range(2, 4):
        step_of(model, optimizer, step)
        step_of(again, restarted, step)
    assert all(torch.equal(each, model.tensors()[name]) for name, each in again.tensors().items())


def test_the_mean_over_steps_weighs_them_by_beta_and_survives_a_restart():
    steps, generator = 6, torch.Generator().manual_seed(0)
    states = [torch.randn(3, 4, generator=generator) for _ in range(steps + 1)]
    learning = {"weight": nn.Parameter(states[0].clone())}
    average = Average(learning, steps)
    for step, state in enumerate(states[1:], 1):
        if step == 4:
            kept = {name: each.clone() for name, each in average.tensors().items()}
            average = Average(learning, steps)
            average.load(kept, 3)
        learning["weight"].data.copy_(state)
        average.update(step)
    places = [(step + 0.5) / (steps + 1) for step in range(steps + 1)]
    # The density of Beta(a, b) at x is x^(a-1) (1-x)^(b-1) Γ(a+b) / (Γ(a) Γ(b)).
    weights = [x**-0.5 * (1 - x) ** -0.5 * math.gamma(1) / math.gamma(0.5) ** 2 for x in places]
    expected = sum(weight * state.double() for weight, state in zip(weights, states, strict=True)) / sum(weights)
    assert (average.tensors()["weight"] - expected).abs().max() < 1e-6
    with average.in_place():
        assert (learning["weight"] - expected).abs().max() < 1e-6
    assert torch.equal(learning["weight"], states[-1])


def test_the_mean_after_a_restart_has_the_bits_of_an_uninterrupted_one():
    found = []
    for restart in (False, True):
        learning = {"weight": nn.Parameter(torch.full((5,), 0.1))}
        average = Average(learning, 20)
        for step in range(1, 21):
            learning["weight"].data.mul_(1.1)
            average.update(step)
            if restart and step == 7:
                kept = average.tensors()
                average = Average(learning, 20)
                average.load(kept, step)
        found.append(average.tensors()["weight"])
    assert torch.equal(*found)


def test_training_by_the_recipe_ce_is_a_plain_loop():
    """Bit for bit: the same model, loss and steps, written down in PyTorch alone."""
    weights, labels, steps = find_weights(TINY, None), torch.arange(8) % 3, 12
    prototypes = nn.functional.normalize(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)), dim=1)

    plain = load_model(TINY, weights)
    plain.float().requires_grad_(True)
    matrices = [each for each in plain.visual.parameters() if each.ndim >= 2]
    others = [each for each in plain.visual.parameters() if each.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.999), eps=1e-8, fused=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (TINY.mean, TINY.std))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-5 if step < 1 else 1e-5 * (1 + math.cos(math.pi * (step - 1) / (steps - 1))) / 2
        vectors = nn.functional.normalize(plain.visual((draw_crops(64, 8, step) / 255 - mean) / std), dim=1)
        logits = plain.logit_scale.exp().detach() * vectors @ prototypes.T
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum") / 8
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.visual.parameters(), 1.0)
        optimizer.step()

    model = trained(TINY, CE, weights)
    optimizer = make_optimizer(model.learning(), CE)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(CE, step, steps)
        images, _, scale = model(draw_crops(64, 8, step))
        optimizer.zero_grad()
        class_loss(images, prototypes, labels, scale, torch.ones(8, dtype=torch.bool), 8).backward()
        nn.utils.clip_grad_norm_(model.learning().values(), CE.clip or 0)
        optimizer.step()
        after_step(model, CE)

    expected, found = plain.state_dict(), model.tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name].float()) for name in found)
    assert not torch.equal(found["visual.conv1.weight"], trained(TINY, CE, weights).tensors()["visual.conv1.weight"])


def test_an_unknown_recipe_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="sgd") as refused:
        find_training_recipe("sgd")
    assert "ce | contrastive | flyp | clipood | transferlearning" in refused.value.fix
