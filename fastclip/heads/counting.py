"""Counts that methods share: held-out images that a head classifies, and classes that there are to learn."""

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


def check_two_classes(labelled: Labelled) -> None:
    """Raise `UserError` unless two classes have an image."""
    known = int(np.count_nonzero(labelled.known))
    if known < 2:
        raise UserError(
            f"A head needs images of two classes; there are {known}.",
            fix="Train on more domains, or on more images a class.",
        )
