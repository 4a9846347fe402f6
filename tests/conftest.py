"""Shared by the tests: real images where they are at hand, small sharded datasets, and the program itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from faults import Faults, build
from helpers import REPOSITORY, Plain, Program, Sharded, shard, stored_files

from fastclip.data.shapes import SCORED_SEED, draw_shapes
from fastclip.models.numerics import fix_numerics

SHARED_DATA = REPOSITORY.parent / "shared" / "data"
REFERENCE_PYTHON = REPOSITORY / ".venv-reference" / "bin" / "python"


def pytest_configure(config: pytest.Config) -> None:
    """Only `-m gpu` shows the tests a GPU: the others say what happens on a CPU."""
    if config.getoption("-m") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU, and -m gpu, without which tests see none")


@pytest.fixture(scope="session", autouse=True)
def _numerics() -> None:
    fix_numerics(torch.device("cpu"))


@pytest.fixture(scope="module")
def one_core(worker_id: str) -> Iterator[None]:
    """One core for this process and those that it starts. A training takes all that it may use, a thread each, and
    several at once on the same cores wait for each other at every operation.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = sorted(os.sched_getaffinity(0))
    number = int(worker_id.removeprefix("gw")) if worker_id != "master" else 0
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Photos of ImageNet size."""
    return _shared("photos", "*")


@pytest.fixture(scope="session")
def pacs_mini() -> Path:
    """448 images of PACS in `domain/class/image` folders."""
    _shared("pacs-mini", "*/*/*")
    return SHARED_DATA / "pacs-mini"


@pytest.fixture(scope="session")
def shared_facts() -> Path:
    """The known facts of the eight datasets."""
    folder = SHARED_DATA.parent / "facts"
    if not folder.is_dir():
        pytest.skip("the facts of shared/facts are not beside this checkout")
    return folder


def _shared(name: str, pattern: str) -> list[Path]:
    files = sorted((SHARED_DATA / name).glob(pattern))
    if not files:
        pytest.skip(f"the real images of shared/data/{name} are not beside this checkout")
    return files


@pytest.fixture(scope="session")
def reference_python() -> Path:
    """The interpreter that has OpenAI's CLIP and CLIP_benchmark."""
    if not REFERENCE_PYTHON.is_file():
        pytest.skip("no .venv-reference: `make test` sets it up")
    return REFERENCE_PYTHON


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    """The dataset that `fastclip demo` scores, smaller: four domains, twelve classes, 240 images in twelve shards."""
    folder = tmp_path_factory.mktemp("shapes")
    draw_shapes(folder / "source", seed=SCORED_SEED, images_per_class=5)
    return shard(folder / "source", folder / "shards", "shapes", shard_images=20)


@pytest.fixture(scope="session")
def pacs(pacs_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    """448 real images in twelve shards."""
    return shard(pacs_mini, tmp_path_factory.mktemp("pacs"), "pacs", shard_images=40)


@pytest.fixture(scope="session")
def plain(shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """A run of one process without any launcher, which others are compared with."""
    many = shard(shapes.source, tmp_path_factory.mktemp("many"), "shapes", shard_images=5)
    program = Program(tmp_path_factory.mktemp("plain"))
    arguments = ["shapes", "-b", "tiny", "--batch-size", "64", "--shards", str(many.shards)]
    outcome = program.here("eval", *arguments, "--json", "record.json")
    assert outcome.code == 0, outcome.err
    record = (program.folder / "record.json").read_bytes()
    return Plain(many.shards, arguments, stored_files(program.folder / "embeddings"), outcome.out, record)


@pytest.fixture(scope="session")
def faults_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that puts faults into the calls of a program."""
    return build(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def faults(faults_library: Path, tmp_path: Path) -> Faults:
    (tmp_path / "faults").mkdir()
    return Faults(faults_library, tmp_path / "faults")


@pytest.fixture
def fastclip(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def launch() -> Callable[[int], list[str]]:
    """The prefix that starts n processes with Accelerate, as launch/two_cpu_processes.yaml does for two."""

    def prefix(processes: int) -> list[str]:
        config = REPOSITORY / "launch" / "two_cpu_processes.yaml"
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        return [*launcher, "--num_processes", str(processes), "--main_process_port", "0", "-m", "fastclip"]

    return prefix
