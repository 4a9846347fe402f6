"""Plain helpers of the tests: files to write, datasets to shard, the program to run."""

from __future__ import annotations

import atexit
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastclip.cli import main
from fastclip.data.catalogue import find_card
from fastclip.data.images import check_image
from fastclip.data.shards.writer import WriteOptions, write_shards
from fastclip.data.sources.layouts import list_source
from fastclip.files import is_temporary
from fastclip.machine import SIGNALS
from fastclip.storage.folders import open_folder
from fastclip.store.recipes import Preprocessing, Recipe
from fastclip.store.training import Training, TrainingSet

REPOSITORY = Path(__file__).parent.parent


def wait_until(happened: Callable[[], object], what: str, seconds: float = 300) -> None:
    """Wait for something that takes seconds on two idle cores; nothing waits so long unless it is broken."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)


def part_paths(store: Path) -> list[Path]:
    """The published parts of a store, of all recipes."""
    return sorted(path for path in store.glob("*/*.safetensors") if re.fullmatch("[0-9a-f]{64}", path.parent.name))


def stored_files(store: Path) -> dict[str, bytes]:
    """Parts, prototypes and damaged parts of a store: path below it → bytes."""
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in sorted(store.rglob("*.safetensors"))}


def temporaries(folder: Path) -> list[Path]:
    """Files that were not published."""
    return [path for path in folder.rglob(".*") if is_temporary(path.name)]


def recipe(**changes: object) -> Recipe:
    """A recipe that no machine has."""
    way = Preprocessing(resize="none", side=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    usual = Recipe(
        backbone="tiny",
        architecture="a",
        weights="0" * 64,
        preprocessing=way,
        decoder="torchvision 0",
        precision="fp16",
        batch_size=8,
        engine="eager",
        libraries="none",
        machine="cpu of a test",
        switches=(),
        numerics=1,
    )
    return replace(usual, **changes)


def training(**changes: object) -> Training:
    """A fine-tuning of `tiny` on the demo's own kind of images."""
    usual = Training(
        recipe="ce",
        base="0" * 64,
        backbone="tiny",
        architecture="fastclip-tiny",
        domains=(TrainingSet(dataset="new", domain="outline", fingerprint="f" * 64, images=1200),),
        images=1080,
        prompts="transferlearning",
        templates=("a picture of a {folder}",),
        classes="c" * 64,
        selected="held-out images",
        epoch=3,
        seed=0,
    )
    return replace(usual, **changes)


def image_bytes(format: str = "PNG", size: tuple[int, int] = (5, 7), mode: str = "RGB", color: int = 7) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, format)
    return file.getvalue()


def refusal(data: bytes) -> str:
    """Why sharding refuses an image; "" if it does not."""
    try:
        check_image(data)
    except ValueError as error:
        return str(error)
    return ""


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


def shard(
    source: Path, shards: Path, name: str, *, shard_images: int = 50, verify: bool = True, layout: str | None = None
) -> Sharded:
    card = find_card(name)
    options = WriteOptions(shard_images=shard_images, verify=verify, processes=1)
    listing = list_source(source, card, layout=layout)
    write_shards(listing, open_folder(shards / name), dataset=name, card=card, options=options)
    return Sharded(name, source, shards)


def run(folder: Path, *words: object) -> int:
    """The program in this process, in `folder`; its exit code. Seconds faster than in a process of its own."""
    signals = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "80")
        patch.setattr(sys, "argv", ["fastclip", *map(str, words)])
        try:
            with pytest.raises(SystemExit) as ended:
                main.run()
        finally:
            atexit.unregister(main._leave)  # else pytest would end with the program's exit code
            os.close(signal.set_wakeup_fd(-1))  # the thread at the other end ends too
            for number, handler in signals.items():  # else the next process would be born deaf
                signal.signal(number, handler)
    return int(ended.value.code or 0)


def without_waiting(err: str) -> str:
    """The output of a program without the lines that it adds on a busy machine after ten silent seconds."""
    return re.sub(r"^After [\d,]+ s: .*\n", "", err, flags=re.MULTILINE)


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
        return Outcome(process.returncode, out, without_waiting(err))

    def here(self, *arguments: object) -> Outcome:
        """The same in this process: for what needs no process of its own."""
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = run(self.folder, *arguments)
        return Outcome(code, out.getvalue(), err.getvalue())

    def start(self, *arguments: object, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
        command = [*prefix, *(() if "-m" in prefix else (sys.executable, "-m", "fastclip")), *map(str, arguments)]
        environment = {**os.environ, "COLUMNS": "80", "HF_HUB_OFFLINE": "1", **self.environment}
        environment = {name: value for name, value in environment.items() if name not in ("RANK", "WORLD_SIZE")}
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )


@dataclass(frozen=True)
class Plain:
    """The outcome of one process on 240 images in 48 shards, each of which pays for a whole batch of 64."""

    shards: Path
    arguments: list[str]
    files: dict[str, bytes]
    """Parts and prototypes."""
    table: str
    record: bytes
