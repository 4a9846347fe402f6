"""Figures of one GPU, the most valuable first. A line of JSON each, written as soon as it is known.

    python benchmarks/gpu/probe.py PHOTOS RESULTS.jsonl STEP… [--seconds 120] [--names ViT-B/32 …] [--device cpu]

PHOTOS is a folder. Weights are drawn. A step begins nothing more after `--seconds`. `--device cpu` is for a rehearsal.
The exit code is 1 if a step failed.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

import torch
from decode import dali, decode
from machine import machine, products
from measure import Probe
from towers import compiled, parity, towers

from fastclip.machine import keep_freed_memory
from fastclip.models.numerics import find_device, fix_numerics

STEPS = {each.__name__: each for each in (dali, machine, decode, parity, towers, products, compiled)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("photos", type=Path)
    options.add_argument("results", type=Path)
    options.add_argument("steps", nargs="+", choices=STEPS)
    options.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--images", type=int, default=6144, help="photos decoded a round")
    options.add_argument("--seconds", type=float, default=120)
    options.add_argument("--names", nargs="+", default=[], help="backbones; default: those of the step")
    arguments = options.parse_args()
    keep_freed_memory()
    device = find_device(arguments.device, 0)
    fix_numerics(device)
    failed = False
    for name in arguments.steps:
        names = tuple(arguments.names)
        photos, results = arguments.photos, arguments.results
        probe = Probe(photos, results, device, arguments.batch, arguments.images, names, arguments.seconds)
        try:
            with torch.inference_mode():
                STEPS[name](probe)
        except Exception as error:  # the next step may work
            traceback.print_exc()
            probe.say(name, {"error": str(error)[:300]})
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
