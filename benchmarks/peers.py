"""fastclip beside CLIP_benchmark, clip-retrieval and a plain loop: whole processes on the same photos and weights.

    .venv/bin/python benchmarks/peers.py --photos DIR [--rounds 5] [--images 512] [--five] [--cold] [--device cuda]

fastclip runs as it comes. Every other program is tried once at each of several settings, with the first backbone on a
quarter of the images, and its fastest is what runs beside fastclip. Wall time of commands from their start to their
end, models and all, in turns; a record holds the median, all rounds and the number of right answers. The same random
weights for all: every photo then falls into one class, so that the counts show only that every image was counted; equal
answers with trained weights are what the tests show.

`make test` sets up CLIP_benchmark's environment. clip-retrieval needs one of its own, and is left out without it:

    python3 -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/peers.txt
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from common import (
    PEER,
    REPOSITORY,
    Finished,
    copy_photos,
    keep,
    of_whole_processes,
    parser,
    save_random_weights,
    shard_folder,
    whole_process,
)

from fastclip.bench.records import Measurement
from fastclip.models.backbones import OPENAI_BACKBONES

CLIP_RETRIEVAL = REPOSITORY / ".venv-peers" / "bin" / "python"
ARCHITECTURES = {name: backbone.architecture for name, backbone in OPENAI_BACKBONES.items()}
SMALL = ("RN50", "RN101", "RN50x4", "ViT-B/32", "ViT-B/16")
ALL = ("CLIP_benchmark", "clip-retrieval", "plain loop")
TEMPLATE = "a photo of a {}."


@dataclass(frozen=True)
class Peer:
    """A program at some setting: its commands, and how many answers were right."""

    program: str
    commands: Sequence[Sequence[object]]
    """One after the other: a program that takes one backbone at a time is started for each."""
    right: Callable[[], list[int]]
    settings: dict[str, str] = field(default_factory=dict)


class Work:
    """A folder with the photos as files and as shards, and weights; every program writes below `out`."""

    def __init__(self, folder: Path, photos: Path, images: int, device: str) -> None:
        self.folder, self.device = folder, device
        copy_photos(photos, images, folder / "source")
        # About sixteen shards of whole batches: other programs have at most a loading process a shard.
        batch = 256 if device == "cuda" else 32
        shard_folder(folder / "source", folder, "--shard-images", -(-images // (16 * batch)) * batch)
        (folder / "shards" / "source" / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
        self.out = folder / "out"

    def weights(self, backbone: str) -> Path:
        path = self.folder / f"{ARCHITECTURES[backbone]}.safetensors"
        if not path.exists():
            save_random_weights(backbone, path)
        return path

    def fastclip(self, backbones: Sequence[str], *options: str, apart: bool = False) -> Peer:
        """All backbones in one run, or, `apart`, in a run for each."""
        groups = [[name] for name in backbones] if apart else [list(backbones)]
        records = [self.out / f"record-{number}.json" for number in range(len(groups))]
        commands = []
        for group, record in zip(groups, records, strict=True):
            command: list[object] = [sys.executable, "-m", "fastclip", "eval", "source", "--prompts", "photo"]
            for name in group:
                command += ["-b", name, "--weights", f"{ARCHITECTURES[name]}={self.weights(name)}"]
            command += ["--device", self.device, "--store", self.out / "store", "--json", record, *options]
            commands.append(command)

        def right() -> list[int]:
            cells = [cell for record in records for cell in json.loads(record.read_text())["cells"]]
            return [sum(cell["top1"] for cell in cells if cell["backbone"] == name) for name in backbones]

        flags = " ".join(options) or "its defaults"
        return Peer("fastclip", commands, right, {"options": f"{flags}, a run for each" if apart else flags})

    def clip_benchmark(self, backbones: Sequence[str], *options: str) -> Peer:
        """Several models in one process. A domain is a split. It computes in 16 bits unless it is told not to."""
        command: list[object] = [PEER, "-m", "clip_benchmark.cli", "eval", "--dataset", "wds/source", "--split", "all"]
        command += ["--dataset_root", self.folder / "shards" / "source", "--task", "zeroshot_classification"]
        command += ["--pretrained_model", *(f"{ARCHITECTURES[name]},{self.weights(name)}" for name in backbones)]
        command += ["--output", self.out / "{model}.json", *options]

        def right() -> list[int]:
            return [self._accuracy(self.out / f"{ARCHITECTURES[name]}.json") for name in backbones]

        return Peer("CLIP_benchmark", [command], right, {"options": " ".join(options)})

    def _accuracy(self, path: Path) -> int:
        images = sum(1 for _ in (self.folder / "source").rglob("*.*"))
        return round(json.loads(path.read_text())["metrics"]["acc1"] * images)

    def clip_retrieval(self, backbones: Sequence[str], *options: str) -> Peer:
        """It writes embeddings only; they are scored here, outside of its time."""
        tars = sorted((self.folder / "shards" / "source").rglob("*.tar"))
        commands: list[list[object]] = []
        for name in backbones:
            command: list[object] = [CLIP_RETRIEVAL, "-c", "from clip_retrieval.cli import main; main()", "inference"]
            command += [f"--input_dataset={_braces(tars)}", "--input_format=webdataset"]
            command += [f"--output_folder={self.out / name.replace('/', '-')}", "--enable_text=False"]
            command += [f"--clip_model=open_clip:{ARCHITECTURES[name]}/{self.weights(name)}", "--use_jit=False"]
            commands.append([*command, *options])

        def right() -> list[int]:
            return [self._score(name, self.out / name.replace("/", "-")) for name in backbones]

        return Peer("clip-retrieval", commands, right, {"options": " ".join(options)})

    def _score(self, backbone: str, folder: Path) -> int:
        """By the prototypes that fastclip keeps, with the labels of the tars' members."""
        import tarfile

        import pyarrow.parquet
        from safetensors.numpy import load_file

        from fastclip.models.backbones import find_backbone
        from fastclip.models.tower import load_text_tower
        from fastclip.models.weights import find_weights

        path = self.folder / f"{ARCHITECTURES[backbone]}.prototypes.safetensors"
        if not path.exists():
            from safetensors.torch import save_file

            found = find_backbone(backbone)
            tower = load_text_tower(found, find_weights(found, self.weights(backbone)), torch.device("cpu"))
            save_file({"prototypes": tower([TEMPLATE.format(name) for name in "ab"], 1)}, path)
        labels = {}
        for tar in (self.folder / "shards" / "source").rglob("*.tar"):
            with tarfile.open(tar) as members:
                for member in members:
                    if member.name.endswith(".cls"):
                        labels[member.name[:-4]] = int(members.extractfile(member).read())  # type: ignore[union-attr]
        embeddings = np.concatenate([np.load(file) for file in sorted((folder / "img_emb").glob("*.npy"))])
        names = [
            key
            for file in sorted((folder / "metadata").glob("*.parquet"))
            for key in pyarrow.parquet.read_table(file)["image_path"].to_pylist()
        ]
        answers = (embeddings.astype(np.float32) @ load_file(path)["prototypes"].T).argmax(axis=1)
        return sum(int(answer == labels[name]) for answer, name in zip(answers, names, strict=True))

    def plain_loop(self, backbones: Sequence[str], *options: str) -> Peer:
        commands = []
        for name in backbones:
            command = [sys.executable, REPOSITORY / "benchmarks" / "plain_loop.py", "--images", self.folder / "source"]
            command += ["--architecture", ARCHITECTURES[name], "--weights", self.weights(name), "--device", self.device]
            commands.append([*command, *options])
        return Peer("plain loop", commands, list, {"options": " ".join(options) or "its defaults"})


