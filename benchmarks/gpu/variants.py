"""Towers as they are, and with less work for a GPU: layer norms and pixels folded into products, cuDNN's fused sums."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastclip.models.backbones import OPENAI_BACKBONES, Backbone
from fastclip.models.rewrites import rewrite
from fastclip.models.tower import DTYPES, Embedded, ImageTower, build_model, round_weights

WAYS = {"ViT": ("as it is", "layer norms folded", "fused"), "RN": ("as it is", "fused")}
"""`fused`: in a vision transformer pixels are folded too; in a ResNet cuDNN adds and activates."""


def ways_of(name: str) -> tuple[str, ...]:
    """The ways in which a backbone's tower can be made."""
    return WAYS["ViT" if name.startswith("ViT") else "RN"]


def make_tower(name: str, way: str, device: torch.device, precision: str = "fp16") -> ImageTower:
    """The image tower of one of OpenAI's nine, with drawn weights."""
    backbone, visual, dtype = OPENAI_BACKBONES[name], _drawn(name, device), DTYPES[precision]
    first = copy.deepcopy(visual.conv1)
    if name.startswith("ViT") and way != "as it is":
        _fold_layer_norms(visual)
    rewrite(visual, dtype)
    if precision != "fp32":
        round_weights(visual, dtype)
    visual.requires_grad_(False)
    if way != "fused":
        return ImageTower(visual, backbone, precision, device)
    if name.startswith("ViT"):
        visual.conv1 = _Patches(first, backbone, dtype)
        return _OfWholePixels(visual, backbone, precision, device)
    _fuse_convolutions(visual)
    return ImageTower(visual, backbone, precision, device)


def _drawn(name: str, device: torch.device) -> Any:
    """open_clip's image half with weights of about the right size, in fp32.

    They are drawn on the device: open_clip's own drawing takes 39 s a tower for the largest.
    """
    torch.manual_seed(0)
    visual = build_model(OPENAI_BACKBONES[name], drawn=False).visual.to(device).float().eval()
    for module in visual.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                spread = 1 / math.sqrt(parameter[0].numel()) if key.endswith("weight") else 0.02
                parameter.data.normal_(0, spread)
            else:
                parameter.data.normal_(float(key == "weight"), 0.02)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
            module.running_var.fill_(1.0)
    return visual


class _PlainNorm(nn.Module):
    """A layer norm whose scale and shift are in the product behind it: one pass in 16 bits, statistics in 32."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self._shape, self._eps = norm.normalized_shape, norm.eps

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.layer_norm(tokens, self._shape, None, None, self._eps)


def _fold_layer_norms(visual: Any) -> None:
    for block in visual.transformer.resblocks:
        first, second = block.attn, block.mlp.c_fc
        for norm, weight, bias in (
            (block.ln_1, first.in_proj_weight, first.in_proj_bias),
            (block.ln_2, second.weight, second.bias),
        ):
            bias.data += weight.data @ norm.bias.data
            weight.data *= norm.weight.data
        block.ln_1, block.ln_2 = _PlainNorm(block.ln_1), _PlainNorm(block.ln_2)


class _Patches(nn.Module):
    """The patch embedding as one product of whole pixel values about zero, with the normalisation in its weights."""

    def __init__(self, convolution: nn.Conv2d, backbone: Backbone, dtype: torch.dtype) -> None:
        super().__init__()
        weight = convolution.weight.detach().float()
        mean, std = (weight.new_tensor(each).view(1, 3, 1, 1) for each in (backbone.mean, backbone.std))
        middle = (255 * mean).round()
        self._size: int = convolution.kernel_size[0]
        self._dtype = dtype
        self._middle = middle.view(3).repeat(self._size**2).to(dtype)
        self._bias = (weight * (middle / 255 - mean) / std).sum((1, 2, 3)).to(dtype)
        self._weight = (weight / (255 * std)).permute(0, 2, 3, 1).flatten(1).to(dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        batch, _, side, _ = pixels.shape
        count, size = side // self._size, self._size
        rows = pixels.permute(0, 2, 3, 1)[:, : count * size, : count * size]
        rows = rows.reshape(batch, count, size, count, size, 3).permute(0, 1, 3, 2, 4, 5)
        rows = rows.reshape(batch, count * count, size * size * 3).to(self._dtype).sub_(self._middle)
        return functional.linear(rows, self._weight, self._bias).transpose(1, 2).unflatten(2, (count, count))


class _OfWholePixels(ImageTower):
    """A tower that takes pixels as they are."""

    @torch.inference_mode()
    def __call__(self, crops: Tensor) -> Embedded:
        features = self._visual(crops).float()
        norms = features.norm(dim=-1, keepdim=True)
        return Embedded(features / norms, norms[:, 0])


class _FusedConvolution(nn.Module):
    """A convolution with its bias, a sum and a ReLU: on a GPU one kernel of cuDNN."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._weight, self._bias = convolution.weight.detach(), convolution.bias.detach()
        stride, padding, dilation = convolution.stride, convolution.padding, convolution.dilation
        self._geometry = list(stride), list(padding), list(dilation), convolution.groups

    def forward(self, maps: Tensor, residual: Tensor | None = None) -> Tensor:
        if not maps.is_cuda:
            found = functional.conv2d(maps, self._weight, self._bias, *self._geometry)
            return torch.relu(found if residual is None else found + residual)
        if residual is None:
            return torch.cudnn_convolution_relu(maps, self._weight, self._bias, *self._geometry)
        return torch.cudnn_convolution_add_relu(maps, self._weight, residual, 1.0, self._bias, *self._geometry)


class _FusedBottleneck(nn.Module):
    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = map(_FusedConvolution, (block.conv1, block.conv2, block.conv3))
        self.avgpool, self.downsample = block.avgpool, block.downsample

    def forward(self, maps: Tensor) -> Tensor:
        residual = maps if self.downsample is None else self.downsample(maps)
        return self.conv3(self.avgpool(self.conv2(self.conv1(maps))), residual)


def _fuse_convolutions(visual: Any) -> None:
    for number in "123":
        setattr(visual, f"conv{number}", _FusedConvolution(getattr(visual, f"conv{number}")))
        setattr(visual, f"act{number}", nn.Identity())
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        for number, block in enumerate(layer):
            layer[number] = _FusedBottleneck(block)
