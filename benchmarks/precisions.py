"""Each way to compute embeddings of real photos: cosine to eager fp32, answers that flip, images a second.

    .venv/bin/python benchmarks/precisions.py --photos DIR [--backbones ViT-L/14 …] [--ways bf16 …] [--device cuda]

Weights are drawn so that photos differ (fresh ones put all into one place); `tiny`, a ResNet, has its own. Half of the
photos are asked which of the other half they are most like: a flip is an answer other than that of eager fp32, its
margin how close two photos were. Trained vision transformers have outliers that drawn ones lack: 8 bits can only do
worse there. Drawn ResNets enlarge every rounding, trained ones less.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import REPOSITORY, keep, parser
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import silu

from fastclip.bench.records import measurement
from fastclip.machine import available_cores, keep_freed_memory
from fastclip.models.backbones import TINY, Backbone, find_backbone
from fastclip.models.numerics import find_device, fix_numerics
from fastclip.models.rewrites import PackedConvolution, PackedLinear
from fastclip.models.tower import Embedded, build_model, load_image_tower, load_model
from fastclip.models.weights import Weights, find_weights, weights_in
from fastclip.pixels.decoders import make_decoder

sys.path.append(str(REPOSITORY / "tests"))
from decoders import photos_of
from helpers import lively

WAYS = ("fp32", "bf16", "fp16", "bf16 autocast", "fp32 compiled", "bf16 compiled", "fp16 compiled", "int8", "fp8")
HEAVY = ("RN50x16", "RN50x64", "ViT-L/14", "ViT-L/14@336px")


class Autocast:
    """open_clip's unchanged tower under torch's autocast: other programs mean this by 16 bits."""

    def __init__(self, backbone: Backbone, weights: Weights, device: torch.device) -> None:
        self._visual = load_model(backbone, weights).visual.to(device).float()
        self._mean, self._std = (
            torch.tensor(each, device=device).view(1, 3, 1, 1) for each in (backbone.mean, backbone.std)
        )

    @torch.inference_mode()
    def __call__(self, crops: Tensor) -> Embedded:
        with torch.autocast(crops.device.type, torch.bfloat16):
            features = self._visual((crops.float() / 255 - self._mean) / self._std).float()
        norms = features.norm(dim=-1, keepdim=True)
        return Embedded(features / norms, norms[:, 0])


class EightBits(nn.Module):
    """A linear layer whose product is one of 8-bit numbers, scaled by row on both sides."""

    def __init__(self, linear: nn.Linear | PackedLinear, way: str) -> None:
        super().__init__()
        self._dtype = torch.int8 if way == "int8" else torch.float8_e4m3fn
        packed = isinstance(linear, PackedLinear)
        weight, self.bias = (linear._weight, linear._bias) if packed else (linear.weight, linear.bias)
        self._activates = packed and linear._activation == "swish"
        weight, scale = self._quantised(weight.float())
        self.weight, self.scale = weight.t(), scale.t()  # column by column, as the kernels ask

    def _quantised(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        limit = 127.0 if self._dtype == torch.int8 else torch.finfo(self._dtype).max
        scale = rows.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / limit
        scaled = rows / scale
        return (scaled.round() if self._dtype == torch.int8 else scaled).to(self._dtype), scale

    def forward(self, tokens: Tensor) -> Tensor:
        rows, scale = self._quantised(tokens.flatten(0, -2).float())
        if self._dtype == torch.int8:
            product = torch._int_mm(rows, self.weight) * (scale * self.scale)
        elif rows.is_cuda:
            product = torch._scaled_mm(rows, self.weight, scale, self.scale, out_dtype=torch.bfloat16)
        else:
            product = (rows.float() @ self.weight.float()) * (scale * self.scale)
        product += self.bias
        answer = (silu(product, inplace=True) if self._activates else product).to(tokens.dtype)
        return answer.unflatten(0, tokens.shape[:-1])


class EightBitConvolution(nn.Module):
    """A convolution of 8-bit numbers and its activation in one pass (oneDNN), scaled by channel of the weights, and of
    what comes in, which is nowhere negative, by its largest number in the first batch."""

    def __init__(self, convolution: PackedConvolution) -> None:
        super().__init__()
        padding, stride, *others = convolution._geometry
        self._geometry = stride, padding, *others
        self._bias, self._activation = convolution._bias.float(), convolution._activation
        weight = convolution._weight.float()
        self._scales = weight.abs().amax(dim=(1, 2, 3)).clamp(min=1e-12) / 127
        self._weight = (weight / self._scales.view(-1, 1, 1, 1)).round().to(torch.int8)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._scale = 0.0

    def forward(self, maps: Tensor, residual: Tensor | None = None) -> Tensor:
        if not self._scale:
            self._scale = maps.amax().item() / 255
            self._weight = torch.ops.onednn.qconv_prepack(
                self._weight, self._scales, self._scale, 0, *self._geometry, list(maps.shape)
            )
        whole = maps.mul(1 / self._scale).round_().clamp_(max=255).to(torch.uint8)
        operands = whole, self._scale, 0, self._weight, self._scales, self._zeros
        after = self._bias, *self._geometry, 1.0, 0, torch.bfloat16
        if residual is None:
            return torch.ops.onednn.qconv2d_pointwise(*operands, *after, self._activation, [], "")
        return torch.ops.onednn.qconv2d_pointwise.binary(
            *operands, residual, *after, 1.0, 0, "sum", 1.0, self._activation, [], ""
        )


def make_tower(
    backbone: Backbone, weights: Weights, way: str, device: torch.device
) -> Callable[[Tensor], Embedded] | None:
    """The tower as it is computed in `way`. In 8 bits: the products of a vision transformer's MLPs, two thirds of it,
    or a ResNet's convolutions but its first, which has negative numbers to take. The rest in bf16. None where torch
    has none of them: convolutions are there in int8, on a CPU that packs them."""
    if way == "bf16 autocast":
        return Autocast(backbone, weights, device)
    if way not in ("int8", "fp8"):
        precision, _, compiled = way.partition(" ")
        return load_image_tower(backbone, weights, precision, device, compiled=bool(compiled))
    tower = load_image_tower(backbone, weights, "bf16", device)
    for module in tower._visual.modules():
        children = dict(module.named_children())
        for name, child in children.items():
            if name in ("c_fc", "c_proj") and "c_fc" in children:  # a ResNet's attention pool has one alone
                setattr(module, name, EightBits(child, way))
            elif way == "int8" and isinstance(child, PackedConvolution) and child is not tower._visual.conv1:
                setattr(module, name, EightBitConvolution(child))
    found = any(isinstance(module, EightBits | EightBitConvolution) for module in tower._visual.modules())
    return tower if found else None


def embed(tower: Callable[[Tensor], Embedded], batches: list[Tensor], device: torch.device) -> tuple[Tensor, float]:
    """All embeddings, and the seconds without those of the first batch."""
    found = [tower(batches[0]).vectors]
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    found += [tower(batch).vectors for batch in batches]
    result = torch.cat([each.cpu() for each in found[1:]])
    return result, time.perf_counter() - started


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=192)
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--backbones", nargs="+", default=HEAVY)
    options.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    arguments = options.parse_args()
    keep_freed_memory()
    device = find_device(arguments.device, 0)
    fix_numerics(device)
    if device.type == "cpu":
        torch.set_num_threads(available_cores())
    images = photos_of(arguments.photos, 1)[: arguments.images]
    for name in arguments.backbones:
        backbone = find_backbone(name)
        decoder = make_decoder("torchvision", [backbone.side], arguments.batch_size, device, 1)
        parts = [images[n : n + arguments.batch_size] for n in range(0, len(images), arguments.batch_size)]
        batches = [decoder.decode(part).crops[backbone.side] for part in parts]
        with tempfile.TemporaryDirectory() as folder:
            if backbone == TINY:
                weights = find_weights(backbone, None)
            else:
                path, pixels = Path(folder) / "w.safetensors", batches[0][:8].cpu().float() / 128 - 1
                save_file(lively(build_model(backbone, drawn=True), pixels), path)
                weights = weights_in(path)
            exact = None
            for way in dict.fromkeys(["fp32", *arguments.ways]):
                tower = make_tower(backbone, weights, way, device)
                if tower is None:
                    continue
                vectors, seconds = embed(tower, batches, device)
                del tower  # before the next one takes its room
                vectors = vectors[: len(images)]
                exact = vectors if exact is None else exact
                cosines, (before, after) = (vectors * exact).sum(1), (answers(each) for each in (exact, vectors))
                flipped = before[0] != after[0]
                widest = before[1][flipped].max().item() if flipped.any() else 0.0
                settings = {
                    "program": "precisions.py", "backbone": name, "device": arguments.device, "way": way,
                    "threads": torch.get_num_threads(), "batch": arguments.batch_size,
                    "mean cosine": f"{cosines.mean():.6f}", "least cosine": f"{cosines.min():.6f}",
                    "flipped": f"{int(flipped.sum())} of {len(flipped)}", "widest margin": f"{widest:.2g}",
                }  # fmt: skip
                keep([measurement("precision", len(images), [seconds], settings)], arguments.device)


def answers(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The one of the first half that each of the second half is most like, and by which margin."""
    half = len(vectors) // 2
    best = (vectors[half:] @ vectors[:half].T).topk(2)
    return best.indices[:, 0], best.values[:, 0] - best.values[:, 1]


if __name__ == "__main__":
    main()
