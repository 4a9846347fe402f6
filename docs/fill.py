"""Runs the commands that pages name between marks, on the demo's dataset, and puts what they print there.

    .venv/bin/python docs/fill.py [PAGE …]

A mark is `<!-- output: WORDS -->`, where WORDS follow `fastclip`; the block ends at `<!-- end -->`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
BLOCK = re.compile(r"<!-- output: (.*?) -->\n.*?<!-- end -->", re.DOTALL)


def output(words: str, folder: Path) -> str:
    """The output of `fastclip WORDS`, 80 columns wide, in a folder that holds the demo's dataset."""
    command = [sys.executable, "-m", "fastclip", *shlex.split(words)]
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(HERE.parent), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def filled(text: str, folder: Path) -> str:
    """A page with every block filled anew. Commands run in the page's order; others may build on their files."""
    run = cache(lambda words: output(words, folder))

    def block(match: re.Match[str]) -> str:
        lines = "\n".join(f"    {line}".rstrip() for line in run(match[1]).rstrip().splitlines())
        return f"<!-- output: {match[1]} -->\n\n{lines}\n\n<!-- end -->"

    # Hidden commands make what a shown one reads.
    for words in re.findall(r"<!-- before: (.*?) -->", text):
        run(words)
    return BLOCK.sub(block, text)


def main() -> None:
    """Fill the pages in place."""
    marked = [each for each in sorted(HERE.glob("*.md")) if BLOCK.search(each.read_text())]
    for page in [Path(name) for name in sys.argv[1:]] or marked:
        with tempfile.TemporaryDirectory() as folder:
            output("demo", Path(folder))
            page.write_text(filled(page.read_text(), Path(folder)))
        print(page)


if __name__ == "__main__":
    main()
