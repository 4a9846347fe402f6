"""Image and text towers: one backbone's weights, ready to turn batches into unit vectors."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastclip.errors import IntegrityError, UserError
from fastclip.models.backbones import TINY, Backbone
from fastclip.models.compiled import compile_visual
from fastclip.models.rewrites import pack_products, rewrite
from fastclip.models.tensor_files import TensorFile
from fastclip.models.weights import RANDOM_SEED, Weights, read_weights

# Batches are padded to one fixed shape: another one picks other kernels and moves the last bits.
PROMPTS_PER_BATCH = {"cpu": 16, "cuda": 256}

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_SHOWN = 120
"""Letters of a prompt that an error shows."""


Half: TypeAlias = Literal["image", "text", "both"]


class Embedded(NamedTuple):
    """A batch of embeddings."""

    vectors: Float32[Tensor, "batch dim"]
    """Unit vectors."""
    norms: Float32[Tensor, " batch"]
    """Their lengths before they were divided by them."""


class ImageTower:
    """The image half of a backbone on its device and in its precision."""

    def __init__(
        self, visual: Any, backbone: Backbone, precision: str, device: torch.device, *, compiled: bool = False
    ) -> None:
        self.side = backbone.side
        self._dtype = DTYPES[precision]
        if device.type == "cpu" and not compiled:
            pack_products(visual, self._dtype)
        self._visual = visual.to(device, memory_format=torch.channels_last).eval()
        if compiled:
            self._visual = compile_visual(self._visual, backbone.name, device)
        self._mean = torch.tensor(backbone.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(backbone.std, device=device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def __call__(self, crops: UInt8[Tensor, "batch 3 side side"]) -> Embedded:
        """Embed RGB crops. Pixels are normalised in fp32, as `ToTensor` and `Normalize` do it; the rest is computed in
        the tower's precision, and the norms in fp32 again.
        """
        pixels = crops.float().div_(255).sub_(self._mean).div_(self._std)
        features = self._visual(pixels.to(self._dtype, memory_format=torch.channels_last)).float()
        norms = features.norm(dim=-1, keepdim=True)
        return Embedded(features / norms, norms[:, 0])


class TextTower:
    """The text half of a backbone, always fp32: prototypes are computed once, and every precision shares them."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device) -> None:
        self._model = model.to(device).eval()
        self._tokenizer = tokenizer
        self._device = device
        # A causal tower that reads a prompt at its end token never looks at the padding. Others may.
        self._trims = (
            getattr(model, "text_pool_type", None) == "argmax" and getattr(model, "attn_mask", None) is not None
        )
        if self._trims:
            self._positions, self._mask = model.positional_embedding.detach(), model.attn_mask

    def tokenize(self, prompts: Sequence[str]) -> Int64[Tensor, "prompts length"]:
        """See the function `tokenize`."""
        return tokenize(self._tokenizer, prompts)

    def __call__(self, prompts: Sequence[str], workers: int) -> Float32[Tensor, "prompts dim"]:
        """Unit vectors of `prompts`, on the CPU. Uses `workers` threads, on a GPU one; their number changes no bit. Two
        threads must not call it at the same time.
        """
        tokens = self._trim(self.tokenize(prompts))
        size, threads = PROMPTS_PER_BATCH[self._device.type], workers if self._device.type == "cpu" else 1
        batches = nn.functional.pad(tokens, (0, 0, 0, -len(tokens) % size)).split(size)
        with ThreadPoolExecutor(threads, "text", torch.set_num_threads, (1,)) as pool:
            return torch.cat(list(pool.map(self._encode, batches)))[: len(tokens)]

    def _trim(self, tokens: Int64[Tensor, "prompts length"]) -> Int64[Tensor, "prompts shorter"]:
        """`tokens` without padding that no prompt uses: nothing looks past the end token, and 16 cost a fifth of 77."""
        if not self._trims:
            return tokens
        length = int(_needed(tokens).max())
        self._model.positional_embedding = nn.Parameter(self._positions[:length], requires_grad=False)
        self._model.attn_mask = self._mask[:length, :length]
        return tokens[:, :length]

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """The positions that each of `prompts` takes by itself. Raises `UserError` for one that does not fit."""
        tokens = self.tokenize(prompts)
        needed: list[int] = _needed(tokens).tolist() if self._trims else [tokens.shape[1]] * len(tokens)
        return needed

    @torch.inference_mode()
    def _encode(self, tokens: Int64[Tensor, "batch length"]) -> Float32[Tensor, "batch dim"]:
        features = self._model.encode_text(tokens.to(self._device)).float().cpu()
        return features / features.norm(dim=-1, keepdim=True)


