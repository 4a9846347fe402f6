"""Loading batches from shards: pixels, order, damage, threads."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_store import draw_dataset
from helpers import Sharded, shard, write

from fastclip.data.shards.manifest import read_manifest
from fastclip.data.shards.reader import OpenShard, OpenTar
from fastclip.data.shards.targets import find_targets
from fastclip.errors import IntegrityError, UserError
from fastclip.finetune.kept import KeptCrops
from fastclip.finetune.loader import Loader
from fastclip.finetune.samples import Samples, find_samples
from fastclip.finetune.tars import Tars
from fastclip.finetune.views import Views
from fastclip.pixels.decoder import EncodedImage
from fastclip.pixels.decoders import make_decoder
from fastclip.proven import ProvenFile
from fastclip.transfer.folds import Place

CPU = torch.device("cpu")
SIDE = 32


def samples_of(sharded: Sharded) -> Samples:
    targets = find_targets(str(sharded.shards), [sharded.name])
    places = [Place(sharded.name, domain.name) for domain in targets[0].manifest.domains]
    return find_samples(targets, places)


@pytest.fixture(scope="session")
def samples(shapes: Sharded) -> Samples:
    """240 drawn images in twelve shards."""
    return samples_of(shapes)


def loader(samples: Samples, **changes: object) -> Loader:
    usual = {"side": SIDE, "device": CPU, "decoder": "torchvision", "cores": 2, "crop": None, "flip": False, "seed": 0}
    return Loader(samples, **{**usual, "keep_bytes": 0, **changes})  # type: ignore[arg-type]


def rows_of(samples: Samples, number: int = 50) -> np.ndarray:
    return np.random.default_rng(number).permutation(len(samples))[:number]


def decoded(samples: Samples, rows: np.ndarray, epoch: int, views: Views) -> torch.Tensor:
    """The crops of images one by one: read from their shards, by the decoder, mirrored by hand."""
    crops = []
    for row in rows.tolist():
        target, shard = samples.sources[samples.source[row]]
        opened = OpenShard(target.folder, shard)
        record = opened.records[samples.row[row]]
        view = views.view(epoch, record.sha256.encode(), 0, record.height, record.width)
        image = EncodedImage(opened.image_bytes(int(samples.row[row])), record.height, record.width, view.region)
        crop = make_decoder("torchvision", [SIDE], 1, CPU, 1).decode([image]).crops[SIDE][0].numpy()
        crops.append(torch.from_numpy(crop[..., ::-1].copy() if view.flipped else crop))
    return torch.stack(crops)


@pytest.mark.parametrize(("crop", "flip"), [(None, False), (0.5, False), (None, True), (0.7, True)])
def test_a_batch_is_every_image_as_the_decoder_gives_it_alone(crop: float | None, flip: bool, samples: Samples):
    rows = rows_of(samples)
    with loader(samples, crop=crop, flip=flip, seed=3) as loads:
        for epoch in (0, 4):
            batch = loads.load(rows, epoch)
            assert torch.equal(batch.crops, decoded(samples, rows, epoch, Views(crop, flip, 3)))
            assert batch.labels.tolist() == samples.labels[rows].tolist()
            assert batch.rows.tolist() == rows.tolist() and batch.unreadable == []
        loads.check_unchanged()


@pytest.mark.parametrize("decoder", ["torchvision", "dali"])
def test_a_batch_is_the_same_on_any_number_of_cores(decoder: str, samples: Samples):
    rows, batches = rows_of(samples, 70), []
    for cores in (1, 3):
        with loader(samples, cores=cores, crop=0.7, flip=True, decoder=decoder) as loads:
            batches.append(loads.load(rows, 2).crops)
    assert torch.equal(*batches) and batches[0].float().std() > 10


def test_dali_shows_the_views_that_torchvision_shows(samples: Samples):
    rows, batches = rows_of(samples, 70), []
    for decoder in ("torchvision", "dali"):
        with loader(samples, crop=0.7, flip=True, decoder=decoder, side=64) as loads:
            batches.append(loads.load(rows, 2).crops.float())
    assert 0 < (batches[0] - batches[1]).abs().mean() < 0.5


@pytest.mark.parametrize(("crop", "flip", "others"), [(0.7, False, 20), (None, True, 8)])
def test_every_epoch_shows_other_views(crop: float | None, flip: bool, others: int, samples: Samples):
    rows = rows_of(samples, 20)
    with loader(samples, crop=crop, flip=flip, keep_bytes=10**9) as loads:
        first, second, again = (loads.load(rows, epoch).crops for epoch in (0, 1, 0))
    assert torch.equal(first, again)
    assert sum(not torch.equal(*pair) for pair in zip(first, second, strict=True)) == others


@pytest.mark.parametrize("room", [0, 1, 30, 1000])
def test_kept_crops_are_those_that_were_decoded(room: int, samples: Samples, monkeypatch: pytest.MonkeyPatch):
    """Twice over all images, in batches that share some and hold some twice."""
    seen: list[int] = []
    encoded = Loader._encoded

    def seeing(self: Loader, number: int, view: object) -> EncodedImage:
        seen.append(number)
        return encoded(self, number, view)  # type: ignore[arg-type]

    monkeypatch.setattr(Loader, "_encoded", seeing)
    batches = [rows_of(samples, 40), rows_of(samples, 30), np.array([5, 5, 9, 5]), rows_of(samples, 40)]
    with loader(samples, keep_bytes=room * 3 * SIDE * SIDE + 7) as loads:
        found = [loads.load(rows, epoch) for epoch in range(2) for rows in batches]
    fresh = [decoded(samples, rows, 0, Views(None, False, 0)) for rows in batches] * 2
    for batch, expected in zip(found, fresh, strict=True):
        assert torch.equal(batch.crops, expected)
        assert batch.crops.is_contiguous(memory_format=torch.channels_last)
    images = len(set(np.concatenate(batches).tolist()))
    repeated = sum(map(len, batches)) * 2
    if room == 1000:
        assert len(set(seen)) == images and len(seen) <= images + 2  # an image that stands thrice in one batch
    elif room == 0:
        assert len(seen) == repeated
    else:
        assert images < len(seen) < repeated


def test_a_crop_that_comes_twice_takes_the_room_of_one():
    kept = KeptCrops(3, 10)
    crops = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1).expand(4, 2, 2, 3).contiguous()
    kept.keep(np.array([7, 7, 4]), crops[[0, 0, 1]])
    kept.keep(np.array([4, 7, 2, 9]), crops[[1, 0, 2, 3]])  # two batches under way had asked for 4 and 7
    assert kept.missing(np.array([9, 2, 7, 4, 0])).tolist() == [0, 4]
    found = kept.filled_up(np.array([2, 9, 7, 4]), np.array([1]), crops[3:])
    assert found[:, 1, 1, 2].tolist() == [2, 3, 0, 1]


def test_batches_ahead_are_those_that_are_loaded_now_in_order(samples: Samples):
    wanted = [(rows_of(samples, number), number % 3) for number in (7, 20, 1, 33, 8, 16)]
    with loader(samples, crop=0.8) as loads:
        now = [loads.load(*each) for each in wanted]
        in_turn = list(loads.ahead(iter(wanted)))
        loads._ahead = 3  # as on a GPU
        ahead = list(loads.ahead(iter(wanted)))
    for batches in (in_turn, ahead):
        assert [batch.rows.tolist() for batch in batches] == [rows.tolist() for rows, _ in wanted]
        assert all(torch.equal(one.crops, other.crops) for one, other in zip(now, batches, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("keep_bytes", [0, 10**9])
@pytest.mark.parametrize(("crop", "flip"), [(None, False), (0.7, True)])
@pytest.mark.parametrize("decoder", ["torchvision", "dali"])
def test_a_gpu_gets_the_batches_that_a_cpu_gets(
    decoder: str, crop: float | None, flip: bool, keep_bytes: int, samples: Samples
):
    wanted = [(rows_of(samples, number), number % 3) for number in (7, 200, 1, 33, 200, 16)]
    with loader(samples, crop=crop, flip=flip) as loads:
        expected = list(loads.ahead(wanted))
    gpu = torch.device("cuda", 0)
    with loader(samples, crop=crop, flip=flip, decoder=decoder, device=gpu, keep_bytes=keep_bytes) as loads:
        found = list(loads.ahead(wanted))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.crops.device == ours.labels.device == gpu
        assert ours.rows.tolist() == theirs.rows.tolist() and ours.labels.tolist() == theirs.labels.tolist()
        assert ours.crops.is_contiguous(memory_format=torch.channels_last)
        difference = (ours.crops.cpu().float() - theirs.crops.float()).abs().mean()
        assert difference <= {"torchvision": 0.0, "dali": 0.5}[decoder]


def test_unreadable_images_are_black_and_named_once(tmp_path: Path):
    source = draw_dataset(tmp_path, domains="photo")
    (source / "photo/apple/003.png").write_bytes((source / "photo/apple/003.png").read_bytes()[:-30] + b"\0" * 30)
    (source / "photo/bread/004.png").write_bytes((source / "photo/bread/004.png").read_bytes()[:50])
    sharded = shard(source, tmp_path / "shards", "letters", verify=False, layout="domain/class")
    samples = samples_of(sharded)
    bad = [number for number in range(len(samples)) if samples.named(number).endswith(("e/003.png)", "d/004.png)"))]
    assert len(bad) == 2
    rows = np.array([*range(len(samples)), bad[0]])
    for changes in ({}, {"keep_bytes": 10**8}, {"crop": 0.9}):
        with loader(samples, **changes) as loads:
            for epoch in range(2):
                batch = loads.load(rows, epoch)
                assert sorted(number for number, _ in batch.unreadable) == bad
                assert all(reason for _, reason in batch.unreadable)
                black = [number for number in range(len(samples)) if not batch.crops[number].any()]
                assert black == bad and not batch.crops[-1].any()


def copied(shapes: Sharded, folder: Path) -> Sharded:
    shutil.copytree(shapes.shards, folder / "shards")
    return Sharded("shapes", shapes.source, folder / "shards")


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1024]),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:5000] + b"\x01" + path.read_bytes()[5001:]),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_stops_the_batch_that_needs_it(damage: str, shapes: Sharded, tmp_path: Path):
    samples = samples_of(copied(shapes, tmp_path))
    DAMAGE[damage](tmp_path / "shards" / "shapes" / samples.sources[4].shard.name)
    others, of_it = np.flatnonzero(samples.source != 4), np.flatnonzero(samples.source == 4)
    with loader(samples) as loads:
        assert loads.load(others, 0).unreadable == []
        with pytest.raises(IntegrityError, match=r"is not the file that was sharded"):
            loads.load(of_it, 0)
        with pytest.raises(IntegrityError, match=r"is not the file that was sharded"):
            list(loads.ahead([(others, 0), (of_it, 0)]))


def test_a_missing_shard_is_named(shapes: Sharded, tmp_path: Path):
    samples = samples_of(copied(shapes, tmp_path))
    (tmp_path / "shards" / "shapes" / samples.sources[0].shard.name).unlink()
    with loader(samples) as loads, pytest.raises(UserError, match="is missing; the manifest lists it"):
        loads.load(np.arange(len(samples)), 0)


@pytest.mark.parametrize("most", [1, 3, 100])
def test_a_shard_that_changes_is_noticed_however_few_are_open(most: int, shapes: Sharded, tmp_path: Path):
    samples = samples_of(copied(shapes, tmp_path))
    tars = Tars(samples.sources, most)
    for number in [*range(12), *range(12)]:
        tars.read(number, 0, 9)
        tars.check_unchanged()
    path = tmp_path / "shards" / "shapes" / samples.sources[5].shard.name
    assert tars.read(5, 0, samples.sources[5].shard.bytes) == path.read_bytes()
    with path.open("r+b") as file:
        file.seek(2000)
        file.write(b"new")
    with pytest.raises(IntegrityError, match="changed while it was read"):
        if most == 1:
            tars.read(6, 0, 9)  # closes it
        tars.check_unchanged()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_few_files_are_open_and_each_is_hashed_once(shapes: Sharded, monkeypatch: pytest.MonkeyPatch):
    samples = samples_of(shapes)
    tars = Tars(samples.sources, 2)
    before, most, hashed = open_files(), 0, []
    hashing = ProvenFile._hash
    monkeypatch.setattr(ProvenFile, "_hash", lambda self: hashed.append(self.path) or hashing(self))
    for number in [*range(12)] * 3:
        whole = (shapes.folder / samples.sources[number].shard.name).read_bytes()
        assert tars.read(number, 0, len(whole)) == whole
        most = max(most, open_files() - before)
    with loader(samples.take(np.arange(0, 240, 2)), tars=tars) as loads:
        loads.load(np.arange(120), 0)
    assert hashed == [shapes.folder / each.shard.name for each in samples.sources]
    assert most <= 3


def test_a_file_that_was_replaced_since_it_was_proven_is_hashed_again(shapes: Sharded, tmp_path: Path):
    copy = copied(shapes, tmp_path)
    each = read_manifest(copy.folder).shards[0]
    path = copy.folder / each.name
    known = OpenTar(copy.folder, each).proof
    whole = path.read_bytes()
    write(tmp_path, {"other.tar": whole})
    (tmp_path / "other.tar").replace(path)
    assert OpenTar(copy.folder, each, known).read(0, each.bytes) == whole
    write(tmp_path, {"other.tar": whole[:-1] + b"\1"})
    (tmp_path / "other.tar").replace(path)
    with pytest.raises(IntegrityError):
        OpenTar(copy.folder, each, known)
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        OpenTar(copy.folder, each, known)


class Stopped(BaseException):
    """As a signal's handler raises it."""


def test_a_stop_signal_waits_for_no_decoder(samples: Samples, monkeypatch: pytest.MonkeyPatch):
    begun, go_on = threading.Event(), threading.Event()
    slow = Loader._encoded

    def waiting(self: Loader, number: int, view: object) -> EncodedImage:
        begun.set()
        assert go_on.wait(60)
        return slow(self, number, view)  # type: ignore[arg-type]

    monkeypatch.setattr(Loader, "_encoded", waiting)

    def stop() -> None:
        with loader(samples) as loads:
            loads._start(rows_of(samples), 0)
            assert begun.wait(60)
            raise Stopped

    try:
        with pytest.raises(Stopped):
            stop()
        assert not go_on.is_set(), "the block was left while a decoder was at work"
    finally:
        go_on.set()


def test_loading_leaves_torch_as_many_cores_as_it_had(samples: Samples):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with loader(samples) as loads:
            loads.load(rows_of(samples), 0)
            assert torch.get_num_threads() == 2
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (torch.get_num_threads(), found) == (2, [2])
    finally:
        torch.set_num_threads(before)
