"""A dataset has one writer at a time, and a run that ends well has left everything that it lists."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from helpers import Program, image_bytes, write

from fastclip.data.shards.check import check_dataset
from fastclip.data.shards.index import plan_index, write_index
from fastclip.data.shards.manifest import read_manifest
from fastclip.data.shards.writer import WriteOptions, Written, write_shards
from fastclip.data.sources.layouts import list_source
from fastclip.errors import IncompleteError, UserError
from fastclip.files import temporary_path
from fastclip.machine import started
from fastclip.proven import ProvenFile
from fastclip.storage.alone import alone_in
from fastclip.storage.folders import Folder, LocalFolder, open_folder

OTHER_MACHINE = ".writing.0123456789ab-77-5.json"


def images(folder: Path, count: int = 12, domains: Sequence[str] = ("a", "b")) -> Path:
    """`count` different images of two classes in each domain."""
    for domain in domains:
        for number in range(count):
            data = image_bytes(size=(5, 5)) + f"{domain}{number}".encode()
            write(folder / domain / f"class {'xy'[number % 2]}", {f"{number:05d}.png": data})
    return folder


def written(source: Path, folder: Folder, **options: object) -> Written:
    on_progress = options.pop("on_progress", lambda images, size: None)
    chosen = WriteOptions(**{"shard_images": 3, "processes": 1, **options})
    listing = list_source(source, None, layout="domain/class")
    return write_shards(listing, folder, dataset=folder.name, options=chosen, on_progress=on_progress)


def all_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def differences(folder: Folder) -> list[str]:
    checked = check_dataset(folder, read_manifest(folder), workers=1)
    return [*checked.differences, *checked.unread]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_every_file_follows_the_umask(tmp_path: Path, umask: int):
    source = images(tmp_path / "in")
    before = os.umask(umask)
    try:
        written(source, LocalFolder(tmp_path / "shards" / "set"))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "shards").rglob("*") if path.is_file()}
    assert "0.tar" in modes and set(modes.values()) == {0o666 & ~umask}


@pytest.mark.parametrize(
    "round",
    [
        pytest.param(each, marks=[pytest.mark.slow] if each > 1 else [])
        for each in range(12)  # each with options of its own: see below
    ],
)
def test_of_two_writers_at_once_one_wins_and_its_dataset_is_whole(tmp_path: Path, fastclip: Program, round: int):
    images(tmp_path / "in", 60)
    start = ("shard", "set", "--source", "in", "--layout", "domain/class", "--overwrite", "--processes", 1 + round % 3)
    sizes = (7, 7 if round % 2 else 11)
    writers = []
    for size in sizes:
        writers.append(fastclip.start(*start, "--shard-images", size))
        time.sleep(0.3 * (round // 2))
    said = [process.communicate(timeout=120) for process in writers]
    codes = [process.returncode for process in writers]
    assert 0 in codes and set(codes) <= {0, 4}, said
    for code, (_, err) in zip(codes, said, strict=True):
        assert code == 0 or (err.count("\n") == 2 and "Another process is writing shards/set" in err), err
    folder = open_folder(tmp_path / "shards" / "set")
    assert differences(folder) == [] and not list(folder.path.rglob(".*"))
    last = max(number for number, code in enumerate(codes) if code == 0)
    if 4 in codes:
        assert read_manifest(folder).shards[0].images == sizes[last]


def test_a_second_writer_is_told_who_the_first_is_and_harms_nothing(tmp_path: Path, fastclip: Program):
    source = images(tmp_path / "in")
    seen = []

    def start_another(count: int, size: int) -> None:
        seen.append(count)
        if len(seen) == 4:
            outcome = fastclip("shard", "set", "--source", "in", "--layout", "domain/class", "--shard-images", 2)
            assert outcome.code == 4 and outcome.err.count("\n") == 2, outcome
            assert f"Another process is writing shards/set (process {os.getpid()} on " in outcome.err
            assert "choose another --out" in outcome.err

    folder = open_folder(tmp_path / "shards" / "set")
    written(source, folder, on_progress=start_another)
    assert len(seen) == 24 and differences(folder) == []


def test_a_writer_on_another_machine_counts_for_a_minute_after_its_last_sign(tmp_path: Path):
    folder = LocalFolder(tmp_path / "set")
    folder.write(OTHER_MACHINE, json.dumps({"host": "far\x1b[31m", "process": 77, "since": "noon"}).encode())
    with pytest.raises(IncompleteError, match=r"process 77 on far\\x1b\[31m, since noon") as caught:
        written(images(tmp_path / "in"), folder)
    assert caught.value.exit_code == 4 and list(folder.list("*")) == [OTHER_MACHINE]
    os.utime(tmp_path / "set" / OTHER_MACHINE, (time.time() - 70,) * 2)
    written(tmp_path / "in", folder)
    assert differences(folder) == [] and list(folder.list(".*")) == []


def test_a_writer_that_was_taken_for_dead_does_not_publish(tmp_path: Path):
    folder = LocalFolder(tmp_path / "set")

    def taken_over(count: int, size: int) -> None:
        for note in folder.list(".writing.*"):
            folder.remove(note)

    with pytest.raises(IncompleteError, match="Another process is writing"):
        written(images(tmp_path / "in"), folder, on_progress=taken_over)
    assert not folder.exists("manifest.json")


def test_a_dead_process_of_this_machine_keeps_nobody_waiting(tmp_path: Path):
    folder = LocalFolder(tmp_path / "set")
    program = "import os, sys; from fastclip.storage.alone import alone_in, Path, LocalFolder\n"
    program += "with alone_in(LocalFolder(Path(sys.argv[1]))): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program, folder.path], check=False).returncode == -signal.SIGKILL
    assert len(folder.list(".writing.*")) == 1, "what it left"
    with alone_in(folder):
        (mine,) = folder.list(".writing.*")
        assert f"-{os.getpid()}-{started(os.getpid())}" in mine
    assert not folder.path.exists() or not list(folder.path.iterdir())


@pytest.mark.parametrize("how", ["removed", "cut", "renamed"])
@pytest.mark.parametrize("what", ["a/0.tar", "a/0.index.jsonl"])
def test_what_is_no_longer_there_is_named_and_written_by_the_same_command(tmp_path: Path, what: str, how: str):
    source, folder, seen = images(tmp_path / "in"), LocalFolder(tmp_path / "set"), []

    def spoil(count: int, size: int) -> None:
        seen.append(count)
        if len(seen) == 6:
            path = folder.path / what
            if how == "cut":
                path.write_bytes(path.read_bytes()[:-1])
            elif how == "renamed":
                path.rename(path.with_name("other " + path.name.upper()))
            else:
                path.unlink()

    said = rf"set/{what} " + (r"has [\d,]+ bytes now, [\d,]+ were written" if how == "cut" else "is not there any more")
    with pytest.raises(IncompleteError, match=said):
        written(source, folder, on_progress=spoil)
    assert not folder.exists("manifest.json") and len(folder.list("*/.*.receipt.json")) == 8
    written(source, folder)
    for path in folder.path.glob("*/other *"):
        path.unlink()
    written(source, LocalFolder(tmp_path / "fresh" / "set"))
    assert all_files(folder.path) == all_files(tmp_path / "fresh" / "set")


def test_indexes_of_other_programs_shards_are_written_by_one_process(tmp_path: Path):
    folder = LocalFolder(tmp_path / "set")
    written(images(tmp_path / "in"), folder)
    for name in ("manifest.json", *folder.list("*/*.index.jsonl")):
        folder.remove(name)
    plan = plan_index(folder.path, None)
    with alone_in(folder), pytest.raises(IncompleteError, match="Another process is writing"):
        write_index(plan, None, workers=1)
    assert not folder.exists("manifest.json")
    write_index(plan, None, workers=1)
    assert differences(folder) == []


def test_only_the_dead_lose_their_unfinished_files(tmp_path: Path):
    folder = LocalFolder(tmp_path / "set")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    shutil.copytree(images(tmp_path / "in") / "a", tmp_path / "more" / "a")
    mine, dead = temporary_path(folder.path / "0.tar"), temporary_path(folder.path / "a" / "1.tar")
    theirs = mine.with_name(mine.name.replace(str(os.getpid()), str(child.pid)))
    dead = dead.with_name(dead.name.replace(str(os.getpid()), "999999999"))
    write(folder.path, {"a/x": b""})
    for path in (theirs, dead, folder.path / ".shard-x.tmp"):
        path.write_bytes(b"half of it")
    written(tmp_path / "in", folder)
    assert theirs.exists() and not dead.exists() and not (folder.path / ".shard-x.tmp").exists()
    child.communicate(b"\n")
    written(tmp_path / "in", folder)
    assert not theirs.exists()


class Folding(LocalFolder):
    """A folder on a file system that takes names in any case and lists them in lower case."""

    def child(self, name: str) -> Folding:
        return Folding(self.path / name)

    def exists(self, name: str) -> bool:
        return super().exists(name.lower())

    def sizes(self, folder: str) -> Mapping[str, int]:
        return super().sizes(folder.lower())

    def modified_s(self, name: str) -> float | None:
        return super().modified_s(name.lower())

    def tells_case_apart(self) -> bool:
        return False

    def read(self, name: str) -> bytes:
        return super().read(name.lower())

    def read_proven(self, name: str, sha256: str) -> bytes:
        return super().read_proven(name.lower(), sha256)

    def open(self, name: str, *, size: int, sha256: str) -> ProvenFile:
        return super().open(name.lower(), size=size, sha256=sha256)

    def write(self, name: str, data: bytes) -> None:
        super().write(name.lower(), data)

    def put(self, name: str, temporary: Path) -> None:
        super().put(name.lower(), temporary)

    def rename(self, old: str, new: str) -> None:
        super().rename(old.lower(), new.lower())

    def remove(self, name: str) -> None:
        super().remove(name.lower())


@pytest.fixture(params=["a stand-in", "ntfs-3g"])
def folding(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Folder]]:
    """Gives folders where upper and lower case are the same."""
    if request.param == "a stand-in":
        yield lambda name: Folding(tmp_path / "folding" / name)
        return
    if not (shutil.which("lowntfs-3g") and shutil.which("mkntfs") and os.access("/dev/fuse", os.W_OK)):
        pytest.skip("needs lowntfs-3g, mkntfs and the right to mount")
    disk, mount = tmp_path / "disk", tmp_path / "mount"
    mount.mkdir()
    with disk.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkntfs", "-F", "-Q", disk], check=True, capture_output=True)
    if subprocess.run(["lowntfs-3g", "-o", "ignore_case", disk, mount], check=False, capture_output=True).returncode:
        pytest.skip("may not mount here")
    yield lambda name: LocalFolder(mount / name)
    subprocess.run(["umount", mount], check=True)


def test_domains_that_differ_in_case_only_are_refused_where_that_is_no_difference(
    tmp_path: Path, folding: Callable[[str], Folder]
):
    source = images(tmp_path / "in", domains=("Photo", "photo", "PHOTO", "other"))
    folder = folding("set")
    with pytest.raises(UserError, match="'PHOTO' and 'Photo' differ in upper and lower case only") as caught:
        written(source, folder)
    assert "--out on another file system" in caught.value.fix and list(folder.list("*/*")) == []
    here = LocalFolder(tmp_path / "here" / "set")
    assert len(written(source, here).manifest.domains) == 4 and differences(here) == []


def test_what_was_just_written_is_not_removed_where_names_are_listed_in_lower_case(
    tmp_path: Path, folding: Callable[[str], Folder]
):
    source, folder = images(tmp_path / "in", domains=("A", "B")), folding("Set")
    for shard_images in (2, 5, 5):
        written(source, folder, shard_images=shard_images)
        assert differences(folder) == []
        assert len(folder.list("*/*.tar")) == {2: 12, 5: 6}[shard_images], "those of the run before are gone"
