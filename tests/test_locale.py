"""Names of files are UTF-8 in every locale."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import image_bytes, write

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folders = [f"{domain}/{name}" for domain in ("Kunst-é", "größe") for name in ("Kätzchen", "狗")]
    names = [f"{folder}/{file}.png" for folder in folders for file in "ab"]
    files = {name: image_bytes(size=(5, 7), color=place) for place, name in enumerate(names)}
    return write(tmp_path_factory.mktemp("quelle-ä"), files)


@pytest.fixture(scope="module")
def latin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an ISO 8859-1 locale, made on the spot."""
    folder = tmp_path_factory.mktemp("locales")
    if not (make := shutil.which("localedef")):
        pytest.skip("there is no localedef to make a locale with")
    made = subprocess.run([make, "-i", "en_US", "-f", "ISO-8859-1", folder / "en_US.ISO-8859-1"], capture_output=True)
    if made.returncode:
        pytest.skip("localedef has no sources of locales here")
    return {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1"}


def manifest(folder: Path, source: Path, environment: dict[str, str]) -> bytes:
    """The manifest that a process with this environment writes. What it prints may not be UTF-8."""
    folder.mkdir()
    command = [sys.executable, "-m", "fastclip", "shard", "letters", "--source", source, "--layout", "domain/class"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True)
    assert done.returncode == 0, done.stderr
    return (folder / "shards" / "letters" / "manifest.json").read_bytes()


def test_a_dataset_is_the_same_under_ascii_and_utf8(source: Path, tmp_path: Path) -> None:
    utf8 = manifest(tmp_path / "a", source, {"PYTHONUTF8": "1"})
    assert manifest(tmp_path / "b", source, ASCII) == utf8
    assert "größe".encode() in utf8


def test_a_dataset_is_the_same_under_iso_8859_1_and_utf8(source: Path, latin: dict[str, str], tmp_path: Path) -> None:
    utf8 = manifest(tmp_path / "a", source, {"PYTHONUTF8": "1"})
    assert manifest(tmp_path / "b", source, latin) == utf8
