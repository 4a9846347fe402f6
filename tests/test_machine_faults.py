"""A fault of the machine is never taken for what the data say: the right bytes, or exit 4 with the path.

Faults are put into calls of libc. One process that runs under the library tries hundreds of them, one after the other.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from faults import Fault, Faults
from helpers import Program, Sharded, image_bytes, part_paths, shard, stored_files, write

from fastclip.data.images import check_image
from fastclip.data.shards.writer import WriteOptions, write_shards
from fastclip.data.sources.layouts import list_source
from fastclip.errors import IncompleteError, IntegrityError
from fastclip.storage.folders import open_folder

PASSING = ("EIO", "ESTALE", "ETIMEDOUT", "EMFILE", "ENFILE", "ENOMEM")
LASTING = ("EACCES", "EPERM", "ENODEV", "ENXIO", "EREMOTEIO")
IMAGES = {
    f"{label}/{number}.png": image_bytes(size=(5 + number, 7), color=20 * place + number)
    for place, label in enumerate(("apple", "bread"))
    for number in range(3)
}
KINDS = ("folder", "zip", "tar", "tgz", "parquet", "webdataset", "ours")


def tar(path: Path, files: dict[str, bytes]) -> None:
    mode: Any = "w:gz" if path.suffix == ".tgz" else "w"
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            (info := tarfile.TarInfo(name)).size = len(data)
            archive.addfile(info, io.BytesIO(data))


def source(folder: Path, kind: str) -> tuple[Path, Path]:
    """A source of six images, and the file or folder of it that faults befall."""
    here = folder / "source"
    here.mkdir(parents=True)
    if kind == "folder":
        write(here, IMAGES)
        return here, here / "apple" / "1.png"
    if kind == "zip":
        with zipfile.ZipFile(here / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in IMAGES.items():
                archive.writestr(name, data)
        return here, here / "all.zip"
    if kind in ("tar", "tgz"):
        tar(here / f"all.{kind}", IMAGES)
        return here, here / f"all.{kind}"
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = {"image": list(IMAGES.values()), "label": [name.partition("/")[0] for name in IMAGES]}
        pq.write_table(pa.table(rows), here / "all.parquet", row_group_size=2)
        return here, here / "all.parquet"
    if kind == "webdataset":
        (here / "classnames.txt").write_text("apple\nbread\n")
        rows = {}
        for number, (name, data) in enumerate(IMAGES.items()):
            rows |= {f"{number}.png": data, f"{number}.cls": b"01"[name[0] == "b" :][:1]}
        tar(here / "0.tar", rows)
        return here, here / "0.tar"
    first = shard(write(folder / "images", IMAGES), folder / "first", "x")
    shutil.copytree(first.folder, here, dirs_exist_ok=True)
    return here, here / "all" / "0.tar"


def contents(folder: Path) -> str:
    """A digest of all files below a folder and their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"\0".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


def drive() -> None:
    """Shard a source once for every environment that comes, and print how each attempt ended."""
    from fastclip import faults
    from fastclip.data.sources import seek_indexes, tars
    from fastclip.errors import FastclipError

    faults.PAUSES_S = (0, 0, 0, 0)
    library, place, out = ctypes.CDLL(os.environ["LD_PRELOAD"]), Path(sys.argv[1]), Path(sys.argv[2])

    def attempt() -> tuple[int, str]:
        tars._list_gzip.cache_clear()
        seek_indexes._seek_indexes.clear()
        try:
            write_shards(list_source(place, None), open_folder(out), dataset="x")
        except FastclipError as error:
            return error.exit_code, f"{error} | {error.fix}"
        except Exception as error:
            return 1, f"{type(error).__name__}: {error}"
        return 0, ""

    for line in sys.stdin:
        shutil.rmtree(out, ignore_errors=True)
        os.environ.update(json.loads(line))
        library.read_rules()
        code, said = attempt()
        os.environ["FASTCLIP_FAULTS"] = ""
        library.read_rules()
        manifest = (out / "manifest.json").exists()
        again = attempt()
        print(json.dumps({"code": code, "said": said, "manifest": manifest, "again": again, "bytes": contents(out)}))
        sys.stdout.flush()


