"""How fast fastclip is, beside CLIP_benchmark, and which stage bounds it.

    .venv/bin/python benchmarks/speed.py --photos DIR [--rounds 3] [--device cuda]

Every whole-process figure is the wall time of a command from its start to its end, models and all, on the same shards
with the same random weights; the two programs take turns, and a record holds the median. Records are appended to
benchmarks/results/ as JSON lines; `benchmarks/README.md` shows the tables made of them.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from common import PEER, keep, of_whole_processes, parser, save_random_weights, shard, whole_process

from fastclip.bench.records import Measurement, measurement

BACKBONES = {"ViT-B/32": "ViT-B-32-quickgelu", "RN50": "RN50-quickgelu"}


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
                measurements.append(of_whole_processes("whole process", images, results, settings))
    return measurements


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
        measurements += [measurement(stage, images, [s], settings, peak_gib) for stage, s in spent.items()]
    return measurements


def memory(photos: Path, work: Path, device: str) -> list[Measurement]:
    """Peak memory of whole runs over ten times as many images."""
    measurements = []
    for count in (1_000, 10_000):
        name = shard(photos, count, work)
        command = [sys.executable, "-m", "fastclip", "eval", name, "-b", "tiny", "--store", "fresh", "--device", device]
        settings = {"program": "fastclip", "backbone": "tiny", "precision": "default", "device": device}
        measurements.append(of_whole_processes("whole process", count, [whole_process(command, work)], settings))
        shutil.rmtree(work / name)
        shutil.rmtree(work / "shards" / name)
    return measurements


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=512)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        name = shard(arguments.photos, arguments.images, work)
        found = compare(name, arguments.images, work, arguments.rounds, arguments.device)
        found += stages(name, arguments.images, work, arguments.device)
        found += memory(arguments.photos, work, arguments.device)
    keep(found, arguments.device)


if __name__ == "__main__":
    main()
