"""Shards elsewhere: what servers do to us, what the cache keeps, and the same numbers wherever shards lie."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from helpers import Program, Sharded, recipe
from servers import FAULTS, Server, file_route, serving, status

from fastclip.data.shards.manifest import list_datasets, read_manifest, read_rejected
from fastclip.data.shards.reader import OpenShard
from fastclip.data.shards.targets import find_targets
from fastclip.data.shards.writer import WriteOptions, write_shards
from fastclip.data.sources.layouts import list_source
from fastclip.embed.attempts import Attempts
from fastclip.embed.loop import EmbeddingLoop
from fastclip.embed.plan import Unit, shares
from fastclip.errors import IncompleteError, IntegrityError, UserError
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import resolve
from fastclip.files import digest, write_temporary
from fastclip.models.tower import Embedded, ImageTower
from fastclip.pixels.decoder import DecodedBatch, EncodedImage
from fastclip.pixels.decoders import make_decoder
from fastclip.proven import ProvenFile
from fastclip.storage.alone import alone_in
from fastclip.storage.cache import Cache, shard_cache
from fastclip.storage.folders import Folder, LocalFolder, open_folder
from fastclip.store.parts import part_name
from fastclip.store.store import Store


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with serving() as start:
        yield start


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a timeout that does not keep the test waiting."""
    monkeypatch.setenv("FASTCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FASTCLIP_TIMEOUT_S", "0.6")
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """An S3 server of this machine with an empty bucket; the address of a folder in it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="session")
def shapes_on_s3(s3: str, shapes: Sharded) -> str:
    """The folder of all shards, copied to S3 as a user would: file by file."""
    folder = open_folder(f"{s3}/shards")
    for path in shapes.shards.rglob("*"):
        if path.is_file():
            folder.write(path.relative_to(shapes.shards).as_posix(), path.read_bytes())
    return str(folder)


def all_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def evaluate(fastclip: Program, shards: object, *arguments: object) -> tuple[str, bytes]:
    """The table and the record of `fastclip eval` with nothing embedded yet."""
    number = len(list(fastclip.folder.glob("store*")))
    record = fastclip.folder / f"record{number}.json"
    options = ["-b", "tiny", "--shards", shards, "--store", fastclip.folder / f"store{number}", "--json", record]
    outcome = fastclip("eval", *arguments, *options)
    assert outcome.code == 0, outcome.err
    return outcome.out, record.read_bytes()


def test_a_dataset_behind_http_gives_the_local_table_without_telling_its_secrets(
    shapes: Sharded, fastclip: Program, serve: Callable[..., Server]
):
    server = serve(shapes.shards.parent)
    secrets = ("annabel", "pass/word", "very+secret", "pass%2F", "very%2B")
    address = server.url().replace("http://", "http://annabel:pass%2Fword@") + "/shards/?sig=very%2Bsecret"
    patient = dataclasses.replace(fastclip, environment={"FASTCLIP_TIMEOUT_S": "5"})
    expected = evaluate(fastclip, shapes.shards, "shapes")
    assert evaluate(patient, address, "shapes") == expected
    login = "Basic " + base64.b64encode(b"annabel:pass/word").decode()
    credentials = {(asked.headers.get("authorization"), asked.query) for asked in server.asked}
    assert credentials == {(login, "sig=very%2Bsecret")}, "and neither was changed on the way"
    (target,) = find_targets(address, ["shapes"])
    for shard in target.shards:
        OpenShard(target.folder, shard)
    assert len(server.requests_for(".tar")) == len(target.manifest.shards), "the second time all were cached"
    for names, message in ((["nothing"], "there is no http"), (["shapes/moon"], "no domain"), ([], "be searched")):
        with pytest.raises(UserError, match=message) as caught:
            find_targets(address, names)
        assert not any(secret in str(caught.value) + caught.value.fix for secret in secrets)
    server.faults["shards/shapes/manifest.json"] += ["503"] * 6
    outcome = patient("eval", "shapes", "-b", "tiny", "--shards", address)
    assert (outcome.code, outcome.err.count("\n")) == (4, 2) and "503" in outcome.err, outcome.err
    assert not any(secret in outcome.err + outcome.out for secret in secrets)


@pytest.mark.parametrize("where", ["address", "netrc"])
def test_a_login_goes_to_its_own_server_and_along_no_redirect_to_another(
    where: str, serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login annabel password word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ("netrc" if where == "netrc" else "none")))
    ours, theirs = serve(), serve()
    ours.routes["/0.tar"] = status(307, Location="/moved")
    ours.routes["/moved"] = status(302, Location=theirs.url("/0.tar", host="localhost"))
    theirs.routes["/0.tar"] = file_route(b"bytes")
    login = "annabel:word@" if where == "address" else ""
    assert open_folder(ours.url().replace("//", f"//{login}")).read("0.tar") == b"bytes"
    expected = "Basic " + base64.b64encode(b"annabel:word").decode()
    assert [asked.headers.get("authorization") for asked in ours.asked + theirs.asked] == [expected, expected, None]


@pytest.mark.parametrize(
    "faults",
    [*([fault] for fault in FAULTS), ["drop"] * 4, ["drop", "no ranges"], ["stall", "503", "too short"]],
    ids=str,
)
def test_whatever_a_server_does_the_bytes_are_the_ones_that_were_sharded(
    faults: list[str], shapes: Sharded, serve: Callable[..., Server], cache_folder: Path
):
    server = serve(shapes.shards)
    folder = open_folder(server.url()).child("shapes")
    shard = read_manifest(folder).shards[0]
    server.faults[f"shapes/{shard.name}"] += faults
    opened, local = OpenShard(folder, shard), OpenShard(shapes.folder, shard)
    for row in range(shard.images):
        assert opened.image_bytes(row) == local.image_bytes(row)
    assert not server.faults[f"shapes/{shard.name}"], "all of it was tried"
    assert {path.name for path in all_files(cache_folder)} == {shard.sha256, shard.index_sha256}


def test_what_was_read_is_not_read_again_after_a_cut(shapes: Sharded, serve: Callable[..., Server]):
    server = serve(shapes.shards)
    folder = open_folder(f"{server.url()}/shapes")
    shard = read_manifest(folder).shards[0]
    server.faults[f"shapes/{shard.name}"] += ["drop", "other bytes"]
    # Half of each: the digest tells, and the third request fetches all of it.
    OpenShard(folder, shard)
    assert len(server.requests_for(shard.name)) == 3
    ranges = open_folder(f"{server.url()}/shapes")
    server.faults[f"shapes/{shard.index_name}"] += ["drop"]
    assert ranges.read_proven(shard.index_name, shard.index_sha256)


def copy(shapes: Sharded, folder: Path) -> Path:
    """The dataset's files, to be damaged."""
    for path in all_files(shapes.folder):
        target = folder / "shapes" / path.relative_to(shapes.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
def test_a_server_with_other_bytes_is_an_integrity_error(
    how: str, shapes: Sharded, tmp_path: Path, serve: Callable[..., Server], cache_folder: Path
):
    server = serve(copy(shapes, tmp_path / "copy"))
    folder = open_folder(f"{server.url()}/shapes")
    shard = read_manifest(folder).shards[0]
    path = tmp_path / "copy" / "shapes" / shard.name
    whole = path.read_bytes()
    path.write_bytes({"flipped": whole[:-1] + b"\1", "truncated": whole[:1000], "empty": b""}[how])
    with pytest.raises(IntegrityError, match=re.escape(shard.name)):
        OpenShard(folder, shard)
    if how == "flipped":
        assert len(server.requests_for(shard.name)) == 1, "a whole download with the wrong digest says enough"
    assert not all_files(cache_folder)


def test_a_missing_shard_and_a_server_that_is_gone_or_dumb_are_two_lines(
    shapes: Sharded, tmp_path: Path, serve: Callable[..., Server], fastclip: Program
):
    server = serve(copy(shapes, tmp_path / "copy"))
    folder = open_folder(f"{server.url()}/shapes")
    manifest = read_manifest(folder)
    (tmp_path / "copy" / "shapes" / manifest.shards[0].name).unlink()
    with pytest.raises(UserError, match="is missing; the manifest lists it"):
        OpenShard(folder, manifest.shards[0])
    server.faults[f"shapes/{manifest.shards[1].name}"] += ["stall"] + ["503"] * 10
    with pytest.raises(IncompleteError, match=r"0\.6 seconds|503"):
        OpenShard(folder, manifest.shards[1])
    server.shutdown()
    server.server_close()
    outcome = fastclip("eval", "shapes", "-b", "tiny", "--shards", server.url())
    assert (outcome.code, outcome.err.count("\n")) == (4, 2) and "cannot be reached" in outcome.err


def test_a_server_that_only_fails_is_given_up(shapes: Sharded, serve: Callable[..., Server]):
    server = serve(shapes.shards)
    folder = open_folder(f"{server.url()}/shapes")
    server.faults["shapes/manifest.json"] += ["503"] * 20
    with pytest.raises(IncompleteError, match=r"after 6 attempts: .*503"):
        folder.read("manifest.json")


def test_files_of_one_name_on_two_servers_are_not_mixed_up(tmp_path: Path, serve: Callable[..., Server]):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.tar").write_bytes(name.encode())
        folder = open_folder(serve(tmp_path / name).url())
        assert folder.open("0.tar", size=3, sha256=digest(name.encode())).read() == name.encode()


def test_percent_signs_blanks_and_letters_of_any_script_in_names_are_names(
    tmp_path: Path, serve: Callable[..., Server], s3: str
):
    name = "Real%20World é+?#/0.tar"
    LocalFolder(tmp_path / "my data").write(name, b"bytes")
    for folder in (open_folder(f"{serve(tmp_path).url()}/my data"), open_folder(f"{s3}/my data")):
        if str(folder).startswith("s3"):
            folder.write(name, b"bytes")
        assert folder.read(name) == b"bytes" and folder.exists(name) and not folder.exists("Real World/0.tar")
        assert folder.read_proven(name, digest(b"bytes")) == b"bytes"
        assert folder.name == "my data"


def test_a_flipped_byte_in_the_cache_is_noticed_and_fetched_anew(shapes: Sharded, serve: Callable[..., Server]):
    server = serve(shapes.shards)
    folder = open_folder(f"{server.url()}/shapes")
    shard = read_manifest(folder).shards[0]
    path = folder.open(shard.name, size=shard.bytes, sha256=shard.sha256).path
    whole = path.read_bytes()
    for damaged in (whole[:-1] + b"\1", whole[:-1], b""):
        path.write_bytes(damaged)
        OpenShard(folder, shard)
        assert path.read_bytes() == whole
    assert len(server.requests_for(shard.name)) == 4


def test_two_processes_fill_one_cache_at_once(shapes: Sharded, serve: Callable[..., Server], cache_folder: Path):
    server = serve(shapes.shards)
    shards = read_manifest(shapes.folder).shards
    program = (
        "import sys; from fastclip.data.shards.manifest import read_manifest\n"
        "from fastclip.data.shards.reader import OpenShard\n"
        "for shard in read_manifest(sys.argv[1]).shards: OpenShard(sys.argv[1], shard)"
    )
    command = [sys.executable, "-c", program, f"{server.url()}/shapes"]
    environment = {**os.environ, "FASTCLIP_TIMEOUT_S": "10"}
    processes = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    names = [path.name for path in all_files(cache_folder)]
    assert sorted(names) == sorted([name for shard in shards for name in (shard.sha256, shard.index_sha256)])


def test_a_file_of_the_cache_is_hashed_once(
    shapes: Sharded, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
):
    folder = open_folder(f"{serve(shapes.shards).url()}/shapes")
    shard = read_manifest(folder).shards[0]
    OpenShard(folder, shard)
    hashed = []
    hashing = ProvenFile._hash
    monkeypatch.setattr(ProvenFile, "_hash", lambda self: hashed.append(self.path.name) or hashing(self))
    opened, again = OpenShard(folder, shard), OpenShard(folder, shard)
    for each in (opened, again):
        each.check_unchanged()
    assert hashed.count(shard.sha256) == 2, "once an opening"


def test_a_dataset_is_not_written_through_links_into_another(tmp_path: Path):
    (tmp_path / "shared").write_bytes(b"theirs")
    (tmp_path / "classnames.txt").symlink_to(tmp_path / "shared")
    LocalFolder(tmp_path).write("classnames.txt", b"ours")
    assert (tmp_path / "shared").read_bytes() == b"theirs" and not (tmp_path / "classnames.txt").is_symlink()


def missing(file: BinaryIO) -> None:
    raise AssertionError("it is in the cache")


def fill(cache: Cache, *contents: bytes) -> list[Path]:
    return [cache.open(digest(data), len(data), lambda file, data=data: file.write(data)).path for data in contents]


def test_the_cache_stays_in_its_bounds_and_what_was_not_used_for_longest_goes_first(tmp_path: Path):
    old = fill(Cache(tmp_path, 10**9), *(bytes([number]) * 100 for number in range(10)))
    for age, path in enumerate(reversed(old)):
        os.utime(path, (time.time() - 7200 - age,) * 2)
    orphan = write_temporary(old[0], lambda file: file.write(b"x" * 100))
    os.utime(orphan, (time.time() - 7200,) * 2)
    cache = Cache(tmp_path, 1000)
    assert cache.open(old[0].name, 100, missing).path == old[0], "used now, so no longer the oldest"
    new = fill(cache, b"n" * 100, b"m" * 100)
    assert sum(path.stat().st_size for path in all_files(tmp_path)) <= 1000
    assert all(path.exists() for path in (old[0], *new, old[-1])) and not old[1].exists()
    fill(cache, *(bytes([number]) * 100 for number in range(20, 32)))
    assert not orphan.exists() and not any(path.exists() for path in old[1:])


def test_a_clock_that_is_fast_removes_nothing_that_others_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    theirs = fill(Cache(tmp_path, 10**9), *(bytes([number]) * 100 for number in range(10)))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 7200)
    fill(Cache(tmp_path, 1000), *(bytes([number]) * 100 for number in range(20, 26)))
    assert all(path.exists() for path in theirs)


