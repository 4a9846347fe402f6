"""The wheel is whole: installed alone and away from the checkout, it runs the demo."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from helpers import REPOSITORY

NETWORK_OFF = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1"}


def run(*command: object, folder: Path) -> str:
    """Standard output of a program that sees neither this checkout nor a network."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RANK")}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment | NETWORK_OFF, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources() -> dict[str, bytes]:
    """The files that a wheel is built from: of git's, and new ones, so that nothing left over from a build counts."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("git, which knows the files of the package, is not at hand: this is no checkout")
    asked = ("fastclip", "pyproject.toml", "README.md", "LICENSE")
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *asked)
    names = run(*listed, folder=REPOSITORY).split("\0")
    return {name: (REPOSITORY / name).read_bytes() for name in names if (REPOSITORY / name).is_file()}


@pytest.fixture(scope="module")
def wheel(sources: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    for name, data in sources.items():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_bytes(data)
    pip_wheel = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation")
    run(*pip_wheel, "--wheel-dir", folder, folder / "source", folder=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(sources: dict[str, bytes], wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    package = {name: data for name, data in sources.items() if name.startswith("fastclip/")}
    assert held.keys() == package.keys(), "a data file needs a line in package-data of pyproject.toml"
    assert held == package
    assert any(not name.endswith(".py") for name in held)


def test_the_wheel_alone_runs_the_demo_away_from_the_checkout(wheel: Path, tmp_path: Path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", folder=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, folder=tmp_path)
    # The dependencies are those of this environment, in a folder that a .pth file names. Python reads no .pth file in
    # such a folder, so an editable install of fastclip there stays unseen.
    here = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site_packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site_packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in here))

    empty = tmp_path / "empty"
    empty.mkdir()
    found = run(python, "-c", "import fastclip; print(fastclip.__file__)", folder=empty).strip()
    assert Path(found) == site_packages / "fastclip" / "__init__.py"
    out = run(tmp_path / "venv" / "bin" / "fastclip", "demo", folder=empty)
    rows = [line.split()[1:] for line in out.splitlines() if line.split()[:1] == ["tiny"]]
    assert len(rows) == 3 and all(len(row) == 5 for row in rows), out
    assert all(25 < float(number) < 100 for row in rows for number in row), out
    listed = run(tmp_path / "venv" / "bin" / "fastclip", "datasets", folder=empty)
    assert "domainnet" in listed and "terraincognita" in listed
