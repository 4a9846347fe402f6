"""Memory that training needs, counted before any weight is loaded."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastclip.finetune.losses import pair_loss
from fastclip.finetune.model import Precision, TrainedModel
from fastclip.finetune.training_recipes import TrainingRecipe
from fastclip.models.backbones import Backbone
from fastclip.models.weights import random_weights


def needed_bytes(
    backbone: Backbone,
    recipe: TrainingRecipe,
    precision: Precision,
    rows: int,
    checkpointing: bool,
    *,
    text_length: int | None = None,
) -> int:
    """Bytes for steps of `rows` images a process, without libraries, the loader and the allocator's slack.

    They are counted on a step that computes nothing. A text an image is assumed where the text tower learns, of
    `text_length` tokens, by default of as many as fit.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # loads torch's compiler

    with FakeTensorMode():
        model = TrainedModel(
            backbone, random_weights(backbone), recipe, torch.device("cpu"), precision=precision,
            checkpointing=checkpointing,
        )  # fmt: skip
        learning = list(model.learning().values())
        for each in learning:
            each.grad = torch.zeros_like(each)  # counted below, and not while they come and go
        with _Peak(model) as peak:
            _one_step(model, recipe, rows, text_length)
    kept = sum(each.nbytes for each in (*model.parameters(), *model.buffers()))
    copies = 4 if recipe.averaged else 3  # a gradient, two moments, and the mean over steps
    return kept + copies * sum(each.nbytes for each in learning) + peak.bytes


def _one_step(model: TrainedModel, recipe: TrainingRecipe, rows: int, text_length: int | None) -> None:
    side = model.side
    tokens = None
    if recipe.both_towers:
        tokens = torch.zeros(rows, text_length or model.clip.context_length, dtype=torch.int64)
    images, texts, scale = model(torch.zeros(rows, 3, side, side, dtype=torch.uint8), tokens)
    if texts is None:
        images.sum().backward()
    else:
        pair_loss(images, texts, scale, torch.zeros(rows, dtype=torch.int64), same_class=False).backward()


class _Peak(TorchDispatchMode):
    """The most bytes that lived at a time, without those of `model`."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        owned = [*model.parameters(), *model.buffers(), *(each.grad for each in model.parameters())]
        self._seen = {_key(each) for each in owned if each is not None}
        self._alive = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and (key := _key(each)) not in self._seen:
                storage = each.untyped_storage()
                self._seen.add(key)
                self._alive += storage.nbytes()
                weakref.finalize(storage, partial(self._freed, key, storage.nbytes()))
        self.bytes = max(self.bytes, self._alive)
        return result

    def _freed(self, key: int, count: int) -> None:
        self._seen.discard(key)
        self._alive -= count


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
