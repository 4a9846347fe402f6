"""Plain helpers of the tests: files to write, datasets to shard, the program to run."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from fastclip.data.catalogue import find_card
from fastclip.data.shards.writer import WriteOptions, write_shards
from fastclip.data.sources.layouts import list_source
from fastclip.storage.folders import open_folder

REPOSITORY = Path(__file__).parent.parent


def image_bytes(format: str = "PNG", size: tuple[int, int] = (5, 7), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 7).save(file, format)
    return file.getvalue()


def lively(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Random weights under which `pixels` differ: fresh ones put every image into one place."""
    generator = torch.Generator().manual_seed(1)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if name.endswith("bn3.weight"):
            tensor.uniform_(0.5, 1, generator=generator)
        elif "attnpool" in name and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor.mul_(4)
        elif name.endswith(".bias"):
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)
    model.load_state_dict(tensors)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics of these very images, so that none of their differences is flattened
    with torch.no_grad():
        model.train().encode_image(pixels)
    return model.eval().state_dict()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@dataclass(frozen=True)
class Sharded:
    """A dataset's source folder and the folder of all shards that it was written into."""

    name: str
    source: Path
    shards: Path

    @property
    def folder(self) -> Path:
        return self.shards / self.name


def shard(source: Path, shards: Path, name: str, *, shard_images: int = 50, verify: bool = True) -> Sharded:
    card = find_card(name)
    options = WriteOptions(shard_images=shard_images, verify=verify, processes=1)
    write_shards(list_source(source, card), open_folder(shards / name), dataset=name, card=card, options=options)
    return Sharded(name, source, shards)


@dataclass(frozen=True)
class Outcome:
    """How a run of the program ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Program:
    """Runs fastclip as a user does, in a folder of its own, 80 columns wide, without a network."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: object, prefix: Sequence[str] = ()) -> Outcome:
        process = self.start(*arguments, prefix=prefix)
        out, err = process.communicate(timeout=300)
        return Outcome(process.returncode, out, err)

    def start(self, *arguments: object, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
        command = [*prefix, *(() if "-m" in prefix else (sys.executable, "-m", "fastclip")), *map(str, arguments)]
        environment = {**os.environ, "COLUMNS": "80", "HF_HUB_OFFLINE": "1", **self.environment}
        environment = {name: value for name, value in environment.items() if name not in ("RANK", "WORLD_SIZE")}
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