def outcomes(faults: Faults, place: Path, out: Path, cases: Sequence[Fault]) -> Iterator[dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    environment |= faults.env()
    lines = "".join(json.dumps(faults.env(case)) + "\n" for case in cases)
    command = [sys.executable, "-c", "import test_machine_faults as t; t.drive()", str(place), str(out)]
    done = subprocess.run(command, env=environment, input=lines, text=True, capture_output=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return map(json.loads, done.stdout.splitlines())


@pytest.mark.parametrize("kind", KINDS)
def test_no_fault_on_a_source_makes_a_smaller_dataset_or_accuses_the_data(kind: str, faults: Faults, tmp_path: Path):
    place, victim = source(tmp_path, kind)
    cases = [
        Fault(str(victim), call, first, last, errno=name)
        for call in ("open", "read", "stat")
        for name in (*PASSING, *LASTING)
        if name in ("EIO", "EMFILE", "EACCES") or kind == "folder" or call == "read"
        for first in ((1, 2, 3, 5, 8) if name == "EIO" else (1,))
        for last in ((first, 0) if name in PASSING else (0,))
    ]
    if kind == "folder":
        cases += [Fault(str(victim.parent), "list", 1, last, errno="EIO") for last in (1, 0)]
        cases += [Fault(str(victim.parent), "open", 1, last, errno="EACCES") for last in (1, 0)]
    undisturbed, *ends = outcomes(faults, place, tmp_path / "out", [Fault("/nowhere", "open"), *cases])
    assert undisturbed["code"] == 0 and len(ends) == len(cases)
    struck = 0
    for case, end in zip(cases, ends, strict=True):
        assert end["code"] in (0, 4), (case, end)
        assert end["again"] == [0, ""] and end["bytes"] == undisturbed["bytes"], (case, end)
        if end["code"]:
            struck += 1
            assert case.paths in end["said"] and not end["manifest"] and "again" in end["said"], (case, end)
        if case.errno in PASSING and case.last == case.first:
            assert end["code"] == 0, (case, end)
    assert struck >= 20


def eval_arguments(sharded: Sharded, store: str, *more: object) -> tuple[object, ...]:
    options = ("-b", "tiny", "--precision", "fp32", "--shards", sharded.shards, "--store", store)
    return ("eval", "shapes", *options, *more)


QUICK = {("0.tar", "read", "EIO"), ("0.index.jsonl", "open", "EACCES")}


@pytest.fixture(scope="module")
def undisturbed(shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    program = Program(tmp_path_factory.mktemp("undisturbed"))
    assert program.here(*eval_arguments(shapes, "s")).code == 0
    return stored_files(program.folder / "s")


UNREADABLE = [
    pytest.param(file, *fault, marks=[] if (file, *fault) in QUICK else pytest.mark.slow)
    for file in ("0.tar", "0.index.jsonl")
    for fault in (("open", "EACCES"), ("read", "EIO"), ("stat", "ETIMEDOUT"))
]


@pytest.mark.parametrize(("file", "call", "errno"), UNREADABLE)
def test_a_shard_that_cannot_be_read_is_named_and_costs_the_others_nothing(
    file: str,
    call: str,
    errno: str,
    shapes: Sharded,
    undisturbed: dict[str, bytes],
    faults: Faults,
    fastclip: Program,
):
    victim = shapes.folder / "flat" / file
    broken = Program(fastclip.folder, faults.env(Fault(str(victim), call, 1, 0, errno=errno)))
    for command in (eval_arguments(shapes, "s"), eval_arguments(shapes, "s", "--share", "2/2")):
        outcome = broken(*command)
        assert outcome.code == 4 and str(victim) in outcome.err and "Traceback" not in outcome.err, outcome.err
        assert len(part_paths(fastclip.folder / "s")) == 11
    assert fastclip.here(*eval_arguments(shapes, "s")).code == 0
    assert stored_files(fastclip.folder / "s") == undisturbed


def test_of_several_bad_shards_all_are_named_and_the_code_is_the_gravest(
    shapes: Sharded, faults: Faults, fastclip: Program
):
    shutil.copytree(shapes.shards, fastclip.folder / "shards")
    tars = (fastclip.folder / "shards" / "shapes" / f"{name}/0.tar" for name in ("flat", "night", "outline"))
    first, second, damaged = tars
    damaged.write_bytes(damaged.read_bytes()[:-512])
    rules = [Fault(str(path), "read", 1, 0, errno="EIO") for path in (first, second)]
    broken = Program(fastclip.folder, faults.env(*rules))
    outcome = broken("eval", "shapes", "-b", "tiny", "--store", "s")
    assert outcome.code == 5 and len(part_paths(fastclip.folder / "s")) == 9
    *_, error, _ = outcome.err.splitlines()
    assert "outline/0.tar" in error and outcome.err.count("Also: ") == 2
    assert all(f"Also: shards/shapes/{name}/0.tar cannot be read" in outcome.err for name in ("flat", "night"))


def test_a_check_goes_on_past_what_cannot_be_read_and_does_not_call_it_damaged(
    shapes: Sharded, faults: Faults, fastclip: Program
):
    shutil.copytree(shapes.shards, fastclip.folder / "shards")
    victim, other = (fastclip.folder / "shards" / "shapes" / name for name in ("flat/0.tar", "night/0.tar"))
    broken = Program(fastclip.folder, faults.env(Fault(str(victim), "read", 1, 0, errno="EIO")))
    unread = f"{victim.relative_to(fastclip.folder)} cannot be read: Input/output error."
    outcome = broken("shards", "check")
    assert (outcome.code, outcome.out.splitlines()[0]) == (4, unread) and "1 file not read" in outcome.out
    other.write_bytes(other.read_bytes()[:-512])
    outcome = broken("shards", "check")
    assert outcome.code == 5 and unread in outcome.out and str(other.relative_to(fastclip.folder)) in outcome.out
    assert "1 difference." in outcome.out


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_changes_after_it_was_listed_is_told_and_nothing_is_published(kind: str, tmp_path: Path):
    place, victim = source(tmp_path, kind)
    listing = list_source(place, None)
    facts, data = victim.stat(), victim.read_bytes()
    for replaced in (data[:-1] + b"x", data[: len(data) // 2], data):
        victim.write_bytes(replaced)
        os.utime(victim, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
        with pytest.raises(IntegrityError, match=f"{re.escape(str(victim))} changed while it was read"):
            write_shards(listing, open_folder(tmp_path / "out"), dataset="x")
        assert not list((tmp_path / "out").glob("**/[!.]*.*"))
    write_shards(list_source(place, None), open_folder(tmp_path / "out"), dataset="x")


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz", "parquet"])
def test_an_archive_that_is_written_to_while_a_shard_is_made_of_it_publishes_no_shard(kind: str, tmp_path: Path):
    place, victim = source(tmp_path, kind)

    def touch(images: int, size: int) -> None:
        with victim.open("ab") as file:
            file.write(b"x")

    with pytest.raises(IntegrityError, match="changed while it was read"):
        write_shards(list_source(place, None), open_folder(tmp_path / "out"), dataset="x", on_progress=touch)
    assert not list((tmp_path / "out").glob("**/[!.]*.*"))


@pytest.mark.parametrize("which", ["the one that starts the others", "a full temporary folder"])
def test_processes_that_cannot_be_started_accuse_no_data(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place, _ = source(tmp_path, "folder")

    def fail(self: object) -> None:
        raise EOFError("unexpected EOF") if which.startswith("the one") else OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", fail)
    options = WriteOptions(shard_images=1, processes=2)
    with pytest.raises(IncompleteError, match="was killed" if which.startswith("the one") else "No space left") as told:
        write_shards(list_source(place, None), open_folder(tmp_path / "out"), dataset="x", options=options)
    assert "again" in told.value.fix


def test_a_full_temporary_folder_is_named_and_no_archive(faults: Faults, tmp_path: Path):
    source(tmp_path, "tgz")
    (tmp_path / "tmp").mkdir()
    environment = faults.env(Fault(f"{tmp_path}/tmp/fastclip-seek-*.gzidx", "write", 1, 0, errno="ENOSPC"))
    broken = Program(tmp_path, {**environment, "TMPDIR": str(tmp_path / "tmp")})
    outcome = broken("shard", "x", "--source", "source", "--processes", "1")
    assert outcome.code == 4 and f"{tmp_path}/tmp does not take" in outcome.err and "TMPDIR" in outcome.err
    assert "damaged" not in outcome.err and not (tmp_path / "shards" / "x" / "manifest.json").exists()


def test_memory_that_runs_out_in_a_codec_is_no_property_of_the_image(monkeypatch: pytest.MonkeyPatch):
    def load(self: object) -> None:
        raise OSError("out of memory when reading image file")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError):
        check_image(IMAGES["apple/0.png"])
