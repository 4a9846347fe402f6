"""An export in Embedding Atlas, in a real browser without a network. `make viewers` sets it up."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from drawn_store import RECIPE, fill
from helpers import REPOSITORY, Program, Sharded, wait_until

ATLAS = REPOSITORY / ".venv-viewers" / "bin" / "embedding-atlas"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WITHOUT_A_GPU = ("WebGPU", "status of 404")
"""Words of the only messages that are let pass: the map needs WebGPU, and the viewer has no picture for a tab."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ATLAS.exists(), reason="Embedding Atlas is not here: make viewers"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


def answers_at(port: int) -> bool:
    with socket.socket() as opened:
        return opened.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def served(command: str, folder: Path) -> Iterator[str]:
    """The address at which the command that `fastclip export` prints shows its page. Here uvx is not needed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, name, *words = shlex.split(command)
    assert name == "embedding-atlas==0.26.*"
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-auto-port"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([ATLAS, *words, *options], stdout=log, stderr=log)
        try:
            wait_until(lambda: process.poll() is not None or answers_at(port), "a page")
            assert process.poll() is None, (folder / "log").read_text()
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.kill()
            process.wait()


def test_embedding_atlas_shows_every_image_with_its_answer_and_thumbnail(fastclip: Program, shapes: Sharded):
    from playwright.sync_api import expect, sync_playwright

    fill(shapes, fastclip.folder / "embeddings")
    words = ("-b", "tiny", "--recipe", RECIPE.id[:12], "--shards", shapes.shards)
    assert fastclip.here("eval", "shapes", *words).code == 0
    (run,) = (fastclip.folder / "results").iterdir()
    outcome = fastclip.here("export", run, "--shards", shapes.shards, "--output", "out")
    assert outcome.code == 0, outcome.err
    noise: list[str] = []
    with served(outcome.out.splitlines()[-1], fastclip.folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.on("console", lambda message: message.type == "error" and noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda r: r.url.startswith((address, "data:", "blob:")) or noise.append(r.url))
        page.goto(address)
        expect(page.get_by_text("240 / 240 points")).to_be_visible(timeout=60_000)
        expect(page.get_by_text("tiny_transferlearning_right (BOOLEAN)").first).to_be_attached(timeout=60_000)
        pictures = (
            "[...document.images].filter((e) => e.src.startsWith('data:image/jpeg') && e.naturalWidth === 96).length"
        )
        page.wait_for_function(f"{pictures} >= 20", timeout=60_000)
        browser.close()
    assert not [each for each in noise if not any(words in each for words in WITHOUT_A_GPU)]
