"""Tools of the probe: how much to measure, clocks of the device, photos, and a line for each figure."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from fastclip.data.image_headers import check_header
from fastclip.pixels.decoder import EncodedImage
from fastclip.pixels.decoders import make_decoder

SIDES = (224, 288, 336, 384, 448)
"""Of OpenAI's nine towers."""


@dataclass(frozen=True)
class Probe:
    """One step: what to measure with, and where the figures go."""

    photos: Path
    results: Path
    device: torch.device
    batch: int
    images: int
    """Photos that are decoded a round, the same ones over and over."""
    names: tuple[str, ...]
    """Backbones; none means those of the step."""
    limit_s: float
    began: float = field(default_factory=time.perf_counter)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is measured, or this is a rehearsal."""
        return self.device.type == "cuda"

    @property
    def out_of_time(self) -> bool:
        """Whether the step should begin nothing more."""
        return time.perf_counter() > self.began + self.limit_s

    def say(self, what: str, facts: Mapping[str, object]) -> None:
        """Append a figure to the results and print it: whatever ends this process, it is kept."""
        line = {"what": what, "at": round(time.perf_counter() - self.began, 1), **facts}
        with self.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(" ".join(f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()), flush=True)

    def wait(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], object], least_s: float = 0.6, most: int = 400) -> float:
        """The median of the seconds that `call` takes on the device, of at least three calls after two."""
        call()
        call()
        self.wait()
        found: list[float] = []
        until = time.perf_counter() + least_s
        while len(found) < 3 or (time.perf_counter() < until and len(found) < most):
            found.append(self._seconds_once(call))
        return sorted(found)[len(found) // 2]

    def _seconds_once(self, call: Callable[[], object]) -> float:
        if not self.on_gpu:
            started = time.perf_counter()
            call()
            return time.perf_counter() - started
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        call()
        done.record()
        done.synchronize()
        return begun.elapsed_time(done) / 1000


@cache
def photos_in(folder: Path) -> list[EncodedImage]:
    """The photos of a folder, by name."""
    files = [memoryview(bytearray(path.read_bytes())) for path in sorted(folder.iterdir()) if path.is_file()]
    headers = [check_header(data) for data in files]
    return [EncodedImage(data, each.height, each.width) for data, each in zip(files, headers, strict=True)]


@cache
def crops_of(photos: Path, side: int, batch: int, device: torch.device) -> UInt8[Tensor, "batch 3 side side"]:
    """A batch of photos, decoded on the CPU."""
    images = list(itertools.islice(itertools.cycle(photos_in(photos)), batch))

    def decode(part: list[EncodedImage]) -> Tensor:
        return make_decoder("torchvision", [side], len(part), torch.device("cpu"), 1).decode(part).crops[side]

    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(decode, (images[number::8] for number in range(min(8, batch)))))
    return torch.cat(decoded).contiguous(memory_format=torch.channels_last).to(device)
