"""Splits and shots are drawn by the images' own digests: the lists below stay what they are for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fastclip.transfer.samples import Sample, joined
from fastclip.transfer.splits import draw_shots, in_share

DIGESTS = np.array([hashlib.sha256(bytes([number])).hexdigest().encode() for number in range(60)], "S64")
LABELS = np.arange(60) % 3


def test_the_shots_of_a_seed_are_these_images():
    chosen, held_out = draw_shots(DIGESTS, LABELS, 2, 1)
    by_hand = []
    for label in range(3):
        rows = np.flatnonzero(label == LABELS)
        by_hand.append(sorted(rows, key=lambda row: hashlib.sha256(b"1\0" + DIGESTS[row]).hexdigest()))
    assert sorted(chosen) == sorted(row for rows in by_hand for row in rows[:2])
    assert sorted(held_out) == sorted(row for rows in by_hand for row in rows[2:4])
    assert chosen.tolist() == GOLDEN_SHOTS[1] and draw_shots(DIGESTS, LABELS, 2, 2)[0].tolist() == GOLDEN_SHOTS[2]


GOLDEN_SHOTS = {1: [5, 13, 31, 54, 57, 59], 2: [11, 12, 22, 35, 45, 55]}
GOLDEN_TEST = [0, 3, 10, 11, 18, 30, 33, 38, 44, 45, 48, 52, 53, 54, 55]


def test_the_held_out_part_is_these_images_whatever_else_there_is():
    tested = ~in_share(DIGESTS, 0.8, "train")
    assert np.flatnonzero(tested).tolist() == GOLDEN_TEST
    shuffled = np.random.default_rng(0).permutation(60)
    assert np.array_equal(in_share(DIGESTS[shuffled], 0.8, "train"), ~tested[shuffled])
    assert np.array_equal(in_share(DIGESTS[:7], 0.8, "train"), ~tested[:7])


def test_choosing_settings_holds_out_other_images_than_testing():
    train = in_share(DIGESTS, 0.8, "train")
    inner = in_share(DIGESTS[train], 0.8, "select")
    assert 0 < inner.sum() < train.sum(), "one hash for both would leave nothing to choose by"


def test_a_share_is_about_that_many_images():
    many = np.array([hashlib.sha256(number.to_bytes(4, "big")).hexdigest().encode() for number in range(20_000)], "S64")
    assert abs(in_share(many, 0.8, "train").mean() - 0.8) < 0.015


def test_more_shots_contain_fewer_and_small_classes_give_what_they_have():
    few, many = (set(draw_shots(DIGESTS, LABELS, shots, 3)[0].tolist()) for shots in (4, 8))
    assert few < many
    chosen, held_out = draw_shots(DIGESTS[:4], LABELS[:4], 16, 1)
    assert chosen.tolist() == [0, 1, 2, 3] and held_out.size == 0
    assert len(draw_shots(DIGESTS, LABELS, 16, 1)[1]) == 3 * 4, "twenty a class: four are held out, not sixteen"


def test_images_of_the_same_bytes_are_one_shot():
    twice = np.concatenate([DIGESTS, DIGESTS])
    chosen, held_out = draw_shots(twice, np.concatenate([LABELS, LABELS]), 20, 1)
    assert sorted(chosen.tolist()) == list(range(60)) and held_out.size == 0


def sample(order: np.ndarray, vectors: np.ndarray, digests: np.ndarray = DIGESTS) -> Sample:
    return Sample(vectors[order], digests[order], LABELS[order], 0)


@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_shards_or_rows_changes_what_is_fitted_on(seed: int):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(60, 4)).astype(np.float16)
    digests = DIGESTS.copy()
    digests[10:13] = digests[10]  # copies of an image, whose embeddings differ in last bits
    order = rng.permutation(60)
    cut = sorted(rng.integers(1, 59, 3))
    parts = [sample(part, vectors, digests) for part in np.split(order, cut)]
    straight = joined([sample(part, vectors, digests) for part in np.split(np.arange(60), [30])])
    mixed = joined(parts)
    for name in ("vectors", "labels", "digests"):
        assert np.array_equal(getattr(straight, name), getattr(mixed, name)), name
    assert sorted(straight.digests) == straight.digests.tolist()


def test_the_order_of_a_targets_images_does_not_depend_on_their_labels():
    vectors = np.random.default_rng(5).normal(size=(60, 4)).astype(np.float16)
    digests = np.repeat(DIGESTS[:20], 3)
    first = joined(
        [Sample(vectors[:30], digests[:30], LABELS[:30], 0), Sample(vectors[30:], digests[30:], LABELS[30:], 0)]
    )
    other = LABELS[::-1].copy()
    second = joined(
        [Sample(vectors[:30], digests[:30], other[:30], 0), Sample(vectors[30:], digests[30:], other[30:], 0)]
    )
    assert np.array_equal(first.vectors, second.vectors)
    assert not hasattr(first.without_labels(), "labels") and not hasattr(first.without_labels().unlabelled(), "labels")
