"""Decoding on a GPU: DALI with several layouts of threads and shares of the JPEG engine, and torchvision's nvJPEG."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

import torch
from measure import SIDES, Probe, photos_in

from fastclip.machine import available_cores
from fastclip.models.numerics import fix_numerics
from fastclip.pixels.decoder import Decoder, EncodedImage
from fastclip.pixels.decoders import make_decoder

Make = Callable[[Sequence[int]], Decoder]


@dataclass(frozen=True)
class Way:
    """A decoder as so many workers use it, each with one of its own."""

    name: str
    make: Make
    workers: int
    sides: tuple[int, ...] = SIDES[:1]


def dali(probe: Probe) -> None:
    """Raise an error unless DALI decodes photos here, and not its fallback in its place."""
    photos = photos_in(probe.photos)[:8]
    side = SIDES[0]
    found = make_decoder("dali", [side], len(photos), probe.device, 2).decode(photos).crops[side].cpu().short()
    exact = make_decoder("torchvision", [side], len(photos), torch.device("cpu"), 1).decode(photos).crops[side].short()
    off = (found - exact).abs().float().mean().item()
    probe.say("dali", {"version": version("nvidia-dali-cuda130"), "levels_off": off})
    assert off > 0.02, "DALI's crops are torchvision's to the bit: the fallback decoded"


def decode(probe: Probe) -> None:
    """Photos a second, busy cores and grey levels off for every way to decode, the most telling first."""
    if probe.on_gpu:
        _nvjpeg_alone(probe)  # before DALI is loaded, whatever happens then
    cores = available_cores()
    on_cpu = Way("torchvision, CPU", _torchvision(probe), min(16, cores))
    first, *others = _dali_ways(probe, cores) or [on_cpu]
    for way in dict.fromkeys([first, on_cpu, *others]):
        if probe.out_of_time:
            return
        try:
            _measure(probe, way)
        except Exception as error:  # one way that fails must not cost the others
            probe.say("decode", {"way": way.name, "workers": way.workers, "error": str(error)[:300]})


def _torchvision(probe: Probe) -> Make:
    return lambda sides: make_decoder("torchvision", sides, probe.batch, probe.device, 1)


def _dali_ways(probe: Probe, cores: int) -> list[Way]:
    try:
        from nvidia.dali import fn

        from fastclip.pixels.dali import DaliDecoder
    except (ImportError, OSError) as error:
        probe.say("decode", {"way": "dali", "error": str(error)})
        return []
    real = fn.decoders.image

    def mixed(threads: int, load: float = 0.0, **more: object) -> Make:
        def make(sides: Sequence[int]) -> Decoder:
            fn.decoders.image = functools.partial(real, **more)
            try:
                return DaliDecoder(sides, probe.batch, probe.device, threads, hardware_load=load)
            finally:
                fn.decoders.image = real

        return make

    third = max(1, cores // 3)
    return [
        Way("dali, as it comes", mixed(third), 3),
        Way("dali, engine takes all", mixed(third, 1.0), 3),
        Way("dali, as it comes", mixed(third), 3, SIDES),
        Way("dali, Huffman on the GPU", mixed(third, hybrid_huffman_threshold=0), 3),
        Way("dali, engine takes 0.65", mixed(third, 0.65), 3),
        Way("dali, engine takes all", mixed(2, 1.0), 6),
        Way("dali, as it comes", mixed(2), 8),
        Way("dali, as it comes", mixed(cores), 2),
    ]


def _measure(probe: Probe, way: Way, rounds: int = 2) -> None:
    images = list(itertools.islice(itertools.cycle(photos_in(probe.photos)), probe.images))
    batches = [images[first : first + probe.batch] for first in range(0, len(images), probe.batch)]
    local, built_s = threading.local(), []

    def one(batch: list[EncodedImage]) -> None:
        if not hasattr(local, "decoder"):
            started = time.perf_counter()
            local.decoder = way.make(way.sides)
            local.decoder.decode(batch)
            built_s.append(time.perf_counter() - started)
        local.decoder.decode(batch)

    rates, busy = [], []
    with ThreadPoolExecutor(way.workers, initializer=fix_numerics, initargs=(probe.device,)) as pool:
        list(pool.map(one, batches[: 2 * way.workers]))
        for _ in range(rounds):
            started, cpu = time.perf_counter(), time.process_time()
            list(pool.map(one, batches))
            probe.wait()
            spent = time.perf_counter() - started
            rates.append(len(images) / spent)
            busy.append((time.process_time() - cpu) / spent)
    mean, worst = _levels_off(probe, way)
    facts = {"way": way.name, "workers": way.workers, "sides": len(way.sides), "images_per_s": max(rates)}
    facts |= {"cores_busy": max(busy), "first_batch_s": max(built_s), "mean_levels": mean, "worst_photo": worst}
    probe.say("decode", facts)


def _levels_off(probe: Probe, way: Way) -> tuple[float, float]:
    """Grey levels between a way's crops and torchvision's on the CPU: the mean of all photos, and the worst one."""
    few = photos_in(probe.photos)[: min(64, probe.batch)]
    side = SIDES[0]
    exact = make_decoder("torchvision", [side], len(few), torch.device("cpu"), 1).decode(few).crops[side]
    found = way.make([side]).decode(few).crops[side][: len(few)].cpu()
    off = (found.short() - exact.short()).abs().float()
    return off.mean().item(), off.mean(dim=(1, 2, 3)).max().item()


def _nvjpeg_alone(probe: Probe) -> None:
    """torchvision's batched nvJPEG, which takes the JPEG engine where there is one. It decodes, and resizes nothing."""
    from torchvision.io import ImageReadMode, decode_jpeg

    photos = [torch.frombuffer(image.data, dtype=torch.uint8) for image in photos_in(probe.photos)]
    batch = list(itertools.islice(itertools.cycle(photos), probe.batch))

    def one(_: int) -> None:
        decode_jpeg(batch, mode=ImageReadMode.RGB, device=probe.device)

    for workers in (1, 3):
        facts: dict[str, object] = {"way": "torchvision decode_jpeg on cuda, no resize", "workers": workers}
        try:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(one, range(workers)))
                probe.wait()
                started, cpu = time.perf_counter(), time.process_time()
                list(pool.map(one, range(4 * workers)))
                probe.wait()
                spent = time.perf_counter() - started
            facts |= {"images_per_s": 4 * workers * probe.batch / spent}
            facts |= {"cores_busy": (time.process_time() - cpu) / spent}
        except RuntimeError as error:
            facts["error"] = str(error)[:200]
        probe.say("decode", facts)
