"""Exported features: what each format holds, in which order, and what happens when an export is stopped or refused."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import oracle
import pyarrow.parquet as pq
import pytest
from helpers import Outcome, Program, Sharded, image_bytes, part_paths, recipe, shard, temporaries, write
from safetensors.numpy import load_file
from test_crash_points import CALLS, can_trace
from test_features import features_of, raw_outputs

from fastclip.data.shards.targets import find_targets
from fastclip.evaluate.embedding import embed
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import resolve
from fastclip.features.export.export import WRITERS, ExportOptions, export
from fastclip.features.read import Features
from fastclip.store.parts import Part, part_name
from fastclip.store.store import Store

DOMAINS = ("flat", "night", "outline", "texture")


@pytest.fixture(scope="module")
def store(shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embeddings of `shapes` by `tiny`."""
    folder = tmp_path_factory.mktemp("store")
    features_of(shapes, folder)
    return folder


@pytest.fixture
def exporting(fastclip: Program, shapes: Sharded, store: Path) -> Iterator[Program]:
    """The program in a folder from which `shapes` and its embeddings are found without options."""
    for name, folder in (("shards", shapes.shards), ("embeddings", store)):
        (fastclip.folder / name).symlink_to(folder)
    return fastclip


def said(outcome: Outcome) -> str:
    """All that was printed, as one line."""
    return " ".join(outcome.out.split())


@dataclass(frozen=True)
class Found:
    """Rows as a program reads them that knows nothing of fastclip."""

    vectors: np.ndarray
    keys: list[str]
    labels: list[int]
    norms: np.ndarray | None = None


def read_parquet(folder: Path) -> Found:
    table = pq.read_table(folder / "features.parquet")
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    return Found(vectors, table["key"].to_pylist(), table["label"].to_pylist(), table["norm"].to_numpy())


def read_npy(folder: Path) -> Found:
    rows = list(csv.DictReader((folder / "rows.csv").open(newline="")))
    return Found(
        np.load(folder / "features.npy"),
        [row["key"] for row in rows],
        [int(row["label"]) for row in rows],
        np.array([row["norm"] for row in rows], np.float32),
    )


def read_pairs(folder: Path) -> Found:
    """clip-retrieval's, in the order of the names as text."""
    vectors = [np.load(path) for path in sorted((folder / "img_emb").glob("**/*.npy"))]
    tables = [pq.read_table(path) for path in sorted((folder / "metadata").glob("*.parquet"))]
    assert [len(each) for each in vectors] == [len(each) for each in tables]
    assert all(each.dtype == np.float16 and each.ndim == 2 for each in vectors)
    return Found(
        np.concatenate(vectors),
        [key for each in tables for key in each["key"].to_pylist()],
        [label for each in tables for label in each["label"].to_pylist()],
        np.concatenate([each["norm"].to_numpy() for each in tables]),
    )


def read_text(folder: Path) -> Found:
    numbers = np.concatenate([np.loadtxt(folder / f"fe_tiny_shapes_{name}.csv", delimiter=" ") for name in DOMAINS])
    keys = [key for name in DOMAINS for key in (folder / f"fe_tiny_shapes_{name}.keys.txt").read_text().splitlines()]
    return Found(numbers[:, :-1].astype(np.float32), keys, numbers[:, -1].astype(int).tolist())


TWO_OF_FOUR = [pytest.param(each, marks=[pytest.mark.slow] * (each in ("npy", "transferlearning"))) for each in WRITERS]
"""The formats for tests that start processes: one that writes a single file, and one that writes many."""

READERS = {"parquet": read_parquet, "npy": read_npy, "clip-retrieval": read_pairs, "transferlearning": read_text}


