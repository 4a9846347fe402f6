"""The cost of an image tower: weights, and arithmetic and working memory for one image."""

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
        """Bytes for `batches` batches at a time, estimated from below: without libraries, tensors that live beside the
        widest operation, and the allocator's slack.
        """
        return (self.parameters + self.activations * batches * batch_size) * (4 if precision == "fp32" else 2)


def tower_memory(backbone: Backbone) -> TowerMemory:
    """Memory that the image tower of `backbone` needs."""
    counted = _COUNTED.get(backbone.name)
    return counted[0] if counted else count_memory(backbone)


def flops(backbone: Backbone) -> int:
    """Floating-point operations for one image, two for a multiply-add, as fastclip computes it: see `rewrite`."""
    counted = _COUNTED.get(backbone.name)
    return counted[1] if counted else count_flops(backbone)


_COUNTED = {
    "RN50": (TowerMemory(38_290_272, 1_605_632), 10_776_920_064),
    "RN101": (TowerMemory(56_207_200, 1_605_632), 18_199_265_280),
    "RN50x4": (TowerMemory(87_082_200, 3_317_760), 39_071_477_760),
    "RN50x16": (TowerMemory(167_231_952, 7_077_888), 140_384_600_064),
    "RN50x64": (TowerMemory(420_175_040, 12_845_056), 507_303_559_168),
    "ViT-B/32": (TowerMemory(87_849_216, 192_000), 8_118_153_216),
    "ViT-B/16": (TowerMemory(86_192_640, 931_416), 32_240_415_744),
    "ViT-L/14": (TowerMemory(303_966_208, 2_113_568), 155_329_392_640),
    "ViT-L/14@336px": (TowerMemory(304_293_888, 10_653_728), 366_098_411_520),
}
"""Results of `count_memory` and `count_flops` for OpenAI's nine: counting begins with two seconds of imports."""


@cache
def count_memory(backbone: Backbone) -> TowerMemory:
    """`tower_memory`, counted."""
    visual = _on_meta(backbone)
    with _WidestOperation({_storage(each) for each in visual.parameters()}) as widest:
        visual(_one_image(backbone))
    return TowerMemory(sum(each.numel() for each in visual.parameters()), widest.numbers)


@cache
def count_flops(backbone: Backbone) -> int:
    """`flops`, counted."""
    from torch.utils.flop_counter import FlopCounterMode  # loads torch's compiler

    with FlopCounterMode(display=False) as counter:
        _on_meta(backbone)(_one_image(backbone))
    return int(counter.get_total_flops())


def _on_meta(backbone: Backbone) -> nn.Module:
    visual: nn.Module = build_model(backbone, drawn=False).visual.to("meta").eval()
    rewrite(visual)
    return visual.requires_grad_(False)


def _one_image(backbone: Backbone) -> Tensor:
    return torch.zeros(1, 3, backbone.side, backbone.side, device="meta")


class _WidestOperation(TorchDispatchMode):
    """The most numbers, without parameters, that any operation reads and writes."""

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
