"""Finds a backbone's weights, proves what they are, and reads them without running anything that they contain."""

from __future__ import annotations

import os
import socket
import threading
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastclip.errors import IntegrityError, UserError
from fastclip.models.archives import archive_folder, openai_archive
from fastclip.models.backbones import OPENAI_BACKBONES, PUBLISHED_ARCHIVES, TINY, Backbone, known_backbone, plain
from fastclip.models.trained_weights import read_training
from fastclip.proven import ProvenFile
from fastclip.store.recipes import Recipe
from fastclip.store.training import Training
from fastclip.threads import threads

if TYPE_CHECKING:
    from torch import Tensor

HUB_FILE = "open_clip_model.safetensors"
RANDOM_SEED = 0


@dataclass(frozen=True)
class Weights:
    """A weights file, open, and its SHA-256; without a file, weights drawn at random, for benchmarks only."""

    file: ProvenFile | None
    digest: str
    training: Training | None = None
    """How they were fine-tuned, if the file says so."""

    @property
    def path(self) -> Path | None:
        """Where the file was when it was opened."""
        return self.file.path if self.file else None

    @property
    def random(self) -> bool:
        """Whether they are drawn at random: an accuracy from them means nothing."""
        return self.file is None


def random_weights(backbone: Backbone) -> Weights:
    """Weights drawn with a fixed seed. They are as fast as real ones; their answers mean nothing."""
    return Weights(None, f"random in fp32, seed {RANDOM_SEED}, {backbone.architecture}")


def find_weights(backbone: Backbone, given: Path | None) -> Weights:
    """The weights of `backbone`: the file `given`, else one in the hub's cache or OpenAI's, else a download.

    Raises `UserError` with the missing file and the places that were searched.
    """
    return find_all_weights({backbone: given}, cores=1)[backbone]


def find_all_weights(given: Mapping[Backbone, Path | None], cores: int) -> dict[Backbone, Weights]:
    """`find_weights` of each backbone; up to four threads hash the files, at 0.6 GB/s each."""
    paths = [_locate(backbone, path) for backbone, path in given.items()]
    with threads(max(1, min(4, cores)), "digest") as pool:
        return dict(zip(given, pool.map(weights_in, paths), strict=True))


def weights_in(path: Path) -> Weights:
    """The weights in a file. Raises `IntegrityError` if it says in a malformed way how they were fine-tuned."""
    file = ProvenFile(path, partial(_differs, path))
    return Weights(file, file.sha256, read_training(file))


def _differs(path: Path, how: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is not the weights file that was hashed: {how}.",
        fix="Let nothing write to it, then run the same command again.",
    )


def check_backbone(backbone: str, spellings: Iterable[str], weights: Weights) -> None:
    """Raise `UserError` unless it is known that weights are those of `backbone` as it is run.

    Fine-tuned ones say it. Of others, OpenAI published the file, or a spelling says that it is run with QuickGELU:
    OpenAI's ViT-B/32 and LAION's have the same tensors. open_clip's ViT-B-32 is GELU, its ViT-B-32-quickgelu is not.
    """
    if weights.training:
        _check_trained(backbone, weights.path, weights.training)
        return
    known = OPENAI_BACKBONES.get(backbone)
    if known is None or weights.digest in PUBLISHED_ARCHIVES:
        return
    architecture = known.architecture
    if any(plain(spelling) == plain(architecture) for spelling in spellings):
        return
    bare = architecture.removesuffix("-quickgelu")
    raise UserError(
        f"{' or '.join(dict.fromkeys(spellings))} does not say whether {weights.path} is run with QuickGELU or GELU, "
        f"its tensors do not tell, and it is none of OpenAI's archives by its SHA-256, {weights.digest[:12]}….",
        fix=f"-b {architecture} --weights FILE for QuickGELU, as OpenAI's; or -b {bare}/PRETRAINED --weights FILE for "
        "the activation of those weights, as open_clip lists them (LAION-2B's: GELU)",
    )


def _check_trained(backbone: str, file: Path | None, training: Training) -> None:
    of, known = training.backbone, known_backbone(backbone)
    if of != backbone or (known and training.architecture != known.architecture):
        raise UserError(
            f"{file} holds weights of {of} ({training.architecture}), which are none of {backbone}.",
            fix=f"-b {of} --weights {of}={file}",
        )


def describe_weights(recipe: Recipe, file: Path | None = None) -> str:
    """`weights 40d365715913 (OpenAI's ViT-B-32.pt, QuickGELU)`. A `file` is named where it is known.

    Of fine-tuned ones: `weights ab12cd34ef56 (QuickGELU; fine-tuned: ce on new/outline, epoch 3)`.
    """
    if recipe.random_weights:
        return f"RANDOM WEIGHTS ({recipe.activation})"
    published = PUBLISHED_ARCHIVES.get(recipe.weights)
    where = str(file) if file else f"OpenAI's {published.archive}" if published else ""
    tuned = f"; fine-tuned: {recipe.training.summary}" if recipe.training else ""
    return f"weights {recipe.weights[:12]} ({', '.join(filter(None, (where, recipe.activation)))}{tuned})"


