"""Runs the commands that pages name between marks, on the demo's dataset, and puts what they print there.

    .venv/bin/python docs/fill.py [PAGE …]

A mark is `<!-- output: WORDS -->`, where WORDS follow `fastclip`; the block ends at `<!-- end -->`. Another one is
`<!-- picture: FILE WIDTH HEIGHT SCHEME PAGE -->` beside an image FILE: that of a PAGE that a command has written, taken
with Chromium where it is installed. `<!-- latex: FILE WORDS -->` is the same for a command that prints LaTeX. Names
with a `*` are looked up, as a shell does.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

HERE = Path(__file__).parent
LATEX = re.compile(r"<!-- latex: (\S+) (.*?) -->")
PICTURE = re.compile(r"<!-- picture: (\S+) (\d+) (\d+) (light|dark) (\S+) -->")
BLOCK = re.compile(r"<!-- output: (.*?) -->\n.*?<!-- end -->", re.DOTALL)


def output(words: str, folder: Path) -> str:
    """The output of `fastclip WORDS`, 80 columns wide, in a folder that holds the demo's dataset."""
    command = [sys.executable, "-m", "fastclip", *_looked_up(shlex.split(words), folder)]
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(HERE.parent), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def _looked_up(words: Iterable[str], folder: Path) -> Iterable[str]:
    for word in words:
        if "*" in word:
            yield from sorted(str(path.relative_to(folder)) for path in folder.glob(word))
        else:
            yield word


def take_pictures(text: str, folder: Path) -> None:
    """Take the pictures that a page names, of the pages that its commands have written."""
    found = PICTURE.findall(text)
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found or not browser:
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for name, width, height, scheme, page in found:
            (path,) = folder.glob(page)
            tab = chromium.new_page(viewport={"width": int(width), "height": int(height)}, color_scheme=scheme)
            tab.goto(path.resolve().as_uri())
            tab.screenshot(path=HERE / name)
        chromium.close()


def set_tables(text: str, folder: Path) -> None:
    """Set the tables that a page names in LaTeX, where it is installed."""
    for name, words in LATEX.findall(text) if shutil.which("pdflatex") and shutil.which("pdftoppm") else ():
        packages = "\\usepackage{booktabs}"
        body = f"\\begin{{document}}{output(words, folder)}\\end{{document}}"
        (folder / "set.tex").write_text(f"\\documentclass[border=6pt,varwidth=16cm]{{standalone}}{packages}{body}")
        run = partial(subprocess.run, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        run(["pdflatex", "-interaction=batchmode", "set.tex"])
        run(["pdftoppm", "-png", "-r", "130", "-singlefile", "set.pdf", "set"])
        shutil.copy(folder / "set.png", HERE / name)


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
            text = filled(page.read_text(), Path(folder))
            take_pictures(text, Path(folder))
            set_tables(text, Path(folder))
            page.write_text(text)
        print(page)


if __name__ == "__main__":
    main()
