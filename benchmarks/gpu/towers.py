"""Towers on a GPU: how fast, how near to fp32 on a CPU, and what CUDA graphs and the compiler add."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import UInt8
from measure import Probe, crops_of
from safetensors.torch import save_file
from torch import Tensor
from variants import make_tower, ways_of

from fastclip.machine import available_cores
from fastclip.models.backbones import OPENAI_BACKBONES
from fastclip.models.cost import flops
from fastclip.models.tower import ImageTower, build_model, load_image_tower
from fastclip.models.weights import weights_in

sys.path.append(str(Path(__file__).parent.parent.parent / "tests"))
from helpers import lively

FEW = ("ViT-B/32", "RN50", "ViT-L/14")
ALL = ("ViT-B/32", "RN50", "ViT-L/14", "RN50x64", "ViT-L/14@336px", "RN50x16", "ViT-B/16", "RN50x4", "RN101")
"""The most telling first."""


def towers(probe: Probe) -> None:
    """Images a second of every tower, made in every way, and by a CUDA graph."""
    for name in probe.names or ALL:
        exact = None
        for way in ways_of(name):
            if probe.out_of_time:
                return probe.say("towers", {"out_of_time": name})
            try:
                exact = _time_tower(probe, name, way, exact)
            except Exception as error:  # a tower that fails must not cost the others
                traceback.print_exc()
                probe.say("tower", {"name": name, "way": way, "error": str(error)[:300]})
            if probe.on_gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    return None


def _time_tower(probe: Probe, name: str, way: str, exact: Tensor | None) -> Tensor:
    """Measure one tower against the vectors in `exact`. Returns those, or its own if there are none yet."""
    crops = crops_of(probe.photos, OPENAI_BACKBONES[name].side, probe.batch, probe.device)
    started = time.perf_counter()
    tower = make_tower(name, way, probe.device)
    probe.wait()
    built_s = time.perf_counter() - started
    found, again = tower(crops).vectors.clone(), tower(crops).vectors
    exact = found if exact is None else exact
    spent = probe.seconds(lambda: tower(crops))
    probe.wait()
    started = time.perf_counter()
    tower(crops)
    launch_s = time.perf_counter() - started
    probe.wait()
    facts = {"name": name, "way": way, "batch": probe.batch, "images_per_s": probe.batch / spent}
    facts |= {"tflops": flops(OPENAI_BACKBONES[name]) * probe.batch / spent / 1e12, "launch_ms": launch_s * 1e3}
    facts |= {"gpu_ms": spent * 1e3, "build_s": built_s, "least_cosine": (found * exact).sum(1).min().item()}
    facts |= {"same_bits_again": torch.equal(found, again)}
    if probe.on_gpu:
        replay, result = _graph(probe, tower, crops)
        replay()
        probe.wait()
        facts |= {"graph_same_bits": torch.equal(result, found)}
        facts |= {"graph_images_per_s": probe.batch / probe.seconds(replay)}
        facts |= {"peak_gib": torch.cuda.max_memory_allocated() / 2**30}
    probe.say("tower", facts)
    if probe.on_gpu and (name, way) == ("ViT-B/32", "as it is"):
        for batch in (64, 512, 1024):
            more = crops_of(probe.photos, tower.side, batch, probe.device)
            rate = batch / probe.seconds(lambda more=more: tower(more))
            probe.say("tower", {"name": name, "way": way, "batch": batch, "images_per_s": rate})
    return exact


def _graph(
    probe: Probe, tower: ImageTower, crops: UInt8[Tensor, "batch 3 side side"]
) -> tuple[Callable[[], object], Tensor]:
    """A function that replays the tower of one batch as a CUDA graph, and the vectors that it fills."""
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):
            tower(crops)
    probe.wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = tower(crops).vectors
    return graph.replay, result


def parity(probe: Probe) -> None:
    """Embeddings of photos in every precision against fp32 on the CPU, under weights by which photos differ."""
    count = min(32, probe.batch)
    for name in probe.names or FEW:
        if probe.out_of_time:
            return
        backbone = OPENAI_BACKBONES[name]
        crops = crops_of(probe.photos, backbone.side, count, probe.device)
        with tempfile.TemporaryDirectory() as folder:
            path, pixels = Path(folder) / "drawn.safetensors", crops[:8].cpu().float() / 128 - 1
            save_file(lively(build_model(backbone, drawn=True), pixels), path)
            weights = weights_in(path)
            torch.set_num_threads(available_cores())
            exact = load_image_tower(backbone, weights, "fp32", torch.device("cpu"))(crops.cpu()).vectors
            torch.set_num_threads(1)
            for precision in ("fp32", "fp16", "bf16"):
                found = load_image_tower(backbone, weights, precision, probe.device)(crops).vectors.cpu()
                cosines = (found * exact).sum(1)
                nearest = [(each @ each.T - 2 * torch.eye(count)).argmax(1) for each in (exact, found)]
                facts = {"name": name, "precision": precision, "mean_cosine": cosines.mean().item()}
                facts |= {"least_cosine": cosines.min().item(), "flipped": int((nearest[0] != nearest[1]).sum())}
                probe.say("parity", {**facts, "largest_difference": (found - exact).abs().max().item()})


def compiled(probe: Probe) -> None:
    """Seconds that torch's compiler takes, and images a second afterwards."""
    from torch._inductor import config

    config.deterministic = True
    for name in probe.names or FEW:
        for way in dict.fromkeys((ways_of(name)[0], ways_of(name)[-1] if name.startswith("ViT") else "as it is")):
            if probe.out_of_time:
                return
            facts: dict[str, object] = {"name": name, "way": way}
            try:
                tower = make_tower(name, way, probe.device)
                crops = crops_of(probe.photos, tower.side, probe.batch, probe.device)
                plain = tower(crops).vectors.clone()
                tower._visual = torch.compile(tower._visual, dynamic=False, fullgraph=True)
                started = time.perf_counter()
                found = tower(crops).vectors
                probe.wait()
                facts["build_s"] = time.perf_counter() - started
                facts["images_per_s"] = probe.batch / probe.seconds(lambda tower=tower, crops=crops: tower(crops))
                facts["least_cosine"] = (found * plain).sum(1).min().item()
            except Exception as error:  # a tower that cannot be compiled must not cost the others
                facts["error"] = str(error)[:300]
            probe.say("compiled", facts)
