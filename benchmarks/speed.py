"""How fast fastclip is, beside CLIP_benchmark, and which stage bounds it.

    .venv/bin/python benchmarks/speed.py --photos DIR [--rounds 3] [--device cuda]

Every whole-process figure is the wall time of a command from its start to its end, models and all, on the same shards
with the same random weights; the two programs take turns, and a record holds the median. Records are appended to
benchmarks/results/ as JSON lines; `benchmarks/README.md` shows the tables made of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PEER = REPOSITORY / ".venv-reference" / "bin" / "python"
BACKBONES = {"ViT-B/32": "ViT-B-32-quickgelu", "RN50": "RN50-quickgelu"}


@dataclass(frozen=True)
class Measurement:
    """Images and seconds of the same span, and the conditions."""

    what: str
    images: int
    seconds: float
    """The median of `rounds`."""
    all_seconds: list[float]
    peak_gib: float
    """Of the process that was started, the largest of all rounds."""
    settings: dict[str, str]
    machine: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.images / self.seconds


def machine(device: str) -> dict[str, str]:
    """What it ran on."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = next(line.split(":")[1].strip() for line in cpu.splitlines() if line.startswith("model name"))
    found = {"cpu": model, "cores": str(len(os.sched_getaffinity(0))), "python": platform.python_version()}
    found["bf16"] = " ".join(name for name in ("avx512_bf16", "amx_bf16") if name in cpu) or "no"
    found |= {package: version(package) for package in ("torch", "torchvision", "open_clip_torch")}
    if device == "cuda":
        import torch

        found |= {"gpu": torch.cuda.get_device_name(0), "dali": version("nvidia-dali-cuda130")}
    commit = ["git", "describe", "--always", "--dirty"]
    found["commit"] = subprocess.run(commit, cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
    return found


def whole_process(command: Sequence[object], folder: Path) -> tuple[float, float]:
    """Wall seconds and peak GiB of a command that must succeed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": ""}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([str(word) for word in command], cwd=folder, env=environment, stdout=log, stderr=log)
        peak_kib = 0
        while process.poll() is None:
            # Not wait4's figure: it starts from the memory of this process, which has held models too.
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak_kib = max([peak_kib, *(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)])
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(map(str, command))} failed:\n{log.read().decode()[-2000:]}")
    return seconds, peak_kib / 2**20


def copy_photos(photos: Path, count: int, folder: Path) -> None:
    """`count` files in two class folders, the photos over and over."""
    files = sorted(path for path in photos.iterdir() if path.is_file())
    for index in range(count):
        target = folder / "ab"[index % 2] / f"{index:06d}{files[index % len(files)].suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[index % len(files)], target)


def shard(photos: Path, count: int, work: Path) -> str:
    """A sharded dataset of `count` photos in `work`/shards; its name."""
    name = f"photos{count}"
    copy_photos(photos, count, work / name)
    whole_process([sys.executable, "-m", "fastclip", "shard", name, "--source", work / name], work)
    return name


def save_random_weights(backbone: str, path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from fastclip.models.backbones import find_backbone
    from fastclip.models.tower import build_model

    torch.manual_seed(0)
    save_file(build_model(find_backbone(backbone), "fp32", meta=False).state_dict(), path)


def ours(name: str, backbone: str, weights: Path, precision: str, device: str) -> list[object]:
    command = [sys.executable, "-m", "fastclip", "eval", name, "-b", backbone, "--weights", weights]
    return [*command, "--prompts", "photo", "--precision", precision, "--device", device, "--store", "fresh"]


def peers(name: str, architecture: str, weights: Path, precision: str) -> list[object]:
    """CLIP_benchmark on our shards: a domain is a split. It computes in bf16 unless it is told not to."""
    command = [PEER, "-m", "clip_benchmark.cli", "eval", "--dataset", f"wds/{name}", "--dataset_root", f"shards/{name}"]
    command += ["--split", "all", "--task", "zeroshot_classification", "--model", architecture, "--pretrained", weights]
    command += ["--num_workers", "1", "--batch_size", "64", "--output", "peer.json"]
    return [*command, *(["--no_amp"] if precision == "fp32" else [])]


def compare(name: str, images: int, work: Path, rounds: int, device: str) -> list[Measurement]:
    """Whole processes in turns: ours, theirs, ours, theirs …"""
    measurements = []
    (work / "shards" / name / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    for backbone, architecture in BACKBONES.items():
        weights = work / f"{architecture}.safetensors"
        save_random_weights(backbone, weights)
        for precision in ("bf16", "fp32"):
            commands = {"fastclip": ours(name, backbone, weights, precision, device)}
            if PEER.is_file() and device == "cpu":
                commands["CLIP_benchmark"] = peers(name, architecture, weights, precision)
            runs: dict[str, list[tuple[float, float]]] = {program: [] for program in commands}
            for _ in range(rounds):
                for program, command in commands.items():
                    shutil.rmtree(work / "fresh", ignore_errors=True)
                    runs[program].append(whole_process(command, work))
            for program, results in runs.items():
                settings = {"program": program, "backbone": backbone, "precision": precision, "device": device}
                measurements.append(measurement("whole process", images, results, settings))
    return measurements


def measurement(
    what: str, images: int, results: Sequence[tuple[float, float]], settings: dict[str, str]
) -> Measurement:
    seconds = [round(wall_s, 5) for wall_s, _ in results]
    peak_gib = round(max(peak_gib for _, peak_gib in results), 2)
    return Measurement(what, images, statistics.median(seconds), seconds, peak_gib, settings)


def stages(name: str, images: int, work: Path, device: str) -> list[Measurement]:
    """Seconds of each stage by itself, as the threads of one run spent them, turned into what all threads can do."""
    from fastclip.evaluate.options import EvalOptions
    from fastclip.evaluate.run import Run
    from fastclip.evaluate.scoring import score

    measurements = []
    for backbone, architecture in BACKBONES.items():
        shutil.rmtree(work / "fresh", ignore_errors=True)
        options = EvalOptions(
            targets=(name,),
            backbones=(backbone,),
            prompts=("photo",),
            weights={backbone: work / f"{architecture}.safetensors"},
            device=device,
            shards=work / "shards",
            store=work / "fresh",
        )
        run = Run(options)
        run.embed()
        score(run)  # once for the prototypes
        started = time.perf_counter()
        score(run)
        spent = {
            "read": run.seconds.read,
            "decode": run.seconds.decode / run.workers,
            "embed": run.seconds.embed / run.workers,
            "write": run.seconds.write,
            "score": time.perf_counter() - started,
        }
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        settings = {"program": "fastclip", "backbone": backbone, "precision": run.precision, "device": device}
        settings |= {"decoder": run.decoder, "workers": str(run.workers), "batch": str(run.batch_size)}
        settings["bounded by"] = max(spent, key=spent.__getitem__)
        measurements += [measurement(stage, images, [(s, peak_gib)], settings) for stage, s in spent.items()]
    return measurements


def memory(photos: Path, work: Path, device: str) -> list[Measurement]:
    """Peak memory of whole runs over ten times as many images."""
    measurements = []
    for count in (1_000, 10_000):
        name = shard(photos, count, work)
        command = [sys.executable, "-m", "fastclip", "eval", name, "-b", "tiny", "--store", "fresh", "--device", device]
        settings = {"program": "fastclip", "backbone": "tiny", "precision": "default", "device": device}
        measurements.append(measurement("whole process", count, [whole_process(command, work)], settings))
        shutil.rmtree(work / name)
        shutil.rmtree(work / "shards" / name)
    return measurements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos of ImageNet size")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    conditions = machine(arguments.device)
    results = REPOSITORY / "benchmarks" / "results" / f"{time.strftime('%Y-%m-%d')}-{arguments.device}.jsonl"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        name = shard(arguments.photos, arguments.images, work)
        found = compare(name, arguments.images, work, arguments.rounds, arguments.device)
        found += stages(name, arguments.images, work, arguments.device)
        found += memory(arguments.photos, work, arguments.device)
    with results.open("a") as file:
        for each in found:
            file.write(json.dumps({**asdict(each), "machine": conditions}) + "\n")
            shown = ", ".join(each.settings.values())
            print(f"{each.what:14} {each.images:6,} images {each.seconds:7.2f} s {each.rate:9.1f}/s  {shown}")
    print(f"records: {results.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
