"""Losses of fine-tuning against formulas, finite differences and each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fastclip.finetune.losses import class_loss, pair_loss, shared

LABELS = torch.tensor([0, 1, 1, 2, 0, 1, 3])
SCALE = torch.tensor(7.0, dtype=torch.float64)


def unit_rows(count: int, seed: int) -> Tensor:
    rows = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(rows, dim=1).requires_grad_()


def all_real(rows: Tensor) -> Tensor:
    return torch.ones(len(rows), dtype=torch.bool)


def whole_class_loss(images: Tensor, prototypes: Tensor, scale: Tensor = SCALE, margin: float = 0.0) -> Tensor:
    return class_loss(images, prototypes, LABELS, scale, all_real(images), len(images), margin)


@pytest.mark.parametrize("same_class", [False, True])
def test_gradients_of_the_pair_loss_are_those_of_finite_differences(same_class: bool):
    inputs = (unit_rows(7, 1), unit_rows(7, 2), SCALE.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda *each: pair_loss(*each, LABELS, same_class), inputs)


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_gradients_of_the_class_loss_are_those_of_finite_differences(margin: float):
    inputs = (unit_rows(7, 1), unit_rows(4, 2), SCALE.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda *each: whole_class_loss(*each, margin), inputs)


def test_with_one_prompt_a_class_spread_targets_give_the_loss_and_the_gradients_of_clips_own():
    images, prompts, scale = unit_rows(7, 1), unit_rows(4, 2), SCALE.clone().requires_grad_()
    found = []
    for same_class in (False, True):
        loss = pair_loss(images, prompts[LABELS], scale, LABELS, same_class)
        found.append([loss, *torch.autograd.grad(loss, (images, prompts, scale))])
    for alone, spread in zip(*found, strict=True):
        assert (alone - spread).abs().max() < 1e-12


def test_with_two_prompts_a_class_clips_own_loss_pushes_an_image_from_the_other_prompt_of_its_class():
    images, texts = unit_rows(7, 1), unit_rows(7, 2)
    alone, spread = (pair_loss(images, texts, SCALE, LABELS, same_class) for same_class in (False, True))
    assert (alone - spread).abs() > 1e-3


def test_repeated_classes_put_a_floor_under_clips_loss():
    # Of m images of a class each can have a share of 1/m at most, in both directions.
    floor = sum(math.log(int((label == LABELS).sum())) for label in LABELS) / len(LABELS)
    perfect = torch.eye(4, dtype=torch.float64)[LABELS]
    found = pair_loss(perfect, perfect, torch.tensor(100.0, dtype=torch.float64), LABELS, same_class=False)
    assert abs(float(found) - floor) < 1e-12
    for seed in range(20):
        texts = unit_rows(4, seed)[LABELS]
        assert pair_loss(unit_rows(7, 50 + seed), texts, SCALE, LABELS, same_class=False) > floor


def test_the_margin_is_that_of_clipoods_paper():
    # Margin metric softmax: exp((s_y) / τ) against exp((s_t + λ (1 - t·t_y)) / τ), a class at a time.
    images, texts = unit_rows(7, 1).detach(), unit_rows(4, 2).detach()
    losses = []
    for image, label in zip(images, LABELS.tolist(), strict=True):
        distance = [1 - float(texts[other] @ texts[label]) for other in range(4)]
        shares = [math.exp(7.0 * (float(image @ texts[other]) + 0.3 * distance[other])) for other in range(4)]
        losses.append(-math.log(shares[label] / sum(shares)))
    assert abs(float(whole_class_loss(images, texts, margin=0.3)) - sum(losses) / 7) < 1e-12


def test_rows_that_fill_a_batch_up_have_no_share_in_loss_and_gradient():
    images, prototypes = unit_rows(7, 1), unit_rows(4, 2)
    real = torch.tensor([True, True, False, True, True, False, True])
    loss = class_loss(images, prototypes, LABELS, SCALE, real, 5)
    (gradient,) = torch.autograd.grad(loss, images)
    assert not gradient[~real].any()
    alone = class_loss(images[real], prototypes, LABELS[real], SCALE, all_real(LABELS[real]), 5)
    (expected,) = torch.autograd.grad(alone, images)
    assert abs(loss - alone) < 1e-15
    assert (gradient - expected).abs().max() < 1e-15


def test_shares_of_processes_add_up_to_the_loss_of_the_whole_batch():
    images, prototypes = unit_rows(7, 1), unit_rows(4, 2)
    shares = [
        class_loss(images[rows], prototypes, LABELS[rows], SCALE, all_real(LABELS[rows]), 7)
        for rows in (slice(0, 3), slice(3, 4), slice(4, 7))
    ]
    assert abs(sum(shares) - whole_class_loss(images, prototypes)) < 1e-14


def test_a_shared_scale_keeps_its_value_and_has_a_share_of_its_gradient():
    scale = torch.tensor(math.pi, requires_grad=True)
    found = shared(scale, 3)
    assert found == scale
    (5 * found).backward()
    assert scale.grad is not None
    assert abs(float(scale.grad) - 5 / 3) < 1e-6
