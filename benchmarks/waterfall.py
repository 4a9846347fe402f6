"""From a plain loop to fastclip, step by step: whole processes, each bar by the flags in its record.

    .venv/bin/python benchmarks/waterfall.py --photos DIR [--rounds 3] [--images 256] [--bars N …] [--device cuda]

Every bar embeds and scores the same photos with all of `--backbones`, one after the other; the last one in one run,
with fastclip's defaults. The plain loop's flags add up; fastclip's bars are its two decoders, and its compiler with
the device's own decoder.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from common import keep, parser
from peers import ARCHITECTURES, Peer, Work, compare


def bars(work: Work, backbones: list[str]) -> list[Peer]:
    """The steps in order."""
    half = "fp16" if work.device == "cuda" else "bf16"
    overlap, last = ("--workers", "2"), ("--workers", "2", "--channels-last")
    loops = [work.plain_loop(backbones, *flags) for flags in ((), overlap, last, (*last, "--precision", half))]
    ours = [("--decoder", "torchvision"), ("--decoder", "dali"), ("--compile", "on")]
    apart = [work.fastclip(backbones, *flags, apart=True) for flags in ours]
    steps = [*loops, *apart, work.fastclip(backbones)]
    return [replace(step, settings={**step.settings, "bar": str(number)}) for number, step in enumerate(steps)]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=256)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--backbones", nargs="+", default=["RN50", "ViT-B/32"], choices=ARCHITECTURES)
    options.add_argument("--bars", nargs="+", type=int, help="some of them, counted from 0")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Work(Path(folder), arguments.photos, arguments.images, arguments.device)
        steps = bars(work, arguments.backbones)
        if arguments.bars:
            steps = [steps[number] for number in arguments.bars]
        found = compare(
            "waterfall.py", steps, work, arguments.backbones, arguments.images, arguments.rounds, cold=False
        )
    keep(found, arguments.device)


if __name__ == "__main__":
    main()
