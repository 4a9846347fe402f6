"""Disks that are full, forbidden, broken or shared: found before the models load, or exit 4, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
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
import torch
from helpers import Program, Sharded, part_paths, recipe, shard, temporaries, write
from rich.console import Console

from fastclip.data.shards.manifest import Unreadable
from fastclip.errors import FastclipError, IncompleteError, IntegrityError
from fastclip.evaluate.embedding import embed
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.score import score
from fastclip.evaluate.setup import resolve
from fastclip.faults import MachineError
from fastclip.files import temporary_path, write_whole
from fastclip.finetune.checkpoint import check_space
from fastclip.report.terminal import tables
from fastclip.sealed import seal
from fastclip.storage.folders import LocalFolder
from fastclip.store.parts import Part
from fastclip.store.store import Store
from fastclip.text.prototypes import Question, TextRecipe, find_prototypes, keep_prototypes

RECIPE, NAME = recipe(), "a" * 64
PART = Part(np.arange(12, dtype=np.float16).reshape(3, 4), np.ones(3, np.float32), (Unreadable(1, "why"),))

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
    setup = resolve(asked)
    done = embed(setup, on_images)
    if done.failures:
        raise done.failures[0]
    evaluation, _ = score(setup)
    with (console := Console(width=80)).capture() as capture:
        for table in tables(evaluation):
            console.print(table)
    assert evaluation.complete
    return capture.get()


def parts(store: Path) -> dict[str, bytes]:
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in part_paths(store)}


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
        ("size=64k", "size=64m", r"has \d+ kB free, the embeddings need \d+ kB"),
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
        embed(resolve(options(shapes, disk / "store", weights={"tiny": broken})))
    assert re.search(message, str(caught.value)) and str(disk / "store") in str(caught.value)
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
    assert fastclip.here(*command).code == 0
    assert parts(disk / "s") == whole.parts


def test_a_folder_that_may_not_be_written_to_is_refused_with_its_path(
    shapes: Sharded, whole: SimpleNamespace, fastclip: Program
):
    (store := fastclip.folder / "store").mkdir()
    store.chmod(0o555)
    command = ["eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--store", "store", "--precision", "fp32"]
    # Modes do not bind root until it gives up that capability.
    prefix = [] if os.getuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if prefix and (not shutil.which("setpriv") or subprocess.run([*prefix, "true"]).returncode):
        pytest.skip("no setpriv here, or it may not drop capabilities")
    outcome = fastclip(*command, prefix=prefix)
    assert (outcome.code, outcome.out) == (4, "")
    error, fix = outcome.err.splitlines()
    assert error.startswith("Error: Cannot write store/") and "Permission denied" in error and "again" in fix
    assert not list(store.iterdir())
    store.chmod(0o755)
    assert fastclip(*command, prefix=prefix).code == 0
    assert parts(store) == whole.parts


def test_a_disk_that_does_not_say_how_large_it_is_is_not_full(mount: Mount):
    disk = mount("size=0,nr_inodes=0")
    assert os.statvfs(disk).f_blocks == 0
    Store(disk / "store").prepare(1000, 1 << 40, tidy=True)


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
    assert f"Cannot write {store}/" in str(caught.value) and caught.value.exit_code == 4
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
    store = Store(tmp_path)
    store.publish(RECIPE, NAME, PART)
    assert store.read(RECIPE.id, NAME) is not None and not temporaries(tmp_path)
    with pytest.raises(IntegrityError, match="other bytes"):
        store.publish(RECIPE, NAME, Part(PART.embeddings + 1, PART.norms, ()))


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
        ours = fastclip.here(*command, "--store", disk / "store", "--prompts", prompts)
        assert ours.code == 0 and ours.err.startswith("Result kept: ") and ours.err.count("\n") == 1
        assert ours.out.startswith(evaluate(options(shapes, whole.store, prompts=(prompts,))))
    assert contents(disk) == before


def test_a_damaged_part_in_a_read_only_store_is_named_in_two_lines(
    mount: Mount, shapes: Sharded, whole: SimpleNamespace, fastclip: Program
):
    disk = mount("size=64m")
    shutil.copytree(whole.store, disk / "store")
    part = part_paths(disk / "store")[0]
    part.write_bytes(part.read_bytes()[:-1])
    mount("ro")
    command = ["eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--precision", "fp32"]
    outcome = fastclip.here(*command, "--store", disk / "store")
    assert (outcome.code, outcome.out) == (5, "")
    error, fix = outcome.err.splitlines()
    assert f"{part} is damaged" in error and "Read-only" in error and "--store" in fix
    mount("rw")
    assert fastclip.here(*command, "--store", disk / "store").code == 0
    assert parts(disk / "store") == whole.parts


# ---- damage


def test_a_part_with_any_byte_flipped_is_moved_aside_and_made_again(tmp_path: Path):
    store = Store(tmp_path)
    store.publish(RECIPE, NAME, PART)
    path = store.path(RECIPE.id, NAME)
    good = path.read_bytes()
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert store.has(RECIPE.id, NAME) and store.read(RECIPE.id, NAME) is None and not store.has(RECIPE.id, NAME)
        assert store.damaged_path(RECIPE.id, NAME).read_bytes() == damaged
        path.write_bytes(good)
    assert store.read(RECIPE.id, NAME) is not None
    print(f"{len(good)} bytes flipped")


@pytest.mark.parametrize("position", [0, 9, 300, -1])
def test_the_numbers_are_the_same_after_damage_to_any_region_of_a_real_part(
    position: int, shapes: Sharded, whole: SimpleNamespace, tmp_path: Path
):
    shutil.copytree(whole.store, store := tmp_path / "store")
    path = part_paths(store)[3]
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 4
    path.write_bytes(damaged)
    evaluation, _ = score(resolve(options(shapes, store)))
    assert not evaluation.complete, "a damaged part counts as missing"
    assert evaluate(options(shapes, store)) == whole.table and parts(store) == whole.parts


@pytest.mark.parametrize(
    "what", ["another sealed file", "a folder", "a link to nowhere", "a link to a file", "nothing"]
)
def test_whatever_lies_in_a_parts_place_is_moved_aside_and_no_link_is_written_through(what: str, tmp_path: Path):
    store = Store(tmp_path / "store")
    store.publish(RECIPE, NAME, PART)
    path = store.path(RECIPE.id, NAME)
    path.unlink()
    (victim := tmp_path / "victim").write_bytes(b"precious")
    if what == "another sealed file":
        path.write_bytes(seal({"not": np.eye(2)}, {"a": "part"}))
    elif what == "a folder":
        path.mkdir()
    elif what == "a link to nowhere":
        path.symlink_to(tmp_path / "nowhere")
    elif what == "a link to a file":
        path.symlink_to(victim)
    else:
        path.touch()
    store = Store(tmp_path / "store")
    assert store.has(RECIPE.id, NAME)
    with pytest.raises(IntegrityError, match="other bytes"):
        store.publish(RECIPE, NAME, PART)
    assert store.read(RECIPE.id, NAME) is None and not store.has(RECIPE.id, NAME)
    store.publish(RECIPE, NAME, PART)
    assert store.read(RECIPE.id, NAME) is not None and path.is_file() and not path.is_symlink()
    assert victim.read_bytes() == b"precious" and not (tmp_path / "nowhere").exists()
    assert not temporaries(tmp_path)


def test_a_part_that_was_removed_while_the_run_goes_on_is_missing_and_not_remembered(tmp_path: Path):
    store = Store(tmp_path)
    store.publish(RECIPE, NAME, PART)
    assert store.has(RECIPE.id, NAME)
    store.path(RECIPE.id, NAME).unlink()
    assert store.read(RECIPE.id, NAME) is None and not store.has(RECIPE.id, NAME)


def test_many_who_find_a_part_damaged_at_once_end_with_one_good_part(tmp_path: Path):
    for _ in range(50):
        Store(tmp_path).publish(RECIPE, NAME, PART)
        path = Store(tmp_path).path(RECIPE.id, NAME)
        path.write_bytes(path.read_bytes()[:-3])

        def find_and_mend(barrier: threading.Barrier) -> None:
            store = Store(tmp_path)
            barrier.wait()
            if store.read(RECIPE.id, NAME) is None:
                # Publishing while a damaged one is there is an error, and the next reader moves it.
                with suppress(IntegrityError):
                    store.publish(RECIPE, NAME, PART)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(find_and_mend, [threading.Barrier(4)] * 4))
        assert Store(tmp_path).read(RECIPE.id, NAME) is not None and not temporaries(tmp_path)


QUESTION = Question(weights="w", architecture="a", templates=("a {}",), classes=(("a", "a"), ("b", "b"), ("c", "c")))
TEXT_RECIPE = TextRecipe(libraries="l", machine="m", switches=(), numerics=1)
ROWS = np.eye(3, 4, dtype=np.float32)


def test_prototypes_with_any_byte_flipped_are_not_read_and_make_room(tmp_path: Path, mount: Mount):
    keep_prototypes(tmp_path / "p", QUESTION, TEXT_RECIPE, ROWS)
    (path,) = (tmp_path / "p").glob("*/*")
    good = path.read_bytes()
    for position in range(0, len(good), 3):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert find_prototypes(tmp_path / "p", QUESTION) is None
        keep_prototypes(tmp_path / "p", QUESTION, TEXT_RECIPE, ROWS)
        assert path.read_bytes() == good
    found = find_prototypes(tmp_path / "p", QUESTION)
    assert found is not None and np.array_equal(found, ROWS)
    disk = mount("size=1m")
    (there := disk / QUESTION.id / path.name).parent.mkdir()
    there.write_bytes(good[:-1])
    mount("ro")
    keep_prototypes(disk, QUESTION, TEXT_RECIPE, ROWS)
    assert find_prototypes(disk, QUESTION) is None and there.read_bytes() == good[:-1]


def test_prototypes_that_cannot_be_kept_are_no_error(mount: Mount):
    disk = mount("size=16k")
    (disk / "ballast").write_bytes(bytes(16 << 10))
    keep_prototypes(disk / "p", QUESTION, TEXT_RECIPE, ROWS)
    assert find_prototypes(disk / "p", QUESTION) is None and not temporaries(disk)


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
    store = Store(tmp_path / "store")
    store.publish(RECIPE, NAME, PART)
    path = store.path(RECIPE.id, NAME)
    (victim := tmp_path / "victim").write_bytes(b"")
    day_s = 86_400
    old, young, others = [], [], [victim]
    for folder in (path.parent, store.folder, *(store.folder / name for name in ("prototypes/question", "processes"))):
        folder.mkdir(exist_ok=True, parents=True)
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
    (store.folder / "zz").symlink_to(tmp_path / "elsewhere")
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
    before = parts(whole.store)
    command = ["eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--precision", "fp32"]
    command += ["--store", whole.store]
    for option, path, message in (
        ("--json", disk / "r.json", "No space left on device"),
        ("--predictions", disk / "p.parquet", "No space left on device"),
    ):
        outcome = fastclip.here(*command, option, path)
        assert outcome.code == 4 and outcome.out.startswith(whole.table)
        kept, error, fix = outcome.err.splitlines()
        assert error == f"Error: Cannot write {path}: {message}." and "again" in fix
        assert kept.startswith("Result kept: ")
        assert parts(whole.store) == before and not temporaries(disk)
    written = fastclip.here(*command, "--json", "not/yet/there/r.json")
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


def test_errors_of_storage_cross_processes_with_their_cure(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(FastclipError) as caught:
        Store(tmp_path / "file").prepare(1, 1, tidy=True)
    assert caught.value.exit_code == 4 and f"{tmp_path}/file" in str(caught.value)


def test_a_folder_that_cannot_be_read_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, {"a/manifest.json": b"", "b/manifest.json": b"", "b/c/0.tar": b""})
    folder, scandir = LocalFolder(tmp_path), os.scandir
    assert list(folder.list("*/manifest.json")) == ["a/manifest.json", "b/manifest.json"]
    assert list(folder.list("*/*/[0-9]*.tar")) == ["b/c/0.tar"] and list(folder.list("none/*")) == []

    def refuse(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MachineError, match="a cannot be read: Permission denied"):
        folder.list("*/*.json")


@pytest.mark.parametrize("sign", [".writing.0123456789ab-7-7.json", "flat/.3.receipt.json"])
def test_a_dataset_whose_writing_was_interrupted_is_named(sign: str, shapes: Sharded, fastclip: Program):
    shutil.copytree(shapes.shards, fastclip.folder / "shards")
    write(fastclip.folder / "shards" / "half", {sign: b"{}", "flat/0.tar": b"tar"})
    checked = fastclip.here("shards", "check")
    assert checked.code == 4 and "shapes: 12 shards" in checked.out and "shards/half is not finished" in checked.out
    for words in (["status", "-b", "tiny"], ["status", "half", "-b", "tiny"]):
        outcome = fastclip.here(*words)
        assert outcome.code == 4 and "shards/half is not finished" in outcome.err
        assert "fastclip shard half --source DIR" in outcome.err
    assert fastclip.here("shards", "check", "shapes").code == 0


def test_a_training_asks_the_disk_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learning = {"weight": torch.zeros(1_000_000)}
    check_space(tmp_path / "run", learning)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=47_000_000))
    with pytest.raises(IncompleteError, match=r"need 48\.0 MB, and there are 47\.0 MB") as told:
        check_space(tmp_path / "run", learning)
    assert "--out" in told.value.fix
