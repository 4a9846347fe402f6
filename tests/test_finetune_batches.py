"""Which images train, and in which order: a function of their bytes, the seed and the epoch alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from drawn_store import drawn
from helpers import Sharded, image_bytes, shard, write

from fastclip.data.shards.reader import read_index
from fastclip.data.shards.targets import Target, find_targets
from fastclip.errors import UserError
from fastclip.finetune.batches import Batches, epoch_order, part_of
from fastclip.finetune.samples import Samples, check_classes, copy_numbers, find_samples, hold_out
from fastclip.transfer.folds import Place


def samples_of(sharded: Sharded, *domains: str) -> Samples:
    targets: list[Target] = find_targets(str(sharded.shards), [sharded.name])
    return find_samples(targets, [Place(sharded.name, domain) for domain in domains])


def digests(number: int) -> np.ndarray:
    return np.array([hashlib.sha256(b"%d" % each).hexdigest().encode() for each in range(number)], "S64")


def test_samples_are_the_images_of_the_named_domains_by_digest(tmp_path: Path):
    sharded = drawn(tmp_path)
    samples = samples_of(sharded, "sketch", "photo")
    (target,) = find_targets(str(sharded.shards), [sharded.name])
    expected = []
    for each in target.shards:
        for record in read_index(target.folder, each):
            if each.domain != "night":
                name = f"letters/{each.domain} {record.key} ({record.path})"
                place = (record.offset, record.size, record.height, record.width)
                expected.append((record.sha256.encode(), record.label, place, name))
    expected.sort()
    assert len(samples) == len(expected) == 72
    for number, (sha256, label, place, name) in enumerate(expected):
        assert (samples.digests[number], samples.labels[number]) == (sha256, label)
        assert (*samples.spans[number], *samples.shapes[number]) == place
        assert samples.named(number) == name


def copies(folder: Path, *, shard_images: int) -> Sharded:
    """Four classes in two domains; one picture stands in three classes of both, three times in one of them."""
    same = image_bytes(color=97)
    files = {f"day/cup/{number}.png": same for number in "012"}
    files |= {f"{domain}/{name}/9.png": same for domain in ("night", "day") for name in ("apple", "bread", "cup")}
    files |= {f"night/door/{number}.png": image_bytes(color=number) for number in range(20)}
    source = write(folder / "source" / "twins", files)
    return shard(source, folder / "shards", "twins", shard_images=shard_images, layout="domain/class")


def test_the_order_of_equal_images_does_not_depend_on_shards(tmp_path: Path):
    found = []
    for shard_images in (1, 4, 100):
        sharded = copies(tmp_path / str(shard_images), shard_images=shard_images)
        for domains in (("day", "night"), ("night", "day")):
            samples = samples_of(sharded, *domains)
            same = np.flatnonzero(samples.digests == samples.digests[np.argmax(copy_numbers(samples.digests))])
            names = [samples.named(number).split(" ")[0] for number in same.tolist()]
            assert names == ["twins/day", "twins/night"] * 2 + ["twins/day"] * 4 + ["twins/night"]
            assert samples.labels[same].tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 2]
            found.append([samples.named(number) for number in range(len(samples))])
    assert all(names == found[0] for names in found)


def test_the_order_does_not_depend_on_that_of_the_datasets(tmp_path: Path):
    copies(tmp_path, shard_images=4)
    shard(tmp_path / "source" / "twins", tmp_path / "shards", "again", layout="domain/class")
    names = ["twins", "again"]
    found = []
    for order in (names, names[::-1]):
        targets = find_targets(str(tmp_path / "shards"), order)
        samples = find_samples(targets, [Place(name, domain) for name in order for domain in ("night", "day")])
        found.append([samples.named(number) for number in range(len(samples))])
    assert found[0] == found[1] and len(found[0]) == 58
    assert [name.partition("/")[0] for name in found[0][:2]] == ["again", "twins"]


def test_a_part_is_held_out_by_hash_and_equal_bytes_never_on_both_sides(tmp_path: Path):
    samples = samples_of(drawn(tmp_path, per_class=40, classes=2), "photo", "sketch")
    train, held_out = hold_out(samples)
    expected = [
        digest
        for digest in samples.digests
        if int(hashlib.sha256(b"finetune\0" + digest).hexdigest(), 16) >= 9 * 2**256 // 10
    ]
    assert held_out.digests.tolist() == expected and 5 < len(expected) < 35
    assert sorted([*train.digests, *held_out.digests]) == samples.digests.tolist()
    assert train.named(7) == samples.named(int(np.flatnonzero(samples.digests == train.digests[7])[0]))

    train, held_out = hold_out(samples_of(copies(tmp_path / "copies", shard_images=4), "day", "night"))
    assert not set(train.digests) & set(held_out.digests)


GOLDEN = {
    (0, 0): [4, 7, 9, 0, 6, 8, 3, 2, 5, 1],
    (0, 1): [0, 8, 3, 5, 7, 6, 9, 1, 4, 2],
    (1, 0): [8, 5, 6, 0, 2, 9, 3, 4, 1, 7],
}
"""The order of `digests(10)` by (seed, epoch): that of the SHA-256 of SEED, EPOCH, DIGEST and 0, zero bytes between."""


@pytest.mark.parametrize(("seed", "epoch"), sorted(GOLDEN))
def test_the_order_of_an_epoch_is_the_one_that_it_always_was(seed: int, epoch: int):
    assert epoch_order(digests(10), seed, epoch).tolist() == GOLDEN[seed, epoch]


def test_another_seed_or_epoch_gives_another_order_of_the_same_images():
    orders = [epoch_order(digests(500), seed, epoch) for seed in range(3) for epoch in range(3)]
    assert all(sorted(order) == list(range(500)) for order in orders)
    for one in range(9):
        for other in range(one):
            assert (orders[one] == orders[other]).mean() < 0.05


def test_an_order_belongs_to_the_images_and_not_to_the_order_in_which_they_were_listed():
    listed = digests(100)
    backwards = listed[::-1]
    assert listed[epoch_order(listed, 3, 4)].tolist() == backwards[epoch_order(backwards, 3, 4)].tolist()


def test_equal_images_stand_at_places_of_their_own():
    repeated = np.sort(np.concatenate([digests(40)] * 3))
    order = epoch_order(repeated, 0, 0)
    assert sorted(order) == list(range(120))
    assert max(np.diff(np.flatnonzero(repeated[order] == repeated[0]))) > 1
    assert copy_numbers(repeated).tolist() == [0, 1, 2] * 40
    assert copy_numbers(np.array([b"b", b"a", b"b", b"b", b"a"], "S64")).tolist() == [0, 0, 1, 2, 1]


def test_every_image_is_seen_once_an_epoch_in_the_same_batches_of_any_shards(tmp_path: Path):
    seen = []
    for shard_images in (3, 50):
        samples = samples_of(drawn(tmp_path / str(shard_images), shard_images=shard_images), "photo", "night")
        batches = Batches(samples, 7, seed=5)
        assert (len(samples), batches.steps_per_epoch) == (72, 11)
        for epoch in range(2):
            rows = [batches.batch(epoch * 11 + step) for step in range(11)]
            assert [len(each) for each in rows] == [7] * 10 + [2]
            assert sorted(np.concatenate(rows)) == list(range(72))
            assert np.concatenate(rows).tolist() == epoch_order(samples.digests, 5, epoch).tolist()
            assert len(batches._order) == 1, "no order of an earlier epoch takes memory"
        seen.append([samples.named(number) for step in (21, 0, 13, 1) for number in batches.batch(step).tolist()])
    assert seen[0] == seen[1]


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("images", [1, 2, 8, 9, 10])
def test_the_parts_of_all_processes_are_the_batch(images: int, processes: int):
    batch = np.arange(100, 100 + images)
    parts = [part_of(batch, rank, processes) for rank in range(processes)]
    assert len({len(rows) for rows, _ in parts}) == 1, "every process computes one shape"
    assert np.concatenate([rows[real] for rows, real in parts]).tolist() == batch.tolist()
    assert all((rows[~real] == 100).all() for rows, real in parts)
    assert len(parts[0][0]) * processes < images + processes, "no more is filled up than must be"


def test_a_domain_without_images_and_one_class_are_refused_by_name(tmp_path: Path):
    files = {f"full/{name}/{number}.png": image_bytes(color=number) for name in ("ant", "bee") for number in range(9)}
    files |= {f"cats/ant/{number}.png": image_bytes(color=100 + number) for number in range(5)}
    files |= {"empty/bee/0.png": b"\x89PNG\r\n\x1a\n broken"}
    source = write(tmp_path / "source" / "farm", files)
    sharded = shard(source, tmp_path / "shards", "farm", layout="domain/class")
    with pytest.raises(UserError, match="farm/empty has no image") as error:
        samples_of(sharded, "full", "empty")
    assert "rejected.jsonl" in error.value.fix
    with pytest.raises(UserError, match="All 5 images that train are of one class, 'ant'"):
        check_classes(samples_of(sharded, "cats"))
    assert len(samples_of(sharded, "cats", "full")) == 23


def test_too_few_images_to_hold_some_out_are_refused(tmp_path: Path):
    samples = samples_of(drawn(tmp_path, per_class=2), "photo")
    few = samples.take(np.array([0, 1]))
    with pytest.raises(UserError, match="2 images train: too few to hold out 10%") as error:
        hold_out(few)
    assert "--select last" in error.value.fix
