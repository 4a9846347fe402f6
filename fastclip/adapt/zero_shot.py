"""Methods that use neither the source nor a classifier: zero-shot classification, corrected by the target's images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Float64

from fastclip.adapt.base import check_dim, check_target
from fastclip.adapt.moments import Moments, moments_of
from fastclip.errors import UserError
from fastclip.heads.blocks import blocks_of, over_blocks, sum_over_blocks
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.linear import LOGIT_SCALE, LinearHead
from fastclip.heads.method import Fit
from fastclip.heads.scores import exact

SMALLEST_PRIOR = 1e-15
"""Smaller ones are raised to it, so that a head's bias stays finite. A class's probability for an image is at most its
prior times the images; so a class that small is no image's answer, before and after."""

Same = TypeVar("Same")


@dataclass(frozen=True, kw_only=True)
class WithoutSource:
    """A method that needs prototypes and the target's images, and has nothing to choose."""

    @property
    def settings(self) -> Mapping[str, float]:
        """None."""
        return {}

    def choose(
        self: Same,
        train: Labelled,
        held_out: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        cores: int = 1,
    ) -> Same:
        """The method itself."""
        del train, held_out, prototypes, cores
        return self


@dataclass(frozen=True, kw_only=True)
class Prior(WithoutSource):
    """Zero-shot classification with the target's own frequencies of classes, which EM estimates from its images.

    Zero-shot probabilities are softmax(100 · cosines): they take all classes for equally frequent. A round of EM
    multiplies each frequency by the mean of what the images add to it (Saerens, Latinne and Decaestecker, 2002).
    """

    rounds: int = 1000
    """The most; fewer where the likelihood cannot rise by more than `bound` any more."""
    bound: float = 1e-6
    """In nats an image."""

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "prior"

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """The zero-shot head plus log(frequency) / 100 a class. The source is not used.

        `gain` is the likelihood's rise over equal frequencies, `gap` the most that it could still rise: nats an image.
        """
        del labelled
        target, texts = checked(self.name, prototypes, unlabelled)
        blocks = list(over_blocks(lambda rows: probabilities(texts, target, rows), blocks_of(len(target)), cores))
        prior, done = np.full(len(texts), 1 / len(texts)), 0
        while True:
            factors, gain = em_factors(blocks, prior, cores)
            gap = float(np.log(factors.max()))
            if gap <= self.bound or done == self.rounds:
                break
            prior, done = prior * factors, done + 1
        bias = np.log(np.maximum(prior, SMALLEST_PRIOR)) / LOGIT_SCALE
        return Fit(LinearHead(texts, bias), {"rounds": float(done), "gain": gain, "gap": gap})


def probabilities(
    texts: Float64[np.ndarray, "classes dim"], target: Unlabelled, rows: slice
) -> Float64[np.ndarray, "images classes"]:
    """Zero-shot probabilities of some of the images."""
    logits = LOGIT_SCALE * LinearHead(texts)(exact(target.vectors[rows]))
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    found /= found.sum(axis=1, keepdims=True)
    return found


def em_factors(
    blocks: list[Float64[np.ndarray, "_ classes"]], prior: Float64[np.ndarray, " classes"], cores: int
) -> tuple[Float64[np.ndarray, " classes"], float]:
    """By what a round of EM multiplies `prior`, and the mean log-likelihood of the images above that of equal priors.

    The likelihood is concave. No prior's is greater by more than the logarithm of the greatest factor.
    """

    def work(rows: slice) -> Float64[np.ndarray, " classes_and_likelihood"]:
        (block,) = blocks[rows]
        likelihoods = len(prior) * (block @ prior)
        return np.append(len(prior) * (1 / likelihoods) @ block, np.log(likelihoods).sum())

    sums = sum_over_blocks(work, blocks_of(len(blocks), 1), cores) / sum(len(block) for block in blocks)
    return sums[:-1], float(sums[-1])


@dataclass(frozen=True, kw_only=True)
class Prototypes(WithoutSource):
    """Means of the target's images, a class each, blended with the texts' prototypes.

    An image counts for every class by its zero-shot probability; each class has one more image, the mean of all, so
    that a class without images is left to the texts. Images lie closer together than images and texts do. So both
    halves are taken around their mean over the classes, and divided by the spread of the scores that they give the
    target.
    """

    share: float = 0.5
    """Of the images' half."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"The share of the class means is from 0 to 1, not {self.share:g}.", fix="share=0.5")

    @property
    def name(self) -> str:
        """The name on the command line."""
        return "prototype"

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """The blended prototypes as a head. `images` is the weight of images that the smallest class has."""
        del labelled
        target, texts = checked(self.name, prototypes, unlabelled)
        whole = moments_of(target.vectors, cores)

        def work(rows: slice) -> Float64[np.ndarray, "classes dim_and_weight"]:
            given = probabilities(texts, target, rows)
            return np.column_stack([given.T @ (target.vectors[rows] - whole.mean), given.sum(axis=0)])

        sums = sum_over_blocks(work, blocks_of(len(target)), cores)
        images = sums[:, :-1] / (sums[:, -1:] + 1)
        weights = self.share * evened(images, whole) + (1 - self.share) * evened(texts, whole)
        return Fit(LinearHead(weights), {"share": self.share, "images": float(sums[:, -1].min())})


def evened(weights: Float64[np.ndarray, "classes dim"], target: Moments) -> Float64[np.ndarray, "classes dim"]:
    """`weights` around their mean, so that the scores of the target's images spread by 1 (root mean square)."""
    centred = weights - weights.mean(axis=0)
    spread = np.sqrt(np.mean(np.einsum("cd,cd->c", centred @ target.covariance, centred)))
    return centred / spread if spread else centred


def checked(
    name: str, prototypes: Float[np.ndarray, "classes dim"] | None, unlabelled: Unlabelled | None
) -> tuple[Unlabelled, Float64[np.ndarray, "classes dim"]]:
    """The target's images and the prototypes. Raises `UserError` if there are none, or of another backbone."""
    target = check_target(name, unlabelled)
    if prototypes is None:
        raise UserError(
            f"{name} corrects zero-shot classification; there are no prototypes.",
            fix="Give prototypes of the same backbone.",
        )
    check_dim(prototypes.shape[1], target, "the prototypes")
    return target, prototypes.astype(np.float64)
