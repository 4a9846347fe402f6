"""Counts that methods share: how many held-out images a head classifies, and how many classes there are to learn."""

from __future__ import annotations

import numpy as np

from fastclip.errors import UserError
from fastclip.heads.blocks import blocks_of, over_blocks
from fastclip.heads.labelled import Labelled
from fastclip.heads.scores import Head, classify


def count_right(head: Head, images: Labelled, cores: int = 1) -> int:
    """How many of `images` the head classifies correctly, by the rules of `classify`."""

    def right(rows: slice) -> int:
        labels = images.labels[rows]
        return int(np.count_nonzero(classify(images.vectors[rows], {"": head}, labels)[""].predicted == labels))

    return sum(over_blocks(right, blocks_of(len(images)), cores))


def need_two_classes(labelled: Labelled) -> int:
    """How many classes have an image. Raises `UserError` if they are fewer than two."""
    known = int(np.count_nonzero(labelled.known))
    if known < 2:
        raise UserError(
            f"A head needs images of two classes; there are {known}.",
            fix="Train on more domains, or on more images a class.",
        )
    return known
