"""Image towers that compute the same with less arithmetic: open_clip's compute much that they throw away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.fusion import fuse_conv_bn_weights


def rewrite(visual: Any, dtype: torch.dtype = torch.float32) -> None:
    """Change an image tower in place.

    Each new weight is rounded to `dtype` as soon as it is computed: writing a whole tower in 32 bits would take as long
    again.

    Embeddings stay equal to OpenAI's to fp32 rounding. Images/s on two cores (`benchmarks/log.md`): folding makes RN50
    2.5 times as fast in bf16, first tokens alone add a tenth to RN50 and 8 % to ViT-B/32, QuickGELU in one pass 5 %.
    """
    from open_clip.modified_resnet import AttentionPool2d
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    fold_batch_norms(visual, dtype)
    fold_quick_gelu(visual, dtype)
    if isinstance(getattr(visual, "attnpool", None), AttentionPool2d):
        visual.attnpool = FirstTokenPool(visual.attnpool)
    if isinstance(visual, VisionTransformer) and visual.pool_type == "tok" and visual.attn_pool is None:
        blocks = visual.transformer.resblocks
        if visual.transformer.batch_first and all(type(block) is ResidualAttentionBlock for block in blocks):
            blocks[-1] = FirstTokenBlock(blocks[-1])
            for block in blocks[:-1]:
                block.attn = FusedAttention(block.attn)


def fold_batch_norms(model: nn.Module, dtype: torch.dtype) -> None:
    """Multiply every frozen batch norm of a CLIP ResNet into the convolution before it."""
    for module in list(model.modules()):
        children: dict[str, Any] = dict(module.named_children())
        pairs = [(name, name.replace("conv", "bn")) for name in children if name.startswith("conv")]
        pairs += [("0", "1")] if isinstance(module, nn.Sequential) else []  # the way round a block of another width
        for conv, norm in pairs:
            if isinstance(children.get(norm), nn.BatchNorm2d):
                _fold(children[norm], children[conv])
                children[conv].to(dtype)
                setattr(module, norm, nn.Identity())


def _fold(norm: Any, conv: Any) -> None:
    # Not `fuse_conv_bn_eval`, which copies the convolution before: two thirds of the time.
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def fold_quick_gelu(model: nn.Module, dtype: torch.dtype) -> None:
    """Make x·sigmoid(1.702·x) between two products one pass instead of three: it is silu(1.702·x) / 1.702, and the
    products take the factors.
    """
    from open_clip.transformer import QuickGELU

    for module in model.modules():
        parts: dict[str, Any] = dict(module.named_children())
        if parts.keys() == {"c_fc", "gelu", "c_proj"} and type(parts["gelu"]) is QuickGELU:
            widen, narrow = parts["c_fc"], parts["c_proj"]
            widen.weight, widen.bias = (_scaled(each, _QUICK_GELU) for each in (widen.weight, widen.bias))
            narrow.weight = _scaled(narrow.weight, 1 / _QUICK_GELU)
            widen.to(dtype)
            narrow.to(dtype)
            module.gelu = nn.SiLU(inplace=True)


def _scaled(parameter: nn.Parameter, factor: float) -> nn.Parameter:
    return nn.Parameter(parameter * factor, requires_grad=False)


_QUICK_GELU = 1.702
"""open_clip's and OpenAI's factor."""


def pack_products(visual: Any, dtype: torch.dtype) -> None:
    """Let oneDNN compute each convolution or product together with the activation after it, on an Intel or AMD CPU.

    Weights are arranged once instead of for every batch. torch's compiler chooses the same operators, but takes 12
    seconds to build a tower with them. RN50 12.0 instead of 10.5 images/s a core (Xeon, fp32), ViT-B/32 22 instead of
    19.5 (EPYC, bf16).
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    usable = torch.backends.mkldnn.is_available() and "AVX" in torch.backends.cpu.get_cpu_capability()
    if not usable or (dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return
    if isinstance(visual, ModifiedResNet) and dtype in (torch.float32, torch.bfloat16):
        for number in "123":
            setattr(visual, f"conv{number}", PackedConvolution(getattr(visual, f"conv{number}"), "relu"))
            setattr(visual, f"act{number}", nn.Identity())
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            for index, block in enumerate(layer):
                layer[index] = PackedBottleneck(block)
    elif isinstance(visual, VisionTransformer) and dtype == torch.bfloat16:
        visual.conv1 = PackedConvolution(visual.conv1, "none")
        for block in visual.transformer.resblocks:
            if isinstance(getattr(block, "attn", None), FusedAttention):
                pack_block(block)


def pack_block(block: Any) -> None:
    """Pack the four products of a vision transformer's block, a SiLU inside of the third."""
    block.attn.in_proj, block.attn.out_proj = PackedLinear(block.attn.in_proj), PackedLinear(block.attn.out_proj)
    mlp = block.mlp
    silu = isinstance(mlp.gelu, nn.SiLU)
    mlp.c_fc, mlp.c_proj = PackedLinear(mlp.c_fc, "swish" if silu else "none"), PackedLinear(mlp.c_proj)
    mlp.gelu = nn.Identity() if silu else mlp.gelu


class Packed(nn.Module):
    """A layer whose weights are arranged for the shape of its first batch, once."""

    _packing = threading.Lock()

    def __init__(self, layer: nn.Linear | nn.Conv2d, activation: str) -> None:
        super().__init__()
        self._weight: Tensor | None = layer.weight
        self._bias = layer.bias
        self._packed: Tensor | None = None
        self._activation = activation

    def packed(self, arrange: Callable[[Tensor | None], Tensor]) -> Tensor:
        """The weights as the first call's `arrange` makes them."""
        if self._packed is None:
            with self._packing:
                if self._packed is None:
                    self._packed = arrange(self._weight)
                    self._weight = None  # no second copy
        return self._packed


class PackedLinear(Packed):
    """A product and its activation in one pass."""

    def __init__(self, layer: nn.Linear, activation: str = "none") -> None:
        super().__init__(layer, activation)

    def forward(self, tokens: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n wide"]:
        rows = tokens.shape[:-1].numel()
        weight = self.packed(lambda weight: torch.ops.mkldnn._reorder_linear_weight(weight, rows))
        return torch.ops.mkldnn._linear_pointwise(tokens, weight, self._bias, self._activation, [], "")


class PackedConvolution(Packed):
    """A convolution and its activation in one pass."""

    def __init__(self, layer: nn.Conv2d, activation: str) -> None:
        super().__init__(layer, activation)
        self._geometry = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups

    def forward(self, maps: Tensor, residual: Tensor | None = None) -> Tensor:
        """With `residual`: the sum of both after the activation, in the place of `residual`."""
        shape = list(maps.shape)
        weight = self.packed(
            lambda weight: torch.ops.mkldnn._reorder_convolution_weight(weight, *self._geometry, shape)
        )
        if residual is None:
            return torch.ops.mkldnn._convolution_pointwise(
                maps, weight, self._bias, *self._geometry, self._activation, [], ""
            )
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            residual, maps, weight, self._bias, *self._geometry, "add", 1.0, self._activation, [], ""
        )


class PackedBottleneck(nn.Module):
    """A CLIP ResNet's block: its activations and its sum inside of its convolutions."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv1, self.conv2 = PackedConvolution(block.conv1, "relu"), PackedConvolution(block.conv2, "relu")
        self.avgpool = block.avgpool
        self.conv3 = PackedConvolution(block.conv3, "relu")
        self.downsample: nn.Module | None = None
        if block.downsample is not None:
            pool, convolution, _ = block.downsample
            self.downsample = nn.Sequential(pool, PackedConvolution(convolution, "none"))

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.avgpool(self.conv2(self.conv1(maps)))
        return self.conv3(inner, maps if self.downsample is None else self.downsample(maps))


class FusedAttention(nn.Module):
    """torch's `MultiheadAttention` of tokens on themselves without a mask, as one fused operation between two products.

    Its own fast path rounds the scores to 16 bits and rearranges every third of the products once more.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self._heads = attention.num_heads
        self.in_proj = _linear(attention.in_proj_weight, attention.in_proj_bias)
        self.out_proj = attention.out_proj

    def forward(
        self, tokens: Float[Tensor, "batch n width"], *_: Tensor, need_weights: bool = False, attn_mask: None = None
    ) -> tuple[Float[Tensor, "batch n width"], None]:
        """Takes the arguments of torch's own, which is given the tokens three times."""
        projected = self.in_proj(tokens).chunk(3, dim=-1)
        heads = (part.unflatten(2, (self._heads, -1)).transpose(1, 2) for part in projected)
        return self.out_proj(scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)), None