def test_a_dataset_that_does_not_fit_keeps_what_fits_for_the_next_run(tmp_path: Path):
    shards = [bytes([number]) * 100 for number in range(30)]
    fill(Cache(tmp_path, 1000), *shards)
    kept = {path.name for path in all_files(tmp_path)}
    assert 8 <= len(kept) <= 10
    again = Cache(tmp_path, 1000)
    hits = 0
    for data in shards:
        with suppress(AssertionError):
            again.open(digest(data), 100, missing)
            hits += 1
            continue
        fill(again, data)
    assert hits >= 5


def test_a_full_or_misnamed_cache_is_a_sentence(
    tmp_path: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "0.tar").write_bytes(b"bytes")
    folder = open_folder(serve(tmp_path).url())
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FASTCLIP_CACHE", str(tmp_path / "file"))
    with pytest.raises(IncompleteError, match="Cannot write"):
        folder.open("0.tar", size=5, sha256=digest(b"bytes"))
    monkeypatch.setenv("FASTCLIP_CACHE_GB", "lots")
    with pytest.raises(UserError, match=r"\$FASTCLIP_CACHE_GB must be a number, not 'lots'"):
        shard_cache()


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_folders_here_and_in_an_object_store_behave_alike(kind: str, tmp_path: Path, request: pytest.FixtureRequest):
    root = tmp_path / "all" if kind == "local" else f"{request.getfixturevalue('s3')}/all"
    folder = open_folder(root).child("pets")
    assert (folder.name, str(folder)) == ("pets", f"{root}/pets")
    assert list(folder.list("*/*.tar")) == [] and not folder.exists("manifest.json")
    with pytest.raises(FileNotFoundError):
        folder.read("manifest.json")
    with pytest.raises(FileNotFoundError):
        folder.open("a/0.tar", size=3, sha256=digest(b"tar"))
    for name in ("a/0.tar", "a/1.tar", "b/0.tar", "a/0.index.jsonl", "a/.0.receipt.json", "a/deep/9.tar"):
        folder.write(name, name.encode())
    folder.write("manifest.json", b"old")
    folder.write("manifest.json", b"new")
    assert folder.read("manifest.json") == b"new" and folder.exists("manifest.json") and not folder.exists("a")
    assert list(folder.list("*/[0-9]*.tar")) == ["a/0.tar", "a/1.tar", "b/0.tar"]
    assert list(folder.list("*/.*.receipt.json")) == ["a/.0.receipt.json"]
    assert folder.sizes("") == {"manifest.json": 3} and folder.sizes("nowhere") == {}
    assert folder.sizes("a") == {"0.tar": 7, "1.tar": 7, "0.index.jsonl": 15, ".0.receipt.json": 17}
    assert folder.modified_s("a/9.tar") is None and abs(folder.modified_s("a/0.tar") - time.time()) < 60
    assert folder.tells_case_apart() and folder.sizes("") == {"manifest.json": 3}
    assert list_datasets(open_folder(root)) == ["pets"]
    staged = write_temporary((folder.staging() or tmp_path) / "shard.tar", lambda file: file.write(b"tar" * 9))
    folder.put("c/0.tar", staged)
    assert folder.read("c/0.tar") == b"tar" * 9 and not staged.exists()
    folder.rename("c/0.tar", "c/7.tar")
    folder.remove("a/0.tar")
    folder.remove("a/0.tar")
    assert list(folder.list("*/*.tar")) == ["a/1.tar", "b/0.tar", "c/7.tar"]
    assert folder.open("c/7.tar", size=27, sha256=digest(b"tar" * 9)).read() == b"tar" * 9
    for size, sha256 in ((27, digest(b"")), (26, digest(b"tar" * 9))):
        if kind == "local" or sha256 == digest(b""):
            with pytest.raises(IntegrityError, match=r"pets/c/7\.tar"):
                folder.open("c/7.tar", size=size, sha256=sha256)
    assert isinstance(folder, Folder) and (folder.free_bytes() or 1) > 0


