"""Random views of images: torchvision's distributions, from draws that belong to the image."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from fastclip.finetune.views import View, Views
from fastclip.pixels.geometry import Region

DIGEST = hashlib.sha256(b"an image").hexdigest().encode()


def views(number: int, height: int, width: int, *, crop: float | None = 0.7, flip: bool = True) -> list[View]:
    """The views of one image in so many epochs."""
    return [Views(crop, flip, 0).view(epoch, DIGEST, 0, height, width) for epoch in range(number)]


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two samples' cumulative shares: Kolmogorov's and Smirnov's."""
    at = np.unique(np.concatenate([ours, theirs]))
    shares = [np.searchsorted(np.sort(each), at, "right") / len(each) for each in (ours, theirs)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize("crop", [0.08, 0.7, 0.9])
@pytest.mark.parametrize(("height", "width"), [(480, 640), (300, 300), (500, 200), (90, 400)])
def test_crops_are_distributed_as_torchvision_draws_them(crop: float, height: int, width: int):
    number = 3000
    regions = [view.region for view in views(number, height, width, crop=crop) if view.region]
    ours = np.array([(top, left, bottom - top, right - left) for top, left, bottom, right in regions])
    torch.manual_seed(0)
    image = torch.empty(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [crop, 1.0], [3 / 4, 4 / 3]) for _ in range(number)])
    assert ours.shape == theirs.shape
    for of in (
        lambda rows: rows[:, 2] * rows[:, 3] / (height * width),  # the share of the area
        lambda rows: np.log(rows[:, 3] / rows[:, 2]),
        lambda rows: rows[:, 0] / height,
        lambda rows: rows[:, 1] / width,
        lambda rows: rows[:, 0] + rows[:, 2],
        lambda rows: rows[:, 1] + rows[:, 3],
    ):
        # Two samples of 3,000 from one distribution differ by more in one case of a thousand.
        assert distance(of(ours), of(theirs)) < 0.0504


def test_two_distributions_are_told_apart():
    """A crop of at least 0.72 of the area is not one of 0.7."""
    ours, others = (
        np.array([(each.region.bottom - each.region.top) for each in views(3000, 480, 640, crop=crop) if each.region])
        for crop in (0.7, 0.78)
    )
    assert distance(ours, others) > 0.0504


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 400), (400, 1), (2, 3), (3, 1000), (40, 5000), (7, 9)])
def test_a_strip_keeps_the_middle_that_torchvision_keeps(height: int, width: int):
    regions = [view.region for view in views(300, height, width, crop=0.9) if view.region]
    assert len(regions) == 300
    for top, left, bottom, right in regions:
        assert 0 <= top < bottom <= height and 0 <= left < right <= width
    torch.manual_seed(0)
    params = [RandomResizedCrop.get_params(torch.empty(1, height, width), [0.9, 1], [3 / 4, 4 / 3]) for _ in range(300)]
    theirs = {(top, left, top + down, left + across) for top, left, down, across in params}
    if min(height, width) * 4 < max(height, width):  # no try can fit
        assert set(map(tuple, regions)) == theirs and len(theirs) == 1


def test_half_of_the_images_are_mirrored_and_none_where_nobody_asks():
    assert 0.46 < np.mean([view.flipped for view in views(2000, 50, 50)]) < 0.54
    assert not any(view.flipped for view in views(50, 50, 50, flip=False))
    assert {view.region for view in views(50, 50, 50, crop=None)} == {None}
    assert Views(None, False, 0).random is False
    assert Views(None, True, 0).random and Views(0.9, False, 0).random


def test_a_view_depends_on_seed_epoch_image_and_copy_and_on_nothing_else():
    def view(seed: int = 0, epoch: int = 0, digest: bytes = DIGEST, copy: int = 0) -> View:
        return Views(0.5, True, seed).view(epoch, digest, copy, 1000, 1000)

    assert view() == view()
    others = [view(seed=1), view(epoch=1), view(digest=DIGEST[::-1]), view(copy=1), view(copy=10), view(epoch=10)]
    assert len({view(), *others}) == 7


def test_views_are_those_that_they_always_were():
    assert views(3, 300, 400) == [
        View(Region(8, 32, 300, 347), True),
        View(Region(2, 4, 284, 373), True),
        View(Region(17, 31, 283, 372), False),
    ]
    assert views(3, 300, 400, crop=None) == [View(None, True), View(None, True), View(None, False)]
