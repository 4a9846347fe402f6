"""Ten times as many images: ten times as long, and as much memory.

.venv/bin/python benchmarks/scale.py --photos DIR [--images 1000] [--device cuda]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from common import copy_photos, keep, of_whole_processes, parser, shard_folder, whole_process


def main() -> None:
    options = parser(__doc__, rounds=1)
    options.add_argument("--images", type=int, default=1000)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = options.parse_args()
    found = []
    for count in (arguments.images, 10 * arguments.images):
        with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
            work = Path(folder)
            copy_photos(arguments.photos, count, work / "photos")
            shard_folder(work / "photos", work)
            command = [sys.executable, "-m", "fastclip", "eval", "photos", "-b", "tiny", "--device", arguments.device]
            runs = []
            for _ in range(arguments.rounds):
                shutil.rmtree(work / "embeddings", ignore_errors=True)
                runs.append(whole_process(command, work))
            settings = {"benchmark": "scale.py", "program": "fastclip", "backbone": "tiny", "device": arguments.device}
            found.append(of_whole_processes("whole process", count, runs, settings))
    keep(found, arguments.device)


if __name__ == "__main__":
    main()