def test_in_an_object_store_too_a_second_writer_is_refused(s3: str, monkeypatch: pytest.MonkeyPatch):
    folder = open_folder(f"{s3}/busy/pets")
    folder.write(".writing.0123456789ab-77-5.json", b'{"process": 77, "host": "far", "since": "noon"}')
    with pytest.raises(IncompleteError, match=rf"writing {s3}/busy/pets \(process 77 on far"), alone_in(folder):
        pass
    assert list(folder.list(".*")) == [".writing.0123456789ab-77-5.json"]
    monkeypatch.setattr("fastclip.storage.alone.SILENT_S", -1.0)  # as if the minute were over
    with alone_in(folder):
        assert [f"-{os.getpid()}-" in note for note in folder.list(".*")] == [True]
    assert list(folder.list(".*")) == []


def test_a_dataset_on_s3_gives_the_local_table_named_or_not(shapes: Sharded, shapes_on_s3: str, fastclip: Program):
    expected = evaluate(fastclip, shapes.shards)
    patient = dataclasses.replace(fastclip, environment={"FASTCLIP_TIMEOUT_S": "20"})
    assert evaluate(patient, shapes_on_s3) == expected
    missing = patient("eval", "cats", "-b", "tiny", "--shards", shapes_on_s3)
    assert missing.code == 2 and "cats is not sharded: there is no s3://bucket/shards/cats/manifest" in missing.err


