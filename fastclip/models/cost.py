"""What an image tower costs: weights, arithmetic and working memory, counted on the meta device without any weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastclip.models.backbones import Backbone
from fastclip.models.rewrites import rewrite
from fastclip.models.tower import build_model


@dataclass(frozen=True)
class TowerMemory:
    """Numbers, not bytes: two bytes each in bf16 and fp16, four in fp32."""

    parameters: int
    activations: int
    """Numbers that one image needs at the widest place: inputs and outputs of a single operation."""

    def bytes(self, precision: str, batches: int, batch_size: int) -> int:
        """With `batches` batches at a time. An estimate from below: libraries, what lies beside the widest operation,
        and the allocator's slack are not in it.
        """
        return (self.parameters + self.activations * batches * batch_size) * (4 if precision == "fp32" else 2)


@cache
def tower_memory(backbone: Backbone) -> TowerMemory:
    """What the image tower of `backbone` needs."""
    visual = _on_meta(backbone)
    with _WidestOperation({_storage(each) for each in visual.parameters()}) as widest:
        visual(_one_image(backbone))
    return TowerMemory(sum(each.numel() for each in visual.parameters()), widest.numbers)


@cache
def flops(backbone: Backbone) -> int:
    """Floating-point operations for one image, two for a multiply-add, as fastclip computes it: see `rewrite`."""
    from torch.utils.flop_counter import FlopCounterMode  # loads torch's compiler

    with FlopCounterMode(display=False) as counter:
        _on_meta(backbone)(_one_image(backbone))
    return int(counter.get_total_flops())


def _on_meta(backbone: Backbone) -> nn.Module:
    visual: nn.Module = build_model(backbone, "fp32", meta=True).visual.to("meta").eval()
    rewrite(visual)
    return visual.requires_grad_(False)


def _one_image(backbone: Backbone) -> Tensor:
    return torch.zeros(1, 3, backbone.side, backbone.side, device="meta")


class _WidestOperation(TorchDispatchMode):
    """The most numbers, parameters aside, that any operation has before it and behind it."""

    def __init__(self, parameters: set[int]) -> None:
        super().__init__()
        self._parameters = parameters
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        storages = {
            _storage(each): each.numel()
            for each in tree_leaves((args, kwargs, result))
            if isinstance(each, Tensor) and _storage(each) not in self._parameters
        }
        self.numbers = max(self.numbers, sum(storages.values()))
        return result


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
