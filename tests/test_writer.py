"""Shards are the same bytes whoever writes them, and a run that was killed goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import Program, image_bytes, shard, without_waiting, write

from fastclip.data.shards.manifest import read_manifest, read_rejected
from fastclip.data.shards.reader import read_index
from fastclip.data.shards.writer import WriteOptions, plan_shards, write_shards
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.layouts import list_source
from fastclip.data.sources.listing import Listing
from fastclip.errors import IncompleteError
from fastclip.storage.folders import LocalFolder, open_folder


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def numbered_images(folder: Path, count: int) -> Path:
    """`count` different images in two domains of three classes."""
    image = image_bytes()
    for number in range(count):
        path = folder / "ab"[number % 2] / f"class {'xyz'[number % 3]}" / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image + number.to_bytes(4, "big"))
    return folder


def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path):
    listing = list_source(numbered_images(tmp_path / "in", 130), None)
    for processes in (1, 2, 3):
        options = WriteOptions(shard_images=7, processes=processes)
        seen = []
        write_shards(
            listing,
            open_folder(tmp_path / str(processes) / "set"),
            dataset="set",
            options=options,
            on_progress=lambda images, size, seen=seen: seen.append((images, size)),
        )
        assert sum(images for images, _ in seen) == 130
        assert sum(size for _, size in seen) == sum(image.blob.size for image in listing.images)
    files = all_files(tmp_path / "1")
    assert files == all_files(tmp_path / "2") == all_files(tmp_path / "3")
    assert len([name for name in files if name.endswith(".tar")]) == 20


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it did not get that far"
        time.sleep(0.005)


def children(process: subprocess.Popen) -> set[int]:
    """Every process that `process` started, and theirs."""
    found, todo = set(), [process.pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            pids = {int(pid) for pid in task.read_text().split()}
            todo += pids - found
            found |= pids
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "a worker outlived its run"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """2400 images, and what `fastclip shard` makes of them in 80 shards."""
    folder = tmp_path_factory.mktemp("undisturbed")
    source = numbered_images(folder / "in", 2400)
    options = WriteOptions(shard_images=30, processes=2)
    write_shards(list_source(source, None), open_folder(folder / "out" / "set"), dataset="set", options=options)
    return source, all_files(folder / "out")


def receipt_names(folder: Path) -> list[str]:
    """Receipts below a folder that comes and goes: a writer tries its file system first."""
    return [name for _, _, names in os.walk(folder) for name in names if name.endswith(".receipt.json")]


@pytest.mark.parametrize("victim", ["all", "worker"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, fastclip: Program, undisturbed: tuple[Path, dict[str, bytes]], victim: str
):
    source, whole = undisturbed
    arguments = ("shard", "set", "--source", source, "--shard-images", 30, "--processes", 2)
    process = fastclip.start(*arguments)
    wait_for(lambda: len(receipt_names(tmp_path / "shards")) >= 3, process)
    workers = children(process)
    if victim == "all":
        process.kill()
    else:  # the youngest: the launcher of the others and their resource tracker came first
        os.kill(max(workers), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    if victim == "worker":
        lines = without_waiting(err).splitlines()
        assert process.returncode == 4 and len(lines) == 2 and "Run the same command again" in lines[1], (out, err)
    wait_until_gone(workers)
    assert not (tmp_path / "shards" / "set" / "manifest.json").exists()
    receipts = {path: json.loads(path.read_text()) for path in (tmp_path / "shards").rglob(".*.receipt.json")}
    kept = {tmp_path / "shards" / "set" / each["shard"]["name"] for each in receipts.values()}
    assert 3 <= len(kept) < 80
    inodes = {path: path.stat().st_ino for path in kept}
    again = fastclip(*arguments)
    assert again.code == 0, again
    assert {path: path.stat().st_ino for path in kept} == inodes, "finished shards are kept"
    assert all_files(tmp_path / "shards") == whole


def test_ctrl_c_ends_every_process_and_the_run_goes_on(
    tmp_path: Path, fastclip: Program, undisturbed: tuple[Path, dict[str, bytes]]
):
    arguments = ("shard", "set", "--source", undisturbed[0], "--shard-images", 30, "--processes", 2)
    process = fastclip.start(*arguments)
    wait_for(lambda: receipt_names(tmp_path / "shards"), process)
    workers = children(process)
    for pid in (process.pid, *workers):  # as a terminal does, to the whole group
        os.kill(pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and without_waiting(err).count("\n") == 2, err
    wait_until_gone(workers)
    assert fastclip(*arguments).code == 0


def test_a_source_that_changed_is_written_anew(tmp_path: Path):
    source = numbered_images(tmp_path / "in", 12)
    options = WriteOptions(shard_images=3, processes=1)
    folder = open_folder(tmp_path / "out" / "set")

    def stop_after_eight(images: int, size: int, seen=[]) -> None:  # noqa: B006 - it is called once a run
        seen.append(images)
        if len(seen) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(list_source(source, None), folder, dataset="set", options=options, on_progress=stop_after_eight)
    assert len(folder.list("*/.*.receipt.json")) == 2
    first = sorted(source.glob("a/class x/*.png"))[0]
    first.write_bytes(image_bytes(size=(9, 9)))
    write_shards(list_source(source, None), folder, dataset="set", options=options)
    fresh = open_folder(tmp_path / "fresh" / "set")
    write_shards(list_source(source, None), fresh, dataset="set", options=options)
    assert all_files(tmp_path / "out") == all_files(tmp_path / "fresh")


def test_a_finished_shard_that_was_damaged_is_written_anew(tmp_path: Path):
    source = numbered_images(tmp_path / "in", 12)
    folder = open_folder(tmp_path / "out" / "set")
    write_shards(list_source(source, None), folder, dataset="set", options=WriteOptions(shard_images=3))
    whole = all_files(tmp_path / "out")
    stop = {"manifest.json"}
    plans = plan_shards(list_source(source, None), WriteOptions(shard_images=3))
    assert len(plans) == 4
    damaged = tmp_path / "out" / "set" / "a" / "0.tar"
    damaged.write_bytes(damaged.read_bytes()[:-512])
    for name in stop:
        folder.remove(name)
    write_shards(list_source(source, None), folder, dataset="set", options=WriteOptions(shard_images=3))
    assert all_files(tmp_path / "out") == whole


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_writing_process_is_the_runs_error(tmp_path: Path, processes: int):
    listing = list_source(numbered_images(tmp_path / "in", 12), None)
    write(tmp_path / "out" / "set", {"a": b"a file, where the shards of a domain would go"})
    options = WriteOptions(shard_images=3, processes=processes)
    with pytest.raises(IncompleteError, match=r"Cannot write .*set/a"):
        write_shards(listing, open_folder(tmp_path / "out" / "set"), dataset="set", options=options)


def test_too_small_a_disk_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch):
    listing = list_source(numbered_images(tmp_path / "in", 12), None)
    monkeypatch.setattr(LocalFolder, "free_bytes", lambda self: 20_000)
    with pytest.raises(IncompleteError, match=r"need [0-9.]+ [kM]B more, .* has [0-9.]+ [kM]B free"):
        write_shards(listing, open_folder(tmp_path / "out" / "set"), dataset="set")
    assert not (tmp_path / "out").exists()


def sized(listing: Listing, sizes: list[int]) -> Listing:
    images = [replace(i, blob=Blob("file", Path("x"), size)) for i, size in zip(listing.images, sizes, strict=True)]
    return replace(listing, images=tuple(images))


def test_a_shard_ends_before_it_has_too_many_images_or_bytes(tmp_path: Path):
    listing = list_source(
        write(tmp_path, {f"{'dog' if number else 'cat'}/{number}.png": b"" for number in range(8)}), None
    )
    options = WriteOptions(shard_images=3, shard_bytes=100)
    plans = plan_shards(sized(listing, [10, 20, 30, 40, 61, 500, 1, 1]), options)
    sizes = [[image.blob.size for image in plan.images] for plan in plans]
    assert sizes == [[10, 20, 30], [40], [61], [500], [1, 1]]
    assert [(plan.number, plan.first) for plan in plans] == [(0, 0), (1, 3), (2, 4), (3, 5), (4, 6)]


def test_a_shard_without_a_usable_image_leaves_no_gap(tmp_path: Path):
    files = {
        f"{'dog' if n else 'cat'}/{n}.png": b"broken" if 3 <= n < 6 else image_bytes(size=(5, 5 + n)) for n in range(9)
    }
    folder = shard(write(tmp_path / "in", files), tmp_path / "out", "set", shard_images=3).folder
    manifest = read_manifest(folder)
    assert [each.name for each in manifest.shards] == ["all/0.tar", "all/1.tar"]
    keys = [record.key for each in manifest.shards for record in read_index(folder, each)]
    assert keys == [f"all/{n:08d}" for n in (0, 1, 2, 6, 7, 8)]
    assert manifest.domains[0].unreadable == 3 == len(read_rejected(folder, manifest))
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert names == {
        *("0.tar", "1.tar", "0.index.jsonl", "1.index.jsonl"),
        *("manifest.json", "rejected.jsonl", "classnames.txt", "nshards.txt"),
    }


def test_without_verification_eval_finds_what_does_not_decode(tmp_path: Path, fastclip: Program):
    cut = image_bytes("JPEG", (640, 640))[:-2000]
    write(tmp_path / "in", {"dog/1.png": image_bytes(), "dog/2.jpg": cut, "cat/3.png": image_bytes(size=(6, 6))})
    write(tmp_path / "in", {"cat/4.png": b"not an image at all"})
    outcome = fastclip.here("shard", "pets", "--source", tmp_path / "in", "--no-verify")
    assert outcome.code == 0 and "1 unreadable" in outcome.out, "a header that cannot be read is noticed all the same"
    manifest = read_manifest(tmp_path / "shards" / "pets")
    assert not manifest.verified and manifest.domains[0].images == 3 and manifest.domains[0].unreadable == 1
    outcome = fastclip.here("eval", "pets", "-b", "tiny", "--unreadable", "wrong", "--json", "counts.json")
    assert outcome.code == 0, outcome
    (cell,) = json.loads((tmp_path / "counts.json").read_text())["cells"]
    assert (cell["images"], cell["classified"], cell["unreadable"]) == (4, 2, 2)


def test_images_with_the_same_bytes_are_reported(tmp_path: Path, fastclip: Program):
    same, other = image_bytes(size=(8, 8)), image_bytes(size=(9, 9))
    files = {"in/a/cat/1.png": same, "in/a/cat/2.png": other, "in/a/dog/3.png": same, "in/b/cat/4.png": other}
    files["in/a/cow/5.png"] = image_bytes(size=(7, 7))
    write(tmp_path, files)
    outcome = fastclip.here("shard", "pets", "--source", tmp_path / "in")
    assert (
        "2 images with the bytes of another one, 1 of them in another class; a/dog/3.png is a/cat/1.png." in outcome.out
    )
