"""The cost of a slow process: one of two workers is frozen nine tenths of the time, and the other one helps.

    .venv/bin/python benchmarks/stragglers.py --photos DIR [--images 400] [--rounds 3]

Two workers of one thread each (`--share 1/2`, `--share 2/2`) embed photos with RN50. Seconds run from the first part to
the last, so start-up is left out. The ideal is what one and a tenth workers would take: as long as one worker takes for
everything, divided by 1.1. The pair without a slow worker stands beside it.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import copy_photos, keep, parser, whole_process

from fastclip.bench.records import measurement

SHARD_IMAGES = 10
PERIOD_S, AWAKE = 0.5, 0.1


def slow_down(process: subprocess.Popen[bytes], done: threading.Event) -> None:
    """Let `process` run a tenth of the time."""
    while process.poll() is None and not done.is_set():
        process.send_signal(signal.SIGSTOP)
        time.sleep(PERIOD_S * (1 - AWAKE))
        process.send_signal(signal.SIGCONT)
        time.sleep(PERIOD_S * AWAKE)


def seconds_to_embed(work: Path, store: Path, shares: list[str], slow: bool) -> float:
    """From the first part to the last, by a worker for each share; the last of them is slow if one is."""
    command = [sys.executable, "-m", "fastclip", "eval", "photos", "-b", "RN50", "--random-weights", "--workers", "1"]
    command += ["--precision", "fp32", "--batch-size", "5", "--store", str(store)]
    workers = [
        subprocess.Popen([*command, "--share", share], cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for share in shares
    ]
    done = threading.Event()
    if slow:
        threading.Thread(target=slow_down, args=(workers[-1], done), daemon=True).start()
    assert workers[0].wait() == 0
    done.set()
    for worker in workers[1:]:
        worker.terminate()
        worker.wait()
    written = [path.stat().st_mtime for path in store.glob("*/*.safetensors")]
    return max(written) - min(written)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=400)
    arguments = options.parse_args()
    cases = {"one worker": (["1/1"], False), "two workers": (["1/2", "2/2"], False)}
    cases["two workers, one slow"] = (["1/2", "2/2"], True)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        copy_photos(arguments.photos, arguments.images, work / "source")
        command = [sys.executable, "-m", "fastclip", "shard", "photos", "--source", work / "source"]
        whole_process([*command, "--shard-images", SHARD_IMAGES], work)
        for number in range(arguments.rounds):
            for case, (shares, slow) in cases.items():
                seconds[case].append(seconds_to_embed(work, work / f"{case} {number}", shares, slow))
    ideal = statistics.median(seconds["one worker"]) / 1.1
    settings = {"shard images": SHARD_IMAGES, "awake": AWAKE, "ideal with one slow": f"{ideal:.1f}"}
    keep(measurement(f"straggler, {case}", arguments.images, each, settings) for case, each in seconds.items())
    print(f"ideal with one slow {ideal:.1f} s: {statistics.median(seconds['two workers, one slow']) / ideal:.2f} of it")


if __name__ == "__main__":
    main()
