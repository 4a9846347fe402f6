"""A CLIP whose weights learn, in fp32, under the names that open_clip gives them."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fastclip.finetune.training_recipes import TrainingRecipe
from fastclip.models.backbones import Backbone
from fastclip.models.tower import load_model
from fastclip.models.weights import Weights

Precision = Literal["fp32", "bf16"]


class TrainedModel(nn.Module):
    """open_clip's model of a backbone in fp32; its image tower learns, its text tower where the recipe says so.

    It never leaves eval mode, so that the statistics of batch norms stay those of the file; their gains and biases
    learn. A text tower that does not learn is kept aside, as the file has it, and takes no memory of the device.

    All that needs a gradient goes through `forward`, so that it can stand inside DDP. Every learning parameter has a
    gradient there, if texts are given where the text tower learns.
    """

    mean: Tensor
    std: Tensor
    side: int

    def __init__(
        self,
        backbone: Backbone,
        weights: Weights,
        recipe: TrainingRecipe,
        device: torch.device,
        *,
        precision: Precision,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        model = load_model(backbone, weights)
        if checkpointing:
            recompute_blocks(model)
        self._aside = {} if recipe.both_towers else _text_half(model)
        self.side = backbone.side
        self._order = tuple(model.state_dict())
        self.clip: Any = (model if recipe.both_towers else _ImageHalf(model)).eval()
        self._format = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        _own(self.clip, device, self._format)
        self.clip.requires_grad_(True)
        self.clip.logit_scale.requires_grad_(recipe.logit_scale != "fixed")
        if getattr(self.clip, "logit_bias", None) is not None:
            self.clip.logit_bias.requires_grad_(False)  # no loss of ours has it
        for name, values in (("mean", backbone.mean), ("std", backbone.std)):
            self.register_buffer(name, torch.tensor(values, device=device).view(1, 3, 1, 1), persistent=False)
        self._autocast = precision == "bf16"

    def forward(
        self, crops: UInt8[Tensor, "batch 3 side side"], tokens: Int64[Tensor, "texts length"] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "texts dim"] | None, Float[Tensor, ""]]:
        """Unit vectors of RGB crops and of texts, and the factor of their products in logits: exp(logit_scale)."""
        images = self._unit(functools.partial(self.clip.visual, self._normalised(crops)))
        texts = None if tokens is None else self._unit(functools.partial(encode_text, self.clip, tokens))
        return images, texts, self.scale

    @property
    def scale(self) -> Float[Tensor, ""]:
        """exp(logit_scale), with a gradient where it learns."""
        scale: Tensor = self.clip.logit_scale.exp().reshape(())
        return scale

    def train(self, mode: bool = True) -> TrainedModel:
        """Nothing: DDP and Accelerate ask for train mode, in which the statistics of batch norms would move."""
        return self

    @torch.no_grad()
    def embed(self, crops: UInt8[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch dim"]:
        """Unit vectors without a gradient, to count held-out images."""
        return self._unit(functools.partial(self.clip.visual, self._normalised(crops)))

    @torch.no_grad()
    def embed_texts(self, tokens: Int64[Tensor, "texts length"]) -> Float[Tensor, "texts dim"]:
        """Unit vectors of texts without a gradient, to count held-out images."""
        return self._unit(functools.partial(encode_text, self.clip, tokens))

    def learning(self) -> dict[str, nn.Parameter]:
        """Parameters that learn, by open_clip's names, in open_clip's order."""
        return {name: each for name, each in self.clip.named_parameters() if each.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """The whole state by open_clip's names, on the CPU, in fp32, for a weights file. Not a copy where it need not
        be one: write it before the next step.
        """
        state = {**self._aside, **self.clip.state_dict()}
        floats = {name: state[name].detach().cpu().contiguous() for name in self._order}
        return {name: each.float() if each.is_floating_point() else each for name, each in floats.items()}

    def _normalised(self, crops: UInt8[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch 3 side side"]:
        """As `ImageTower` does it."""
        pixels = crops.to(self.mean.dtype).div_(255).sub_(self.mean).div_(self.std)
        return pixels.contiguous(memory_format=self._format)

    def _unit(self, encode: Any) -> Tensor:
        """What `encode` returns in the precision of the training, made unit vectors in that of the weights."""
        with torch.autocast(self.mean.device.type, torch.bfloat16, enabled=self._autocast):
            features = encode()
        return functional.normalize(features.to(self.mean.dtype), dim=-1)


def encode_text(model: Any, tokens: Int64[Tensor, "texts length"]) -> Float[Tensor, "texts dim"]:
    """Features of texts, as open_clip's `encode_text` returns them. `tokens` may be cut by `trim_tokens`."""
    from open_clip.transformer import text_global_pool

    if tokens.shape[1] == model.context_length:
        features: Tensor = model.encode_text(tokens)
        return features
    length = tokens.shape[1]
    vectors = model.token_embedding(tokens) + model.positional_embedding[:length]
    vectors = model.ln_final(model.transformer(vectors, attn_mask=model.attn_mask[:length, :length]))
    pooled = text_global_pool(vectors, tokens, model.text_pool_type, eos_token_id=getattr(model, "text_eos_id", None))
    projection = model.text_projection
    if projection is None or isinstance(projection, nn.Linear):
        return pooled if projection is None else projection(pooled)
    return pooled @ projection


def trim_tokens(model: TrainedModel, tokens: Int64[Tensor, "texts length"]) -> Int64[Tensor, "texts shorter"]:
    """`tokens` without padding that no text uses. A causal tower reads a text at its end token and never looks further,
    so that the gradients are the same; 16 tokens cost a fifth of 77.
    """
    clip = model.clip
    if getattr(clip, "text_pool_type", None) != "argmax" or getattr(clip, "attn_mask", None) is None:
        return tokens
    used = int(tokens.argmax(dim=1).max()) + 1  # the end token has the highest number
    return tokens[:, : min(-(-used // 8) * 8, tokens.shape[1])]


def recompute_blocks(model: Any) -> None:
    """Make every residual block of both towers keep its input alone, and compute the rest again for the gradient.

    open_clip does so for transformers; for its ResNets the same call does nothing.
    """
    from open_clip.modified_resnet import Bottleneck

    model.set_grad_checkpointing(True)
    for block in model.modules():
        if isinstance(block, Bottleneck):
            # No dropout is there, so no state of random numbers need be kept.
            again = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
            block.forward = again


class _ImageHalf(nn.Module):
    """The parts of open_clip's model that stay where the text tower does not learn, by the same names."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.visual
        self.logit_scale = model.logit_scale


def _text_half(model: nn.Module) -> dict[str, Tensor]:
    """All that `_ImageHalf` leaves out."""
    kept = ("visual.", "logit_scale")
    return {name: each for name, each in model.state_dict().items() if not name.startswith(kept)}


def _own(model: nn.Module, device: torch.device, images: torch.memory_format) -> None:
    """Bring parameters and buffers to `device`, in fp32."""
    for tensor in (*model.parameters(), *model.buffers()):
        wanted = torch.float32 if tensor.is_floating_point() else tensor.dtype
        memory_format = images if tensor.ndim == 4 else torch.contiguous_format
        tensor.data = tensor.data.to(device, wanted, memory_format=memory_format)