def test_neither_the_order_of_work_nor_a_parts_name_depends_on_where_shards_lie(
    shapes: Sharded, shapes_on_s3: str, serve: Callable[..., Server], tmp_path: Path
):
    plans = []
    for location in (shapes.shards, str(shapes.shards), shapes_on_s3, serve(shapes.shards).url()):
        options = EvalOptions(targets=("shapes",), backbones=("tiny",), shards=location, store=tmp_path)
        units = resolve(options).units
        plans.append([[(unit.shard, unit.part) for unit in share] for share in shares(units, 3)])
    assert all(plan == plans[0] for plan in plans)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("ftp://host/shards", "cannot lie at ftp://"),
        ("s3://key:secret@bucket/shards", "holds no keys"),
        ("s3://", "names no bucket"),
        ("https:///shards", "no valid host or port"),
        ("https://host:port/shards", "no valid host or port"),
    ],
)
def test_an_address_that_is_none_is_refused_before_any_connection(location: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        open_folder(location)
    assert "secret" not in str(caught.value) + caught.value.fix


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match="gs:// needs gcsfs") as caught:
        open_folder("gs://bucket/shards").read("manifest.json")
    assert caught.value.fix.startswith("pip install gcsfs")


def test_http_folders_cannot_be_written_to(tmp_path: Path):
    folder = open_folder("https://user:secret@host/shards?sig=secret")
    for write in (
        lambda: folder.write("a", b""),
        lambda: folder.put("a", tmp_path),
        lambda: folder.remove("a"),
        lambda: folder.rename("a", "b"),
    ):
        with pytest.raises(UserError, match="https://host/shards can only be read"):
            write()
    assert "secret" not in f"{folder} {folder!r} {folder.child('x')}"


