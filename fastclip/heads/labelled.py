"""Features in memory, with labels and without: what a head is fitted on, and what adaptation may see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64


@dataclass(frozen=True)
class Unlabelled:
    """Unit vectors of images, and nothing else: a method that gets this cannot see a label.

    They are kept as they are stored, in fp16 or fp32: 1.28 million of 1,024 numbers take 2.6 GB. Convert them by
    blocks.
    """

    vectors: Float[np.ndarray, "images dim"]

    @property
    def dim(self) -> int:
        """Numbers a vector has."""
        return self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class Labelled(Unlabelled):
    """Unit vectors of images with their classes. Rows are in the order of the images' digests.

    So shards, domains' order and processes play no part in what is fitted.
    """

    labels: Int64[np.ndarray, " images"]
    """Each from 0 to `classes` - 1."""
    classes: int
    """Classes of the dataset. Some may have no image here."""

    @property
    def known(self) -> Bool[np.ndarray, " classes"]:
        """Which classes have an image."""
        return np.bincount(self.labels, minlength=self.classes) > 0

    def unlabelled(self) -> Unlabelled:
        """The vectors alone."""
        return Unlabelled(self.vectors)

    def take(self, rows: Int64[np.ndarray, " some"] | Bool[np.ndarray, " images"]) -> Labelled:
        """Some of the rows: their numbers, or a mark a row."""
        return Labelled(self.vectors[rows], self.labels[rows], self.classes)
