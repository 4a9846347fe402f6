"""The backbones that can be asked for by name, and where their weights come from."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from fastclip.errors import UserError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One CLIP with its weights. `side` in pixels, mean and std of RGB in 0–1."""

    name: str
    architecture: str
    """open_clip's name. OpenAI's weights need the `-quickgelu` ones; the others load and are silently wrong."""
    side: int
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    hub: str | None = None
    """Repository on the Hugging Face hub that holds `open_clip_model.safetensors`."""
    archive: str | None = None
    """File name of OpenAI's TorchScript archive."""
    archive_sha256: str | None = None


def _openai(name: str, architecture: str, side: int, hub: str, archive_sha256: str) -> Backbone:
    return Backbone(
        name=name,
        architecture=f"{architecture}-quickgelu",
        side=side,
        hub=f"timm/{hub}.openai",
        archive=name.replace("/", "-").replace("@", "-") + ".pt",
        archive_sha256=archive_sha256,
    )


# The SHA-256 of each archive stands in the address that OpenAI published it under.
_NINE = (
    _openai("RN50", "RN50", 224, "resnet50_clip",
            "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
    _openai("RN101", "RN101", 224, "resnet101_clip",
            "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599"),
    _openai("RN50x4", "RN50x4", 288, "resnet50x4_clip",
            "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"),
    _openai("RN50x16", "RN50x16", 384, "resnet50x16_clip",
            "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"),
    _openai("RN50x64", "RN50x64", 448, "resnet50x64_clip",
            "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"),
    _openai("ViT-B/32", "ViT-B-32", 224, "vit_base_patch32_clip_224",
            "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    _openai("ViT-B/16", "ViT-B-16", 224, "vit_base_patch16_clip_224",
            "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    _openai("ViT-L/14", "ViT-L-14", 224, "vit_large_patch14_clip_224",
            "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    _openai("ViT-L/14@336px", "ViT-L-14-336", 336, "vit_large_patch14_clip_336",
            "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
)  # fmt: skip

TINY_DIM = 64

TINY = Backbone(name="tiny", architecture="fastclip-tiny", side=64)
"""The CLIP that comes with fastclip. It knows drawn shapes: see `fastclip/models/tiny/`."""

OPENAI_BACKBONES = {backbone.name: backbone for backbone in _NINE}
"""OpenAI's nine, in the order of the published table."""

PUBLISHED_ARCHIVES = {backbone.archive_sha256: backbone for backbone in _NINE}


def find_backbone(name: str) -> Backbone:
    """The backbone called `name`: `ViT-B/32`, `ViT-B-32` or `ViT-B-32-quickgelu`, `tiny`, or `ARCHITECTURE/PRETRAINED`
    of open_clip.

    Raises `UserError` with the closest names for one that is unknown.
    """
    if backbone := known_backbone(name):
        return backbone
    architecture, _, pretrained = name.partition("/")
    if pretrained and (found := _from_open_clip(name, architecture, pretrained)):
        return found
    names = [*OPENAI_BACKBONES, TINY.name]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    raise UserError(
        f"There is no backbone {name!r}." + (f" Did you mean {close[0]}?" if close else ""),
        fix=f"Choose from {', '.join(names)}, or ARCHITECTURE/PRETRAINED as open_clip lists them.",
    )


def known_backbone(name: str) -> Backbone | None:
    """The backbone called `name` if it is `tiny` or one of OpenAI's nine, else None. Does not load open_clip."""
    known = {plain(each): backbone for backbone in _NINE for each in (backbone.name, backbone.architecture)}
    known["vitl14336"] = OPENAI_BACKBONES["ViT-L/14@336px"]  # open_clip's ViT-L-14-336
    known[TINY.name] = TINY
    return known.get(plain(name))


def embedding_dim(backbone: Backbone) -> int:
    """How many numbers an embedding of `backbone` has."""
    if backbone is TINY:
        return TINY_DIM
    import open_clip

    config = open_clip.get_model_config(backbone.architecture.removesuffix("-quickgelu"))
    return int(config["embed_dim"])


def plain(name: str) -> str:
    """A name as names are compared: without case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _from_open_clip(name: str, architecture: str, pretrained: str) -> Backbone | None:
    import open_clip

    config = open_clip.get_model_config(architecture)
    source = open_clip.get_pretrained_cfg(architecture, pretrained) if config else None
    if not config or not source:
        return None
    if source.get("interpolation", "bicubic") != "bicubic" or source.get("resize_mode", "shortest") != "shortest":
        raise UserError(
            f"{name} resizes images in another way ({source.get('interpolation')}, {source.get('resize_mode')}).",
            fix="Choose a backbone with CLIP's own preprocessing: bicubic, shorter side, centre crop.",
        )
    if "multimodal_cfg" in config or "hf_model_name" in config["text_cfg"]:
        raise UserError(f"{name} is not a pair of open_clip's own towers.", fix="Choose a CLIP without extra parts.")
    if source.get("quick_gelu", False) and not config.get("quick_gelu", False):
        architecture += "-quickgelu"
    side = config["vision_cfg"]["image_size"]
    return Backbone(
        name=name,
        architecture=architecture,
        side=side if isinstance(side, int) else side[0],
        mean=source.get("mean", OPENAI_MEAN),
        std=source.get("std", OPENAI_STD),
        hub="/".join((source.get("hf_hub") or "").split("/")[:2]) or None,  # a file name may follow
    )