class MeanTower(ImageTower):
    """Embeds a crop as the mean of each colour."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, crops: torch.Tensor) -> Embedded:
        return Embedded(crops.float().mean(dim=(2, 3)), torch.ones(len(crops)))


class WatchedFolder(LocalFolder):
    """Tells which shards are opened."""

    def __init__(self, path: Path, on_open: Callable[[str], object]) -> None:
        super().__init__(path)
        self.on_open = on_open

    def open(self, name: str, *, size: int, sha256: str) -> ProvenFile:
        if name.endswith(".tar"):
            self.on_open(name)
        return super().open(name, size=size, sha256=sha256)


MEAN = recipe(backbone="mean")


def loop_and_units(
    folder: LocalFolder, store: Store, on_decode: Callable[[], object] = lambda: None
) -> tuple[EmbeddingLoop, list[Unit]]:
    class WatchedDecoder:
        def __init__(self) -> None:
            self.inner = make_decoder("torchvision", [32], 2, torch.device("cpu"), 1)

        def decode(self, images: Sequence[EncodedImage]) -> DecodedBatch:
            on_decode()
            return self.inner.decode(images)

    units = [Unit(folder, shard, part_name(shard), {"mean": MEAN}) for shard in read_manifest(folder).shards]
    attempts, towers = Attempts(store.folder), {"mean": MeanTower(32)}
    loop = EmbeddingLoop(towers, WatchedDecoder, store, attempts, batch_size=2, workers=1, storage=torch.float32)
    return loop, units


def test_the_next_shard_is_opened_while_this_one_is_embedded(shapes: Sharded, tmp_path: Path):
    second_opened = threading.Event()
    opened: list[str] = []

    def on_open(name: str) -> None:
        opened.append(name)
        if len(opened) == 2:
            second_opened.set()

    store = Store(tmp_path)
    loop, units = loop_and_units(
        WatchedFolder(shapes.folder, on_open), store, lambda: second_opened.wait(30) or pytest.fail("nothing overlaps")
    )
    loop.run(units)
    assert opened == [unit.shard.name for unit in units] and all(store.has(MEAN.id, unit.part) for unit in units)
    loop.run(units)
    assert len(opened) == len(units), "what is published is not opened"


def test_shards_that_are_opened_at_once_give_the_parts_of_one_after_the_other(shapes: Sharded, tmp_path: Path):
    three, at_once = threading.Barrier(3), []

    def on_open(name: str) -> None:
        at_once.append(name)
        if len(at_once) <= 3:
            three.wait(30)

    def parts(store: Store) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / store.folder.name).rglob("*.safetensors")}

    one, several = Store(tmp_path / "one"), Store(tmp_path / "several")
    loop, units = loop_and_units(shapes.folder, one)
    loop.run(units)
    loop, units = loop_and_units(WatchedFolder(shapes.folder, on_open), several)
    dataclasses.replace(loop, opening=3).run(units)
    assert sorted(at_once) == sorted(unit.shard.name for unit in units)
    assert parts(several) == parts(one) and len(parts(one)) == len(units)


@pytest.mark.parametrize("opening", [1, 3])
def test_a_shard_that_cannot_be_read_costs_the_others_nothing(opening: int, shapes: Sharded, tmp_path: Path):
    opened: list[str] = []
    damaged = copy(shapes, tmp_path / "copy") / "shapes"
    store = Store(tmp_path / "store")
    loop, units = loop_and_units(WatchedFolder(damaged, opened.append), store)
    (damaged / units[3].shard.name).write_bytes(b"")
    loop = dataclasses.replace(loop, opening=opening)
    loop.run(units)
    (error,) = loop.failures
    assert isinstance(error, IntegrityError) and units[3].shard.name in str(error)
    assert sorted(opened) == sorted(unit.shard.name for unit in units)
    assert [store.has(MEAN.id, unit.part) for unit in units] == [unit is not units[3] for unit in units]


def test_rejected_images_are_read_from_afar_too(shapes: Sharded, shapes_on_s3: str):
    folder = open_folder(shapes_on_s3).child("shapes")
    assert read_manifest(folder) == read_manifest(shapes.folder)
    assert read_rejected(folder, read_manifest(folder)) == read_rejected(shapes.folder, read_manifest(shapes.folder))
    assert json.loads(folder.read("manifest.json"))["dataset"] == "shapes"


def test_an_interrupted_run_that_writes_to_s3_goes_on_and_ends_with_the_bytes_written_here(
    shapes: Sharded, s3: str, fastclip: Program
):
    remote = open_folder(f"{s3}/written/shapes")
    seen: list[int] = []

    def stop_in_the_third_shard(images: int, size: int) -> None:
        seen.append(images)
        if sum(seen) == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        options = WriteOptions(shard_images=20, processes=1)
        listing = list_source(shapes.source, None)
        write_shards(listing, remote, dataset="shapes", options=options, on_progress=stop_in_the_third_shard)
    assert [name for name in remote.list("*/*") if name.endswith(".tar")] == ["flat/0.tar", "flat/1.tar"]
    arguments = ("shard", "shapes", "--source", shapes.source, "--out", f"{s3}/written", "--shard-images", 20)
    outcome = fastclip(*arguments, "--processes", 2)
    assert outcome.code == 0, outcome
    files = {path.relative_to(shapes.folder).as_posix(): path.read_bytes() for path in all_files(shapes.folder)}
    assert {*remote.list("*"), *remote.list("*/*")} == files.keys()
    assert {name: remote.read(name) for name in files} == files
    refused = fastclip(*arguments)
    assert (refused.code, refused.err.count("\n")) == (2, 2) and "--overwrite" in refused.err