def index_rows(sharded: Sharded) -> Iterator[tuple[dict, list[dict]]]:
    """The shards of a dataset with the rows of their indexes, from its files alone."""
    for each in json.loads((sharded.folder / "manifest.json").read_bytes())["shards"]:
        text = (sharded.folder / each["name"].replace(".tar", ".index.jsonl")).read_text()
        yield each, [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def expected(shapes: Sharded, store: Path) -> tuple[Found, np.ndarray]:
    """Every row in manifest order, and the norms, from the files alone."""
    (target,) = find_targets(shapes.shards, ["shapes"])
    names = {each.name: part_name(each) for each in target.shards}
    files = {path.stem: load_file(path) for path in part_paths(store)}
    found = [(files[names[each["name"]]], rows) for each, rows in index_rows(shapes)]
    return Found(
        np.concatenate([part["embeddings"] for part, _ in found]),
        [row["key"] for _, rows in found for row in rows],
        [row["label"] for _, rows in found for row in rows],
    ), np.concatenate([part["norms"] for part, _ in found])


@pytest.mark.parametrize("format", READERS)
def test_every_format_holds_the_stored_vectors_in_manifest_order(
    format: str, exporting: Program, expected: tuple[Found, np.ndarray]
):
    rows, norms = expected
    assert len(set(rows.labels)) == 12 and len(rows.keys) == 240
    outcome = exporting.here("features", "shapes", "-b", "tiny", "--format", format)
    assert outcome.code == 0, outcome.err
    found = READERS[format](exporting.folder / "features" / "shapes" / "tiny" / format)
    assert found.keys == rows.keys and found.labels == rows.labels
    assert np.array_equal(found.vectors, rows.vectors), "widening fp16 to fp32 moves no bit"
    assert found.norms is None or np.array_equal(found.norms, norms)
    assert READERS.keys() == WRITERS.keys(), "a test for each format"


@pytest.mark.parametrize("format", sorted(READERS.keys() - {"clip-retrieval"}))
def test_raw_features_are_the_vectors_times_their_norms(
    format: str, exporting: Program, expected: tuple[Found, np.ndarray]
):
    rows, norms = expected
    outcome = exporting.here("features", "shapes", "-b", "tiny", "--format", format, "--raw", "--output", "raw")
    assert outcome.code == 0 and "raw vectors" in said(outcome)
    folder = exporting.folder / "raw" / "shapes" / "tiny" / format
    assert np.array_equal(READERS[format](folder).vectors, rows.vectors.astype(np.float32) * norms[:, None])
    assert json.loads((folder / "features.json").read_bytes())["normalised"] is False


def images_of(tar: Path, key: str) -> Iterator[bytes]:
    """The bytes of the image that WebDataset's rules give this key."""
    with tarfile.open(tar) as opened:
        for member in opened:
            if member.name.rpartition(".")[0] == key and not member.name.endswith(".cls"):
                yield opened.extractfile(member).read()


def test_a_row_leads_to_its_image_whose_features_it_holds(exporting: Program, shapes: Sharded):
    """Key → tar → SHA-256 → open_clip, which sees the image's own bytes."""
    exporting.here("features", "shapes", "-b", "tiny", "--raw")
    rows = pq.read_table(exporting.folder / "features/shapes/tiny/parquet/features.parquet").to_pylist()[::40]
    classes = json.loads((shapes.folder / "manifest.json").read_bytes())["classes"]
    paths = []
    for row in rows:
        (data,) = (data for tar in shapes.folder.glob("*/*.tar") for data in images_of(tar, row["key"]))
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert data == (shapes.source / row["domain"] / row["path"]).read_bytes()
        assert row["path"].split("/")[0] == row["class"] == classes[row["label"]]
        paths.append(shapes.source / row["domain"] / row["path"])
    raw, found = raw_outputs(paths), np.array([row["embedding"] for row in rows])
    cosines = (raw * found).sum(1) / np.linalg.norm(raw, axis=1) / np.linalg.norm(found, axis=1)
    assert cosines.min() > 0.999
    assert np.abs(np.linalg.norm(found, axis=1) / np.linalg.norm(raw, axis=1) - 1).max() < 0.02
    assert np.allclose([row["norm"] for row in rows], np.linalg.norm(found, axis=1), rtol=2**-10)


def test_parquet_has_a_row_group_a_shard_and_lists_of_fixed_length(exporting: Program, shapes: Sharded):
    exporting.here("features", "shapes", "-b", "tiny")
    file = pq.ParquetFile(exporting.folder / "features/shapes/tiny/parquet/features.parquet")
    assert str(file.schema_arrow.field("embedding").type) == "fixed_size_list<element: float not null>[64]"
    assert ", ".join(file.schema_arrow.names) == "dataset, domain, key, path, sha256, label, class, norm, embedding"
    groups = [file.read_row_group(number, ["key"]).num_rows for number in range(file.num_row_groups)]
    assert groups == [each["images"] for each, _ in index_rows(shapes)]


def test_the_facts_beside_the_rows_say_what_they_are(exporting: Program, shapes: Sharded, store: Path):
    exporting.here("features", "shapes/flat", "shapes/night", "-b", "tiny")
    folder = exporting.folder / "features/shapes/tiny/parquet"
    facts = json.loads((folder / "features.json").read_bytes())
    (path,) = store.glob("*/recipe.json")
    document = json.loads(path.read_bytes())
    assert facts["recipe"] == {"id": path.parent.name, "document": document}
    assert facts["weights"] == document["weights"] and facts["backbone"] == "tiny" and facts["dim"] == 64
    assert facts["normalised"] is True and facts["rounding"] == 2**-11
    assert facts["classes"] == json.loads((shapes.folder / "manifest.json").read_bytes())["classes"]
    assert facts["domains"] == ["flat", "night"]
    assert facts["images"] == facts["rows"] == 120 and facts["unreadable"] == []
    shards = [each for each, _ in index_rows(shapes) if each["domain"] in ("flat", "night")]
    assert [(each["shard"], each["rows"]) for each in facts["parts"]] == [(each["name"], 20) for each in shards]
    assert {each["part"] for each in facts["parts"]} < {path.stem for path in part_paths(store)}
    for each in facts["files"]:
        data = (folder / each["name"]).read_bytes()
        assert (each["bytes"], each["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    """Twelve images, of which sharding rejects one and embedding finds one; a whole shard is unreadable."""
    folder = tmp_path_factory.mktemp("broken")
    files = {f"all/{name}/{n}.jpg": image_bytes("JPEG", (40 + n, 50)) for name in ("a", "b") for n in range(6)}
    for n in (1, 2, 3):
        files[f"all/a/{n}.jpg"] = image_bytes("JPEG", (640, 640 + n))[:-2000]
    files["all/b/5.jpg"] = b"no image"
    return shard(
        write(folder / "source", files), folder / "shards", "set", shard_images=2, verify=False, layout="domain/class"
    )


@pytest.mark.parametrize("format", WRITERS)
def test_unreadable_images_are_listed_with_reasons_and_are_no_rows(format: str, broken: Sharded, tmp_path: Path):
    features = features_of(broken, tmp_path / "store")
    exported = export(features, tmp_path / "out", ExportOptions(format=format))
    facts = json.loads((tmp_path / "out" / "features.json").read_bytes())
    assert [(each["path"], bool(each["reason"])) for each in facts["unreadable"]] == [
        ("a/1.jpg", True),
        ("a/2.jpg", True),
        ("a/3.jpg", True),
        ("all/b/5.jpg", True),  # where it lies in the source; it is in no shard
    ]
    bad = {each["path"] for each in facts["unreadable"]}
    keys = [row["key"] for _, rows in index_rows(broken) for row in rows if row["path"] not in bad]
    assert facts["images"] == 12 and facts["rows"] == exported.rows == len(keys) == 8
    assert [each["rows"] for each in facts["parts"]][:2] == [1, 0]
    if format == "transferlearning":
        found = (tmp_path / "out" / "fe_tiny_set_all.keys.txt").read_text().splitlines()
        assert np.loadtxt(tmp_path / "out" / "fe_tiny_set_all.csv").shape == (8, 65)
    else:
        rows = READERS[format](tmp_path / "out")
        found = rows.keys
        assert np.abs(np.linalg.norm(rows.vectors.astype(np.float64), axis=1) - 1).max() < 1e-3, "no row of zeros"
    assert found == keys


def test_the_command_counts_the_unreadable_and_succeeds(broken: Sharded, fastclip: Program):
    features_of(broken, fastclip.folder / "embeddings")
    outcome = fastclip.here("features", "set", "-b", "tiny", "--shards", broken.shards)
    assert outcome.code == 0
    assert "8 unit vectors of 64 numbers" in said(outcome)
    assert "4 images are unreadable and without a row; features/set/tiny/parquet/features.json lists" in said(outcome)


@pytest.mark.parametrize("format", WRITERS)
def test_a_dataset_without_a_readable_image_has_no_rows(format: str, tmp_path: Path):
    files = {f"all/{name}/0.jpg": image_bytes("JPEG", (640, 640))[:-cut] for name, cut in (("a", 2000), ("b", 2001))}
    sharded = shard(write(tmp_path / "source", files), tmp_path / "shards", "set", verify=False, layout="domain/class")
    exported = export(features_of(sharded, tmp_path / "store"), tmp_path / "out", ExportOptions(format=format))
    assert exported.rows == 0 and len(exported.unreadable) == 2
    if format == "npy":
        assert np.load(tmp_path / "out" / "features.npy").shape == (0, 64)
    if format == "parquet":
        assert len(pq.read_table(tmp_path / "out" / "features.parquet")) == 0


def test_a_domain_of_which_no_image_is_in_a_shard_is_two_lines(tmp_path: Path):
    files = {f"{domain}/{name}/0.png": image_bytes() for domain in ("good", "bad") for name in "ab"}
    files |= {name: b"no image" for name in files if name.startswith("bad")}
    shard(write(tmp_path / "source", files), tmp_path / "shards", "set", layout="domain/class")
    program = Program(tmp_path)
    assert program.here("eval", "set", "-b", "tiny", "--unreadable", "exclude").code == 0
    for format in WRITERS:
        outcome = program.here("features", "set/bad", "-b", "tiny", "--format", format)
        assert outcome.code == 2 and "set/bad has no image" in mistake(outcome)
    outcome = program.here("features", "set", "-b", "tiny", "--format", "transferlearning")
    assert outcome.code == 0 and "2 images are unreadable" in said(outcome)
    assert (tmp_path / "features/set/tiny/transferlearning/fe_tiny_set_bad.csv").read_bytes() == b""


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def store_of_two(shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same embeddings as `store`, made by two processes."""
    folder = tmp_path_factory.mktemp("two")
    for share in ("1/2", "2/2"):
        embed(resolve(EvalOptions(backbones=("tiny",), shards=shapes.shards, store=folder, here=True, share=share)))
    return folder


@pytest.mark.parametrize("format", WRITERS)
def test_stores_of_one_and_two_processes_give_the_same_bytes_and_so_does_a_second_export(
    format: str, shapes: Sharded, store: Path, store_of_two: Path, tmp_path: Path
):
    found = []
    for number, of in enumerate((store, store_of_two, store)):
        setup = resolve(EvalOptions(backbones=("tiny",), shards=shapes.shards, store=of), only_stored=True)
        (target,), (each,) = setup.targets, setup.recipes.values()
        export(Features(target, each, setup.store), tmp_path / f"{number}", ExportOptions(format=format))
        found.append(files_of(tmp_path / f"{number}"))
    assert found[0] == found[1] == found[2] and len(found[0]) >= 2


def test_numbers_of_text_are_read_back_as_the_same_fp32_or_have_the_digits_asked_for(tmp_path: Path):
    rng = np.random.default_rng(5)
    folder, vectors = drawn_store(tmp_path, rng.normal(size=(40, 33)).astype(np.float32) * 1e-3, precision="fp32")
    for digits in (None, 4):
        export(folder, tmp_path / f"{digits}", ExportOptions(format="transferlearning", digits=digits))
    name = "fe_ViT-B_32_set_all.csv"
    assert np.array_equal(np.loadtxt(tmp_path / "None" / name)[:, :-1].astype(np.float32), vectors)
    line = (tmp_path / "4" / name).read_text().splitlines()[7]
    # As the demo writes them: numpy.savetxt(…, fmt="%.4f") of vectors and labels in one matrix.
    file = io.BytesIO()
    np.savetxt(file, np.append(vectors[7].astype(np.float64), 1.0)[None], fmt="%.4f")
    assert line + "\n" == file.getvalue().decode() and line.endswith(" 1.0000")


def drawn_store(folder: Path, vectors: np.ndarray, **changes: object) -> tuple[Features, np.ndarray]:
    """Features with these numbers, of drawn images of ViT-B/32 in two classes and many shards."""
    files = {f"all/{'ab'[n >= 6]}/{n:02}.png": image_bytes(size=(8 + n, 8)) for n in range(len(vectors))}
    sharded = shard(write(folder / "source", files), folder / "shards", "set", shard_images=3, layout="domain/class")
    (target,) = find_targets(sharded.shards, ["set"])
    how, there = recipe(**{"backbone": "ViT-B/32", **changes}), Store(folder / "store")
    first = 0
    for each in target.shards:
        rows = vectors[first : first + each.images]
        there.publish(how, part_name(each), Part(rows, np.ones(len(rows), np.float32), ()))
        first += each.images
    return Features(target, how, there), vectors


def test_an_order_of_more_than_ten_shards_is_that_of_the_manifest_and_not_of_names(tmp_path: Path):
    """0.tar, 1.tar, 10.tar, 2.tar …: readers sort names as text."""
    vectors = np.repeat(np.arange(1, 41, dtype=np.float16)[:, None], 5, axis=1)
    features, _ = drawn_store(tmp_path, vectors)
    assert len(list(features.target.shards)) == 14
    for format in ("parquet", "npy", "clip-retrieval"):
        export(features, tmp_path / format, ExportOptions(format=format))
        assert READERS[format](tmp_path / format).vectors[:, 0].tolist() == list(range(1, 41))


def test_several_backbones_and_recipes_need_one_command_and_no_weights(tmp_path: Path):
    rng = np.random.default_rng(1)
    for name, dim in (("ViT-B/32", 6), ("ViT-L/14@336px", 9)):
        features, _ = drawn_store(tmp_path, rng.normal(size=(7, dim)).astype(np.float16), backbone=name)
    program = Program(tmp_path)
    command = ["features", "set", "-b", "ViT-B/32", "-b", "vit-l-14-336", "--store", "store"]
    outcome = program.here(*command)
    assert outcome.code == 0, outcome.err
    for name, dim in (("ViT-B_32", 6), ("ViT-L_14@336px", 9)):
        assert read_parquet(tmp_path / "features" / "set" / name / "parquet").vectors.shape == (7, dim)
    # Another recipe of the same backbone: fp32 is preferred, and --precision or --recipe chooses.
    other, _ = drawn_store(tmp_path, np.ones((7, 6), np.float32), precision="fp32")
    for chosen, option in ((other, []), (other, ["--precision", "fp32"]), (features, ["--precision", "fp16"])):
        outcome = program.here(
            "features", "set", "-b", chosen.recipe.backbone, "--store", "store", "--overwrite", *option
        )
        assert outcome.code == 0 and f"recipe {chosen.recipe.id[:12]}" in said(outcome)


def test_neither_torch_nor_weights_are_needed(exporting: Program):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = sys.modules['open_clip'] = None\n"
        "sys.argv[0] = 'fastclip'\n"
        "from fastclip.cli.main import run; run()"
    )
    command = [sys.executable, "-c", code, "features", "shapes", "-b", "tiny"]
    subprocess.run(command, cwd=exporting.folder, check=True, capture_output=True)
    assert (exporting.folder / "features/shapes/tiny/parquet/features.parquet").exists()


def mistake(outcome: Outcome) -> str:
    """The error's two lines as one text."""
    lines = outcome.err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("Error: ") and lines[1].startswith("Fix:   "), outcome.err
    return outcome.err


def test_an_export_that_is_there_is_replaced_only_if_asked_and_what_is_not_ours_never(exporting: Program):
    command = ["features", "shapes", "-b", "tiny", "--format", "npy"]
    assert exporting.here(*command).code == 0
    folder = exporting.folder / "features" / "shapes" / "tiny" / "npy"
    before = files_of(folder)
    outcome = exporting.here(*command)
    assert outcome.code == 2 and "--overwrite" in mistake(outcome)
    outcome = exporting.here(*command, "--raw", "--overwrite")
    assert outcome.code == 0 and files_of(folder)["rows.csv"] == before["rows.csv"]
    assert files_of(folder)["features.npy"] != before["features.npy"]
    after = files_of(folder)
    (folder / "my.index").write_bytes(b"hours of work")
    outcome = exporting.here(*command, "--overwrite")
    assert outcome.code == 2 and "my.index was not written by fastclip features" in mistake(outcome)
    assert files_of(folder) == {**after, "my.index": b"hours of work"}
    (exporting.folder / "elsewhere/shapes/tiny/npy").mkdir(parents=True)
    assert exporting.here(*command, "--output", "elsewhere").code == 0, "an empty folder is free"
    (exporting.folder / "file").write_bytes(b"")
    outcome = exporting.here(*command, "--output", "file")
    assert outcome.code in (2, 4) and mistake(outcome)


MISTAKES = {
    "an unknown format": (["-b", "tiny", "--format", "csv"], 2, "parquet | npy"),
    "raw vectors for clip-retrieval": (["-b", "tiny", "--format", "clip-retrieval", "--raw"], 2, "Leave out --raw"),
    "digits of a file that is no text": (["-b", "tiny", "--digits", "4"], 2, "--format transferlearning"),
    "no digits": (["-b", "tiny", "--format", "transferlearning", "--digits", "0"], 2, "1 to 17"),
    "no backbone": ([], 2, "-b "),
    "a backbone that is not embedded": (["-b", "RN50"], 4, "fastclip eval shapes -b RN50"),
    "a recipe that is not there": (["-b", "tiny", "--recipe", "ffff"], 2, "fastclip store"),
    "embedding here": (["-b", "tiny", "--here"], 2, "--here"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_two_lines_and_writes_nothing(what: str, exporting: Program):
    words, code, cure = MISTAKES[what]
    outcome = exporting.here("features", "shapes", *words)
    assert outcome.code == code and cure in mistake(outcome)
    assert not (exporting.folder / "features").exists()


def test_a_part_that_is_damaged_or_missing_leaves_no_export(tmp_path: Path):
    features, _ = drawn_store(tmp_path, np.ones((40, 5), np.float16))
    last = features.store.path(features.recipe.id, part_name(list(features.target.shards)[-1]))
    data = last.read_bytes()
    command = ["features", "set", "-b", "ViT-B/32", "--store", "store"]
    last.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    outcome = Program(tmp_path).here(*command)
    assert outcome.code == 4 and "set/all/13.tar by ViT-B/32 are missing or were damaged" in mistake(outcome)
    outcome = Program(tmp_path).here(*command)
    assert outcome.code == 4 and "13 of 14 shards" in mistake(outcome)
    assert not files_of(tmp_path / "features")
    last.write_bytes(data)
    assert Program(tmp_path).here(*command).code == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import resolve
from fastclip.features.export.export import ExportOptions, export
from fastclip.features.read import Features

setup = resolve(EvalOptions(backbones=("tiny",), shards=sys.argv[1], store=Path(sys.argv[2])), only_stored=True)
features = Features(setup.targets[0], *setup.recipes.values(), setup.store)
seen = 0

def on_images(images):
    global seen
    seen += images
    if seen > 100:
        os.kill(os.getpid(), signal.SIGKILL)

export(features, Path(sys.argv[3]), ExportOptions(format=sys.argv[4]), on_images)
"""


@pytest.mark.parametrize("format", TWO_OF_FOUR)
def test_a_killed_export_leaves_nothing_visible_and_an_older_one_as_it_was(
    format: str, shapes: Sharded, store: Path, tmp_path: Path
):
    features = features_of(shapes, store)
    folder = tmp_path / "out" / format
    kill = [sys.executable, "-c", KILLED, shapes.shards, store, folder, format]
    assert subprocess.run(kill).returncode == -signal.SIGKILL
    assert not folder.exists() and len(left := temporaries(tmp_path / "out")) == 1
    assert not list(left[0].glob("features.json"))
    export(features, folder, ExportOptions(format=format, raw=False))
    before = files_of(folder)
    assert subprocess.run(kill).returncode == -signal.SIGKILL
    assert files_of(folder) == before
    # A day later the next export removes what was left.
    for path in temporaries(tmp_path / "out"):
        os.utime(path, (0, 0))
    export(features, folder, ExportOptions(format=format))
    assert files_of(tmp_path / "out") == {f"{format}/{name}": data for name, data in before.items()}


WRITE_FOLDER = """
import sys
from pathlib import Path
from fastclip.errors import IncompleteError
from fastclip.files import write_folder

try:
    write_folder(Path(sys.argv[1]), lambda folder: [(folder / name).write_bytes(b"new") for name in "ab"])
except IncompleteError:
    sys.exit(4)
"""


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename"])
def test_whatever_call_dies_or_fails_a_folder_is_the_old_one_or_the_new_one(call: str, there: bool, tmp_path: Path):
    if not can_trace():
        pytest.skip("no strace here, or it may not trace")
    new, old = {"a": b"new", "b": b"new"}, {"c": b"old"}
    for fault in ("error=EIO", "signal=SIGKILL"):
        for number in range(1, 20):
            folder = tmp_path / f"{fault}{number}" / "in" / "folder"
            if there:
                write(folder, old)
            inject = f"inject={CALLS[call]}:{fault}:when={number}"
            command = ["strace", "-qq", "-o", tmp_path / "log", "-e", inject]
            ended = subprocess.run([*command, sys.executable, "-c", WRITE_FOLDER, folder], stderr=subprocess.DEVNULL)
            found = files_of(folder)
            if ended.returncode == 0:
                break  # it made fewer calls
            # Only a death between two renames leaves neither; then both are under hidden names.
            assert found in (new, old if there else {}) or (call, fault) == ("rename", "signal=SIGKILL"), number
            if fault == "error=EIO":
                assert ended.returncode == 4 and not temporaries(folder.parent), number
                assert found == new or found == (old if there else {})
            else:
                assert all(files_of(path) in ({}, {"a": b"new"}, new, old) for path in temporaries(folder.parent))
        assert number > 1 and found == new, "strace injects nothing"


@pytest.mark.parametrize("format", TWO_OF_FOUR)
def test_a_full_disk_is_two_lines_and_leaves_nothing(format: str, exporting: Program):
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))

    command = [sys.executable, "-m", "fastclip", "features", "shapes", "-b", "tiny", "--format", format]
    ended = subprocess.run(command, cwd=exporting.folder, capture_output=True, text=True, preexec_fn=limit)
    assert ended.returncode == 4 and "Cannot write features/shapes/tiny" in ended.stderr, ended.stderr
    assert len(ended.stderr.splitlines()) == 2
    assert not [path for path in (exporting.folder / "features").rglob("*") if path.is_file()]


def test_names_of_any_kind_stay_on_their_row(tmp_path: Path):
    """Commas, quotes, line breaks and dots in names of files, classes and domains."""
    names = ["a,b.png", 'a"b.png', "a\nb.png", "a'b.png", "é ü.png"]
    files = {f"v1.5 d,x/c,{n % 2}/{name}": image_bytes(size=(8 + n, 8)) for n, name in enumerate(names)}
    sharded = shard(write(tmp_path / "source", files), tmp_path / "shards", "set", layout="domain/class")
    (target,) = find_targets(sharded.shards, ["set"])
    how, there = recipe(), Store(tmp_path / "store")
    for each in target.shards:
        there.publish(how, part_name(each), Part(np.eye(each.images, 7, dtype=np.float16), np.ones(5, np.float32), ()))
    for format in WRITERS:
        export(Features(target, how, there), tmp_path / format, ExportOptions(format=format))
    rows = list(csv.DictReader((tmp_path / "npy" / "rows.csv").open(newline="", encoding="utf-8")))
    assert {row["path"] for row in rows} == {f"c,{n % 2}/{name}" for n, name in enumerate(names)}
    assert [row["path"] for row in rows] == pq.read_table(tmp_path / "parquet/features.parquet")["path"].to_pylist()
    assert np.loadtxt(tmp_path / "transferlearning" / "fe_tiny_set_v1%2E5%20d%2Cx.csv").shape == (5, 8)
    keys = (tmp_path / "transferlearning" / "fe_tiny_set_v1%2E5%20d%2Cx.keys.txt").read_text("utf-8").splitlines()
    assert len(keys) == 5


def test_other_programs_read_the_same_rows(
    exporting: Program, expected: tuple[Found, np.ndarray], reference_python: Path
):
    """pyarrow, pandas, Polars, embedding-reader, autofaiss, and the demo's own `load_csv`, in their environment."""
    rows, _ = expected
    for format in WRITERS:
        assert exporting.here("features", "shapes", "-b", "tiny", "--format", format).code == 0
    folder, out = exporting.folder / "features" / "shapes" / "tiny", exporting.folder / "out.npz"
    script = Path(__file__).parent / "reference" / "read_features.py"
    names = [f"fe_tiny_shapes_{domain}" for domain in DOMAINS[:2]]
    command = [reference_python, "-W", "ignore", script, folder, *names, out]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = np.load(out)
    readers = [name for name in found if not re.search(r"[:]|source|target|nearest", name)]
    assert len(readers) == 8
    for name in readers:
        assert np.array_equal(found[name], rows.vectors), name
    with_rows = [name for name in readers if f"{name}: key" in found]
    assert len(with_rows) == 6
    for name in with_rows:
        assert found[f"{name}: key"].tolist() == rows.keys, name
        assert found[f"{name}: label"].astype(int).tolist() == rows.labels, name
    assert (
        np.array_equal(found["source"].astype(np.float32), rows.vectors[:60])
        and found["source labels"].tolist() == rows.labels[:60]
    )
    assert np.array_equal(found["target"].astype(np.float32), rows.vectors[60:120])
    assert found["target labels"].tolist() == rows.labels[60:120]
    same = np.array(
        [np.array_equal(rows.vectors[near], rows.vectors[row]) for row, (near,) in enumerate(found["nearest"])]
    )
    assert same.mean() > 0.95, "an image is nearest to itself"


def test_the_demos_own_extractor_writes_the_same_rows_in_another_order(
    shapes: Sharded, tmp_path: Path, reference_python: Path
):
    """Its loader shuffles, so every row of it must be the nearest one of one of ours, with the same label."""
    features = features_of(shapes, tmp_path / "store", precision="fp32", targets=("shapes/flat",))
    export(features, tmp_path / "ours", ExportOptions(format="transferlearning", raw=True, digits=4))
    script = Path(__file__).parent / "reference" / "demo_features.py"
    theirs = tmp_path / "fe_tiny_flat.csv"
    command = [
        reference_python,
        "-W",
        "ignore",
        script,
        oracle.TINY / "tiny.safetensors",
        shapes.source / "flat",
        theirs,
    ]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    ours, other = (np.loadtxt(path) for path in (tmp_path / "ours" / "fe_tiny_shapes_flat.csv", theirs))
    assert ours.shape == other.shape == (60, 65) and not np.allclose(ours, other, atol=1)
    apart = np.abs(ours[:, None] - other[None]).max(axis=2)
    nearest = apart.argmin(axis=1)
    assert sorted(nearest) == list(range(60))
    norms = np.linalg.norm(ours[:, :-1], axis=1)
    assert (apart.min(axis=1) < 2e-3 * norms).all() and np.array_equal(ours[:, -1], other[nearest, -1])