class FirstTokenAttention(nn.Module):
    """Attention of the first token alone, without making every token's key and value.

    A score is (Q x₀)·(K x) = (Kᵀ Q x₀)·x. The bias of a key adds the same to all scores, so it changes no weight. The
    weighted sum of values is the value of the weighted sum. So K and V multiply one vector a head, not every token.
    """

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value = query, key, value
        self._heads = heads

    def forward(self, tokens: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch width"]:
        key, value = (each.weight.unflatten(0, (self._heads, -1)) for each in (self.key, self.value))
        query = self.query(tokens[:, 0]).unflatten(1, (self._heads, -1)).transpose(0, 1)
        asked = torch.bmm(query, key).transpose(0, 1)
        exact = tokens.float()  # scores and weights in 32 bits, as fused attention has them
        scores = torch.bmm(asked.float(), exact.transpose(1, 2)) / query.shape[2] ** 0.5
        seen = torch.bmm(scores.softmax(dim=2), exact).to(tokens.dtype)
        answers = torch.bmm(seen.transpose(0, 1), value.transpose(1, 2))
        return answers.transpose(0, 1).flatten(1) + self.value.bias


class FirstTokenPool(nn.Module):
    """A CLIP ResNet's attention pool, which returns the first token only."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.positional_embedding = pool.positional_embedding
        self.attend = FirstTokenAttention(pool.q_proj, pool.k_proj, pool.v_proj, pool.num_heads)
        self.c_proj = pool.c_proj

    def forward(self, maps: Float[Tensor, "batch width height breadth"]) -> Float[Tensor, "batch dim"]:
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        return self.c_proj(self.attend(tokens + self.positional_embedding.to(tokens.dtype)))


class FirstTokenBlock(nn.Module):
    """The last block of a vision transformer for the first token only: no other is read after it."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        attention = block.attn
        query, key, value = map(_linear, attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3))
        self.attend = FirstTokenAttention(query, key, value, attention.num_heads)
        self.out_proj = attention.out_proj
        self.ln_1, self.ls_1, self.ln_2, self.mlp, self.ls_2 = block.ln_1, block.ls_1, block.ln_2, block.mlp, block.ls_2

    def forward(self, tokens: Float[Tensor, "batch n width"], attn_mask: None = None) -> Float[Tensor, "batch 1 width"]:
        first = tokens[:, 0] + self.ls_1(self.out_proj(self.attend(self.ln_1(tokens))))
        return (first + self.ls_2(self.mlp(self.ln_2(first)))).unsqueeze(1)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = (nn.Parameter(each, requires_grad=False) for each in (weight, bias))
    return layer