def read_weights(backbone: Backbone, file: ProvenFile) -> Mapping[str, Tensor]:
    """Tensors by open_clip's names from a safetensors file, each read when it is asked for, or from an archive.

    An archive is TorchScript, which can hold code, so only OpenAI's nine are opened. Call `file.check_unchanged()`
    when all is read, and before anything that was made of it is published.
    """
    start = bytes(file.read(0, min(9, file.size)))
    if start[8:9] == b"{":  # a safetensors file: eight bytes of length, then a header in JSON
        return _read_safetensors(file)
    if start[:4] == b"PK\x03\x04":
        return _read_archive(backbone, file)
    raise UserError(
        f"{file.path} is neither a safetensors file nor one of OpenAI's archives.",
        fix="Convert it to safetensors with the program that wrote it; fastclip opens no pickled file.",
    )


def _locate(backbone: Backbone, given: Path | None) -> Path:
    if given is None:
        return local_weights(backbone) or _download(backbone)
    if not given.is_file():
        raise UserError(f"{backbone.name}: there is no weights file {given}.", fix="--weights FILE.safetensors")
    return given


def local_weights(backbone: Backbone) -> Path | None:
    """The weights of `backbone` on this machine, where they are looked for; None if they are not there."""
    return _in_package(backbone) or _in_caches(backbone)


def _in_package(backbone: Backbone) -> Path | None:
    if backbone is not TINY:
        return None
    return Path(str(resources.files("fastclip.models") / "tiny" / "tiny.safetensors"))


def _in_caches(backbone: Backbone) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if backbone.hub and isinstance(found := try_to_load_from_cache(backbone.hub, HUB_FILE), str):
        return Path(found)
    return openai_archive(backbone)


def _download(backbone: Backbone) -> Path:
    from huggingface_hub import constants, hf_hub_download

    if not backbone.hub:
        raise UserError(
            f"{backbone.name}: open_clip names no hub repository with safetensors for it.",
            fix="Get the weights as a safetensors file and pass --weights FILE.",
        )
    try:
        if not is_near(constants.ENDPOINT):
            raise ConnectionError("no network")
        return Path(hf_hub_download(backbone.hub, HUB_FILE))
    except Exception as error:  # offline, refused, moved, full disk: the file itself mends them all
        places = f"{HUB_FILE} of {backbone.hub} is not in {constants.HF_HUB_CACHE}"
        if backbone.archive:
            places += f", nor {backbone.archive} in {archive_folder()}"
        word = backbone.architecture if backbone.archive else backbone.name  # either says the activation
        raise UserError(
            f"No weights for {backbone.name}: {places}; the download failed ({type(error).__name__}).",
            fix=f"hf download {backbone.hub} {HUB_FILE} where there is a network, or -b {word} --weights FILE",
        ) from error


def is_near(endpoint: str) -> bool:
    """Whether a server can be reached. The hub's own client would retry for half a minute and print every try."""
    if any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return True  # only the proxy knows
    address = urlsplit(endpoint)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def _read_safetensors(file: ProvenFile) -> Mapping[str, Tensor]:
    from fastclip.models.tensor_files import TensorFile

    try:
        return TensorFile(file)
    except ValueError as error:
        file.check_unchanged()  # then that is the reason
        raise IntegrityError(f"{file.path} is damaged: {error}.", fix="Copy or download the file again.") from error


def _read_archive(backbone: Backbone, file: ProvenFile) -> dict[str, Tensor]:
    published = PUBLISHED_ARCHIVES.get(file.sha256)
    if published is None:
        raise IntegrityError(
            f"{file.path} is none of OpenAI's nine archives by its SHA-256, {file.sha256[:16]}…; it was not opened.",
            fix="Download it again, or pass a safetensors file: an unknown archive could run code.",
        )
    if published.name != backbone.name:
        raise UserError(f"{file.path} holds {published.name}, not {backbone.name}.", fix=f"-b {published.name}")
    import torch

    with _READING_ARCHIVE, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit")
        try:
            # The descriptor by its name: the path may lead to another file by now.
            tensors = dict(torch.jit.load(f"/dev/fd/{file.fd}", map_location="cpu").state_dict())
        except RuntimeError:
            file.check_unchanged()
            raise
    for number in ("input_resolution", "context_length", "vocab_size"):
        tensors.pop(number, None)
    return tensors


_READING_ARCHIVE = threading.Lock()
"""Towers are loaded in threads, but Python has one list of filters for warnings."""