def _braces(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else "{" + ",".join(map(str, paths)) + "}"


def run_once(peer: Peer, work: Work, cold: bool) -> tuple[Finished, list[int]]:
    """One run from nothing, and its right answers by backbone."""
    shutil.rmtree(work.out, ignore_errors=True)
    work.out.mkdir()
    if cold:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    runs = [whole_process(command, work.folder) for command in peer.commands]
    printed = [json.loads(run.last_line)["right"] for run in runs if peer.program == "plain loop"]
    whole = Finished(sum(run.seconds for run in runs), max(run.peak_gib for run in runs), "")
    return whole, printed or peer.right()


def compare(
    benchmark: str, peers: Sequence[Peer], work: Work, backbones: Sequence[str], images: int, rounds: int, cold: bool
) -> list[Measurement]:
    """Every program in turns, for the program `benchmark`."""
    runs: list[list[tuple[Finished, list[int]]]] = [[] for _ in peers]
    for number in range(rounds):
        for peer, found in zip(peers, runs, strict=True):
            found.append(run_once(peer, work, cold))
            print(
                f"round {number + 1}: {peer.program} {peer.settings['options']}: {found[-1][0].seconds:.1f} s",
                flush=True,
            )
    records = []
    for peer, found in zip(peers, runs, strict=True):
        settings = {
            "benchmark": benchmark,
            "program": peer.program,
            **peer.settings,
            "backbone": " ".join(backbones),
            "device": work.device,
        }
        settings |= {"cache": "cold" if cold else "warm", "right": str(found[-1][1])}
        records.append(of_whole_processes("whole process", images, [finished for finished, _ in found], settings))
    return records


def others(work: Work, backbones: Sequence[str], shards: int) -> list[list[Peer]]:
    """Every other program that is installed, at all of its settings that may be its fastest: those of `shards` shards
    have no more processes than that, with which two of the programs hang or fail.
    """
    half = "fp16" if work.device == "cuda" else "bf16"
    loader = (1, 2) if work.device == "cpu" else (4, 8, 16)
    loops = [
        ("--workers", str(workers), "--precision", precision, *more)
        for workers, precision, more in itertools.product(loader, ("fp32", half), ((), ("--channels-last",)))
    ]
    found = [[work.plain_loop(backbones, *options) for options in loops]]
    readers = list(dict.fromkeys(number for number in (1, *loader) if number <= shards))
    batches = (32, 64) if work.device == "cpu" else (256,)
    if PEER.is_file():
        settings = itertools.product(readers, batches, ((), ("--no_amp",)))
        found.append(
            [
                work.clip_benchmark(backbones, "--num_workers", str(number), "--batch_size", str(batch), *more)
                for number, batch, more in settings
            ]
        )
    if CLIP_RETRIEVAL.is_file():
        found.append(
            [
                work.clip_retrieval(backbones, f"--num_prepro_workers={number}", f"--batch_size={batch}")
                for number, batch in itertools.product(readers, batches)
            ]
        )
    return found


def fastest(settings: Sequence[Peer], work: Work) -> int | None:
    """The index of the setting that takes the least time, by one run each; None if none of them works here."""
    seconds = []
    for peer in (settings[0], *settings):  # at first nobody has read the files yet
        name = f"{peer.program} {peer.settings['options']}"
        try:
            seconds.append(run_once(peer, work, cold=False)[0].seconds)
            print(f"try: {name}: {seconds[-1]:.1f} s", flush=True)
        except SystemExit as error:  # more processes, say, than its share of /dev/shm holds
            seconds.append(math.inf)
            print(f"try: {name}: {error}", flush=True)
    best = min(seconds[1:])
    return seconds.index(best, 1) - 1 if best < math.inf else None


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--images", type=int, default=512)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--backbones", nargs="+", default=["ViT-B/32", "RN50"], choices=ARCHITECTURES)
    options.add_argument("--five", action="store_true", help="all five small backbones in one go instead")
    options.add_argument("--cold", action="store_true", help="nothing in the page cache; needs root")
    options.add_argument("--only", nargs="+", choices=ALL, help="some of the programs")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Work(Path(folder) / "all", arguments.photos, arguments.images, arguments.device)
        few = Work(Path(folder) / "few", arguments.photos, -(-arguments.images // 4), arguments.device)
        for backbones in [list(SMALL)] if arguments.five else [[name] for name in arguments.backbones]:
            for name in backbones:
                work.weights(name)
            few.weights(backbones[0])
            peers = [work.fastclip(backbones)]
            shards = len(list((few.folder / "shards" / "source").rglob("*.tar")))
            tries = others(few, backbones[:1], shards)
            for settings, tried in zip(others(work, backbones, shards), tries, strict=True):
                if settings[0].program in (arguments.only or ALL) and (best := fastest(tried, few)) is not None:
                    peers.append(settings[best])
            found = compare("peers.py", peers, work, backbones, arguments.images, arguments.rounds, arguments.cold)
            keep(found, arguments.device)


if __name__ == "__main__":
    main()
