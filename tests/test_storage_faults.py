"""Disks that are full, forbidden, broken or shared: found before the models load, or exit 4, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import stat
import string
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import Program, Sharded, shard
from rich.console import Console

from fastclip.data.shards.manifest import Shard, Unreadable
from fastclip.embed.store import Part, PartKeys, PartStore, part_identity, part_key
from fastclip.errors import FastclipError, IncompleteError, IntegrityError
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.run import Run
from fastclip.evaluate.scoring import score
from fastclip.files import is_temporary, temporary_path, write_new, write_whole
from fastclip.report.terminal import tables
from fastclip.text.prototypes import cached_prototypes

PART = Part({"weights": "mine"}, np.arange(12, dtype=np.float16).reshape(3, 4), (Unreadable(1, "why"),))
KEY = part_key(PART.identity)

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small disk in memory with the options given; again with others if it is there already."""
    mounted: list[Path] = []

    def on(options: str, name: str = "disk") -> Path:
        folder = tmp_path / name
        again = folder in mounted
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"remount,{options}" if again else options, "fastclip-test", folder]
        try:
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        except OSError as error:
            pytest.skip(f"no mount here: {error}")
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        if not again:
            mounted.append(folder)
        return folder

    yield on
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def options(sharded: Sharded, store: Path, **changes: object) -> EvalOptions:
    usual: dict = {"backbones": ("tiny",), "precision": "fp32", "device": "cpu", "workers": 2}
    return EvalOptions(targets=(sharded.name,), shards=sharded.shards, store=store, **{**usual, **changes})


def evaluate(asked: EvalOptions, on_images: Callable[[int], None] = lambda images: None) -> str:
    """The table, as the program makes it."""
    run = Run(asked)
    run.embed(on_images)
    evaluation, _ = score(run)
    with (console := Console(width=80)).capture() as capture:
        for table in tables(evaluation):
            console.print(table)
    assert evaluation.complete
    return capture.get()


def parts(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.glob("parts/*/*.safetensors")}