def _needed(tokens: Int64[Tensor, "prompts length"]) -> Int64[Tensor, " prompts"]:
    """Positions up to each prompt's end token, which has the highest number, in steps of eight."""
    return ((tokens.argmax(dim=1) + 8) // 8 * 8).clamp(max=tokens.shape[1])


@cache  # reading its words takes a tenth of a second
def find_tokenizer(architecture: str) -> Any:
    """open_clip's tokenizer of an architecture."""
    import open_clip

    _add_tiny()
    return open_clip.get_tokenizer(architecture)


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Int64[Tensor, "prompts length"]:
    """Token ids, padded with zeros. Raises `UserError` for a prompt that does not fit instead of cutting it."""
    check_tokens(tokenizer, prompts)
    tokens: Tensor = tokenizer(list(prompts))
    return tokens


def check_tokens(tokenizer: Any, prompts: Iterable[str]) -> None:
    """Raise `UserError` for a prompt that does not fit."""
    room = tokenizer.context_length - 2  # start and end tokens
    for prompt in prompts if hasattr(tokenizer, "encode") else ():
        if (length := len(tokenizer.encode(prompt))) > room:
            shown = repr(prompt) if len(prompt) <= _SHOWN else f"{prompt[:_SHOWN]!r}… ({len(prompt):,} letters)"
            raise UserError(
                f"The prompt {shown} has {length:,} tokens; {room} fit.",
                fix="Shorten the template; or name the class otherwise in a card (shards/README.md), and shard again.",
            )


def load_image_tower(
    backbone: Backbone, weights: Weights, precision: str, device: torch.device, *, compiled: bool = False
) -> ImageTower:
    """The image tower of `backbone` in `precision` (fp32, bf16 or fp16) on `device`."""
    visual = load_visual(backbone, weights, precision, device)
    return ImageTower(visual, backbone, precision, device, compiled=compiled)


def load_visual(backbone: Backbone, weights: Weights, precision: str, device: torch.device) -> Any:
    """open_clip's image half on `device`, rewritten to less arithmetic. The text half is not even read.

    Convolutions and products are computed in `precision`; layer norms stay in fp32, as in OpenAI's own fp16 models.
    """
    visual = load_model(backbone, weights, "image").visual.to(device).float()  # a GPU folds and rounds faster
    rewrite(visual.eval(), DTYPES[precision])
    if precision != "fp32":
        round_weights(visual, DTYPES[precision])
    return visual.requires_grad_(False)


def round_weights(visual: nn.Module, dtype: torch.dtype) -> None:
    """Round the weights of `visual` as open_clip does for 16 bits. It also builds other layer norms then."""
    from open_clip.model import convert_weights_to_lp
    from open_clip.transformer import LayerNorm, LayerNormFp32

    for module in visual.modules():
        if type(module) is LayerNorm:
            module.__class__ = LayerNormFp32
    convert_weights_to_lp(visual, dtype=dtype)


def load_text_tower(backbone: Backbone, weights: Weights, device: torch.device) -> TextTower:
    """The text tower of `backbone` in fp32 on `device`."""
    model = load_model(backbone, weights, "text")
    model.visual = nn.Identity()
    return TextTower(model.float(), find_tokenizer(backbone.architecture), device)


def load_model(backbone: Backbone, weights: Weights, half: Half = "both") -> Any:
    """open_clip's model of `backbone` with `weights`, on the CPU, in the precision of their file.

    Of the other `half` no tensor is read: it is on the device `meta`. Raises `IntegrityError` if the file is another
    one than was hashed when `weights` were found.
    """
    model = build_model(backbone, drawn=weights.random).eval()
    if weights.file is None:
        return model.requires_grad_(False)
    try:
        tensors = _half(read_weights(backbone, weights.file), half)
        # `assign` takes the tensors as they are instead of copying them over random ones.
        model.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        weights.file.check_unchanged()
        difference = str(error).split("\n")[1].strip()[:200]
        raise IntegrityError(
            f"{weights.path} does not hold {backbone.name}: {difference}",
            fix="Check that the file belongs to this backbone.",
        ) from error
    weights.file.check_unchanged()
    return model.requires_grad_(False)


def _half(tensors: Mapping[str, Tensor], half: Half) -> dict[str, Tensor]:
    """The tensors of a model, those of its other half without memory where they are not read yet."""
    if not isinstance(tensors, TensorFile) or half == "both":
        return dict(tensors)
    is_image = half == "image"
    return {name: tensors[name] if name.startswith("visual.") == is_image else tensors.blank(name) for name in tensors}


def build_model(backbone: Backbone, *, drawn: bool) -> Any:
    """open_clip's model in fp32, with weights drawn by `RANDOM_SEED`, or not initialised.

    Most memory of one of OpenAI's nine is not even written to where nothing is drawn.
    """
    with _BUILDING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(RANDOM_SEED)  # not that of a GPU
        with nullcontext() if drawn else _NothingDrawn():
            return _new_model(backbone.architecture)


_BUILDING = threading.Lock()
"""Towers are loaded in threads, but torch has one generator of random numbers, and open_clip one list of models."""


def _new_model(architecture: str) -> Any:
    """The model that `open_clip.create_model` returns. That function warns in the root log that weights are missing."""
    import open_clip

    _add_tiny()
    config = open_clip.get_model_config(architecture)
    return (open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP)(**config)


def _add_tiny() -> None:
    """Tell open_clip of `tiny`, once."""
    import open_clip

    if TINY.architecture not in open_clip.list_models():
        open_clip.add_model_config(Path(str(resources.files("fastclip.models") / "tiny" / "fastclip-tiny.json")))


class _NothingDrawn(TorchFunctionMode):
    """Leaves new parameters uninitialised, in this thread: those read from a file replace them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