def temporaries(store: Path) -> list[Path]:
    return [path for path in store.rglob(".*") if is_temporary(path.name)]


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def whole(shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store in which nothing ever failed, and its table."""
    store = tmp_path_factory.mktemp("whole")
    return SimpleNamespace(table=evaluate(options(shapes, store)), parts=parts(store), store=store)


# ---- before the models load


@pytest.mark.parametrize(
    ("faulty", "cured", "message"),
    [
        ("size=64k", "size=64m", r"has 0\.\d MB free, the embeddings need 0\.\d"),
        ("size=64m,nr_inodes=20", "size=64m,nr_inodes=2000", r"has room for \d+ more files, the embeddings need \d+"),
        ("size=64m,ro", "size=64m,rw", "Read-only file system"),
    ],
    ids=["no space", "no inodes", "read-only"],
)
def test_a_disk_that_cannot_take_the_parts_is_named_before_the_model_is_loaded(
    faulty: str, cured: str, message: str, mount: Mount, shapes: Sharded, whole: SimpleNamespace, tmp_path: Path
):
    disk = mount(faulty)
    (broken := tmp_path / "broken.safetensors").write_bytes(b"\x08" + b"\0" * 7 + b"{       ")
    # Loading these weights would be another error.
    with pytest.raises(IncompleteError) as caught:
        Run(options(shapes, disk / "store", weights={"tiny": broken})).embed()
    assert re.search(message, str(caught.value)) and str(disk / "store" / "parts") in str(caught.value)
    assert "again" in caught.value.fix and caught.value.exit_code == 4
    assert not temporaries(disk)
    mount(cured)
    assert evaluate(options(shapes, disk / "store")) == whole.table and parts(disk / "store") == whole.parts


def test_the_program_says_of_a_full_disk_what_it_needs_and_goes_on_when_there_is_room(
    mount: Mount, shapes: Sharded, whole: SimpleNamespace, fastclip: Program
):
    disk = mount("size=64k")
    command = ["eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--store", disk / "s", "--precision", "fp32"]
    outcome = fastclip(*command)
    assert (outcome.code, outcome.out) == (4, "")
    error, fix = outcome.err.splitlines()
    assert str(disk / "s") in error and "need" in error and "again" in fix
    mount("size=64m")
    assert fastclip(*command).code == 0
    assert parts(disk / "s") == whole.parts


def test_a_folder_that_may_not_be_written_to_is_refused_with_its_path(
    shapes: Sharded, whole: SimpleNamespace, fastclip: Program
):
    (store := fastclip.folder / "store" / "parts").mkdir(parents=True)
    store.chmod(0o555)
    command = ["eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--store", "store", "--precision", "fp32"]
    # Modes do not bind root until it gives up that capability.
    prefix = [] if os.getuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if prefix and (not shutil.which("setpriv") or subprocess.run([*prefix, "true"]).returncode):
        pytest.skip("no setpriv here, or it may not drop capabilities")
    outcome = fastclip(*command, prefix=prefix)
    assert (outcome.code, outcome.out) == (4, "")
    error, fix = outcome.err.splitlines()
    assert error.startswith("Error: Cannot write store/parts/") and "Permission denied" in error and "again" in fix
    assert not list(store.iterdir())
    store.chmod(0o755)
    assert fastclip(*command, prefix=prefix).code == 0
    assert parts(store.parent) == whole.parts


def test_a_disk_that_does_not_say_how_large_it_is_is_not_full(mount: Mount):
    disk = mount("size=0,nr_inodes=0")
    assert os.statvfs(disk).f_blocks == 0
    PartStore(disk / "store").prepare(1000, 1 << 40, tidy=True)


# ---- while parts are published


@pytest.mark.parametrize("fault", ["no space", "no inodes", "read-only"])
def test_a_disk_that_fails_in_the_middle_keeps_what_is_there_and_the_next_run_goes_on(
    fault: str, mount: Mount, shapes: Sharded, whole: SimpleNamespace
):
    disk = mount("size=4m,nr_inodes=2000")
    store, images = disk / "store", []

    def fail(count: int) -> None:
        images.append(count)
        if len(images) != 4:  # after the parts of three shards
            return
        if fault == "no space":
            with pytest.raises(OSError), (disk / "ballast").open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        elif fault == "no inodes":
            (disk / "many").mkdir()
            with pytest.raises(OSError):
                for number in range(5000):
                    (disk / "many" / str(number)).touch()
        else:
            mount("ro")

    with pytest.raises(IncompleteError) as caught:
        evaluate(options(shapes, store), fail)
    assert f"Cannot write {store}/parts/" in str(caught.value) and caught.value.exit_code == 4
    left = parts(store)
    assert 3 <= len(left) < len(whole.parts) and left.items() <= whole.parts.items()
    assert not temporaries(store)
    mount("rw")
    (disk / "ballast").unlink(missing_ok=True)
    shutil.rmtree(disk / "many", ignore_errors=True)
    assert evaluate(options(shapes, store)) == whole.table and parts(store) == whole.parts


def test_a_link_whose_reply_was_lost_is_a_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """NFS: the server made the link, the answer did not come, the client asked again and heard that it exists."""
    link = os.link

    def made_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", made_twice)
    store = PartStore(tmp_path)
    store.publish(PART)
    assert store.read(KEY) is not None and not temporaries(tmp_path)
    with pytest.raises(IntegrityError, match="other bytes"):
        store.publish(Part(PART.identity, PART.embeddings + 1, ()))


# ---- stores that can only be read


def test_a_complete_store_that_is_read_only_is_scored_under_any_prompts(
    mount: Mount, shapes: Sharded, whole: SimpleNamespace, fastclip: Program
):
    disk = mount("size=64m")
    shutil.copytree(whole.store, disk / "store")
    mount("ro")
    before = contents(disk)
    command = ["eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--precision", "fp32"]
    for prompts in ("transferlearning", "photo"):
        ours = fastclip(*command, "--store", disk / "store", "--prompts", prompts)
        assert (ours.code, ours.err) == (0, "")
        assert ours.out.startswith(evaluate(options(shapes, whole.store, prompts=(prompts,))))
    assert contents(disk) == before


def test_a_damaged_part_in_a_read_only_store_is_named_in_two_lines(
    mount: Mount, shapes: Sharded, whole: SimpleNamespace, fastclip: Program
):
    disk = mount("size=64m")
    shutil.copytree(whole.store, disk / "store")
    part = sorted(disk.glob("store/parts/*/*"))[0]
    part.write_bytes(part.read_bytes()[:-1])
    mount("ro")
    command = ["eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--precision", "fp32"]
    outcome = fastclip(*command, "--store", disk / "store")
    assert (outcome.code, outcome.out) == (5, "")
    error, fix = outcome.err.splitlines()
    assert f"{part} is damaged" in error and "Read-only" in error and "--store" in fix
    mount("rw")
    assert fastclip(*command, "--store", disk / "store").code == 0
    assert parts(disk / "store") == whole.parts


# ---- damage


def test_a_part_with_any_byte_flipped_is_moved_aside_and_made_again(tmp_path: Path):
    store = PartStore(tmp_path)
    store.publish(PART)
    (path,) = tmp_path.glob("parts/*/*")
    good = path.read_bytes()
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert store.has(KEY) and store.read(KEY) is None and not store.has(KEY)
        assert (tmp_path / "damaged" / path.name).read_bytes() == damaged
        write_new(path, good)
    assert store.read(KEY) is not None
    print(f"{len(good)} bytes flipped")


@pytest.mark.parametrize("position", [0, 9, 300, -1])
def test_the_numbers_are_the_same_after_damage_to_any_region_of_a_real_part(
    position: int, shapes: Sharded, whole: SimpleNamespace, tmp_path: Path
):
    shutil.copytree(whole.store, store := tmp_path / "store")
    path = sorted(store.glob("parts/*/*"))[3]
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 4
    path.write_bytes(damaged)
    run = Run(options(shapes, store))
    evaluation, _ = score(run)
    assert not evaluation.complete, "a damaged part counts as missing"
    assert evaluate(options(shapes, store)) == whole.table and parts(store) == whole.parts


@pytest.mark.parametrize(
    "what", ["another sealed file", "a folder", "a link to nowhere", "a link to a file", "nothing"]
)
def test_whatever_lies_in_a_parts_place_is_moved_aside_and_no_link_is_written_through(what: str, tmp_path: Path):
    store = PartStore(tmp_path / "store")
    store.publish(PART)
    (path,) = tmp_path.glob("store/parts/*/*")
    path.unlink()
    (victim := tmp_path / "victim").write_bytes(b"precious")
    if what == "another sealed file":
        cached_prototypes(path.parent, {"not": "a part"}, lambda: np.eye(2, dtype=np.float32))
        next(each for each in path.parent.iterdir()).rename(path)
    elif what == "a folder":
        path.mkdir()
    elif what == "a link to nowhere":
        path.symlink_to(tmp_path / "nowhere")
    elif what == "a link to a file":
        path.symlink_to(victim)
    else:
        path.touch()
    store = PartStore(tmp_path / "store")
    assert store.has(KEY)
    with pytest.raises(IntegrityError, match="other bytes"):
        store.publish(PART)
    assert store.read(KEY) is None and not store.has(KEY)
    store.publish(PART)
    assert store.read(KEY) is not None and path.is_file() and not path.is_symlink()
    assert victim.read_bytes() == b"precious" and not (tmp_path / "nowhere").exists()
    assert not temporaries(tmp_path)


def test_a_part_that_was_removed_while_the_run_goes_on_is_missing_and_not_remembered(tmp_path: Path):
    store = PartStore(tmp_path)
    store.publish(PART)
    assert store.has(KEY)
    next(tmp_path.glob("parts/*/*")).unlink()
    assert store.read(KEY) is None and not store.has(KEY)


def test_many_who_find_a_part_damaged_at_once_end_with_one_good_part(tmp_path: Path):
    for _ in range(50):
        PartStore(tmp_path).publish(PART)
        (path,) = tmp_path.glob("parts/*/*")
        path.write_bytes(path.read_bytes()[:-3])

        def find_and_mend(barrier: threading.Barrier) -> None:
            store = PartStore(tmp_path)
            barrier.wait()
            if store.read(KEY) is None:
                # Who publishes while a damaged one is there raises an alarm, and whoever comes next moves it.
                with suppress(IntegrityError):
                    store.publish(PART)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(find_and_mend, [threading.Barrier(4)] * 4))
        assert PartStore(tmp_path).read(KEY) is not None and not temporaries(tmp_path)


def test_prototypes_with_any_byte_flipped_are_computed_again(tmp_path: Path, mount: Mount):
    rows, identity = np.eye(3, 4, dtype=np.float32), {"templates": ["a {}"]}
    cached_prototypes(tmp_path / "p", identity, lambda: rows)
    (path,) = (tmp_path / "p").iterdir()
    good = path.read_bytes()
    for position in range(0, len(good), 3):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        computed: list[int] = []

        def compute(computed: list[int] = computed) -> np.ndarray:
            computed.append(1)
            return rows

        assert np.array_equal(cached_prototypes(tmp_path / "p", identity, compute), rows)
        assert computed and path.read_bytes() == good
    disk = mount("size=1m")
    (disk / path.name).write_bytes(good[:-1])
    mount("ro")
    assert np.array_equal(cached_prototypes(disk, identity, lambda: rows), rows)
    assert (disk / path.name).read_bytes() == good[:-1] and len(list(disk.iterdir())) == 1


def test_prototypes_that_cannot_be_kept_are_used(mount: Mount):
    disk = mount("size=16k")
    (disk / "ballast").write_bytes(bytes(16 << 10))
    rows = np.eye(3, 4, dtype=np.float32)
    assert cached_prototypes(disk / "p", {"templates": []}, lambda: rows) is rows
    assert not temporaries(disk)


# ---- runs that share a store


def in_the_store(fastclip: Program, sharded: Sharded, *runs: tuple[object, ...]) -> list[tuple[str, int]]:
    """Table and embedded images of runs that start together."""
    command = ["eval", sharded.name, "-b", "tiny", "--shards", sharded.shards, "--store", "shared", "--workers", 1]
    started = [fastclip.start(*command, *arguments) for arguments in runs]
    found = []
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        embedded = re.search(r"Embedded ([\d,]+) images", err)
        found.append((out, int(embedded[1].replace(",", "")) if embedded else 0))
    return found


@pytest.mark.slow
def test_equal_runs_share_the_work_and_different_ones_do_not_meet(shapes: Sharded, fastclip: Program, tmp_path: Path):
    sharded = shard(shapes.source, tmp_path / "small", "shapes", shard_images=2)
    same = ("--precision", "fp32", "--batch-size", "2")
    (one, mine), (two, theirs), (other, others) = in_the_store(
        fastclip, sharded, same, same, (*same[:2], "--batch-size", "1")
    )
    print(f"240 images: {mine} + {theirs} embedded by two equal runs, {others} by another")
    assert one == two and one != other and others == 240
    assert 240 <= mine + theirs <= 320
    for name, changes in (("a", {"batch_size": 2}), ("b", {"batch_size": 1})):
        alone = evaluate(options(sharded, tmp_path / name, **changes))
        assert (one if name == "a" else other).startswith(alone)
        assert parts(tmp_path / name).items() <= parts(tmp_path / "shared").items()
    assert len(parts(tmp_path / "shared")) == 240
    assert not temporaries(tmp_path)


# ---- what dead processes left


def test_only_temporary_files_older_than_a_day_are_removed(tmp_path: Path):
    store = PartStore(tmp_path)
    store.publish(PART)
    (path,) = tmp_path.glob("parts/*/*")
    (victim := tmp_path / "victim").write_bytes(b"")
    day_s = 86_400
    old, young, others = [], [], [victim]
    for folder in (path.parent, path.parent.parent, tmp_path / "prototypes", tmp_path / "batches"):
        folder.mkdir(exist_ok=True)
        old.append(temporary_path(folder / path.name))
        young.append(temporary_path(folder / path.name))
        others += [folder / ".mine.tmp", folder / "notes.txt", folder / ".hidden"]
    for file in (*old, *young, *others):
        file.touch()
    (link := temporary_path(path)).symlink_to(victim)
    for file in (*old, *others, path, link):
        os.utime(file, (time.time() - 1.01 * day_s,) * 2, follow_symlinks=False)
    for file in young:
        os.utime(file, (time.time() - 0.99 * day_s,) * 2)
    (tmp_path / "elsewhere").mkdir()
    (kept := temporary_path(tmp_path / "elsewhere" / "file")).touch()
    os.utime(kept, (0, 0))
    (tmp_path / "parts" / "zz").symlink_to(tmp_path / "elsewhere")
    store.prepare(1, 1, tidy=False)
    assert all(file.exists() for file in (*old, *young, *others, path))
    store.prepare(1, 1, tidy=True)
    assert not any(file.exists() for file in old) and not link.is_symlink()
    assert all(file.exists() for file in (*young, *others, path, kept))


# ---- the report


def test_an_error_in_the_report_costs_the_report_and_neither_table_nor_parts(
    mount: Mount, shapes: Sharded, whole: SimpleNamespace, fastclip: Program
):
    disk = mount("size=16k")
    (disk / "ballast").write_bytes(bytes(16 << 10))
    (fastclip.folder / "file").touch()
    before = parts(whole.store)
    command = ["eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--precision", "fp32"]
    command += ["--store", whole.store]
    for option, path, message in (
        ("--json", disk / "r.json", "No space left on device"),
        ("--predictions", fastclip.folder / "file" / "p.parquet", "File exists"),
    ):
        outcome = fastclip(*command, option, path)
        assert outcome.code == 4 and outcome.out.startswith(whole.table)
        error, fix = outcome.err.splitlines()
        assert error == f"Error: Cannot write {path}: {message}." and "again" in fix
        assert parts(whole.store) == before and not temporaries(disk)
    written = fastclip(*command, "--json", "not/yet/there/r.json")
    record = (fastclip.folder / "not" / "yet" / "there" / "r.json").read_text()
    piped = fastclip(*command, "--json", "/proc/self/fd/1")  # what /dev/stdout points to; nobody can replace it
    assert (written.code, piped.code, piped.out) == (0, 0, written.out + record)
    assert json.loads(record)


def test_a_device_or_a_pipe_is_written_to_and_never_replaced(tmp_path: Path):
    """Never the machine's own: a program that replaces them, as ours once did for root, leaves it without /dev/null."""
    pipe, null, full = (tmp_path / name for name in ("pipe", "null", "full"))
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(pipe.read_bytes)
        write_whole(pipe, b"data")
        assert reading.result(timeout=30) == b"data" and pipe.is_fifo()
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(full, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        null.write_bytes(b"")
    except PermissionError as error:
        pytest.skip(f"devices cannot be made here: {error}")
    write_whole(null, b"nothing")
    assert null.is_char_device() and null.read_bytes() == b""
    with pytest.raises(IncompleteError, match="full: No space left"):
        write_whole(full, b"too much")
    assert sorted(tmp_path.iterdir()) == [full, null, pipe]


# ---- keys


def test_the_keys_made_for_speed_are_those_of_the_identity():
    rng = random.Random(0)
    texts = ["<shard>", "<index>", '"', "\\", "", "é\u2028", "index_sha256", '"shard_sha256":"', "\x00", "{}"]

    def text() -> str:
        return rng.choice([*texts, "".join(rng.choices(string.printable, k=8)), rng.randbytes(32).hex()])

    def value(depth: int = 0) -> object:
        kinds = ["text", "number", "flag", "none"] + ["list", "record"] * (depth < 3)
        kind = rng.choice(kinds)
        if kind == "list":
            return [value(depth + 1) for _ in range(rng.randint(0, 3))]
        if kind == "record":
            return {text(): value(depth + 1) for _ in range(rng.randint(0, 3))}
        return {"text": text(), "number": rng.choice([0, -1, 1.5, 1e300]), "flag": True, "none": None}[kind]

    for _ in range(1000):
        recipe = {text(): value() for _ in range(rng.randint(0, 6))}
        key = PartKeys(recipe)
        for _ in range(3):
            row = Shard(name="a/0.tar", domain="a", images=1, bytes=1, sha256=text(), index_sha256=text())
            assert key(row) == part_key(part_identity(recipe, row)), (recipe, row)


def test_errors_of_storage_cross_processes_with_their_cure(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(FastclipError) as caught:
        PartStore(tmp_path / "file").prepare(1, 1, tidy=True)
    assert caught.value.exit_code == 4 and "file/parts" in str(caught.value)
