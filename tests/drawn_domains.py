"""Domains that are drawn, for adaptation: classes around shared centres, shifted and twisted by domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fastclip.adapt.base import predicted
from fastclip.adapt.methods import METHODS
from fastclip.adapt.subspace import SubspaceAlignment
from fastclip.adapt.transfer import TransferComponents
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.method import Fit, Method

LINEAR = [name for name in METHODS if not name.startswith("ot")]
"""Those that need no extra."""
WITH_CLASSIFIER = ("coral", "sa", "tca", "jda", "bda")
"""Of these, the ones with a classifier."""


@dataclass(frozen=True)
class Ridge:
    """Least squares on classes coded as 0 and 1, with an intercept: a stand-in for the logistic head."""

    strength: float = 1e-3
    seen: list[Labelled] = field(default_factory=list)
    """All that it was fitted on."""
    name: str = "ridge"

    @property
    def settings(self) -> Mapping[str, float]:
        return {"strength": self.strength}

    def choose(self, train: Labelled, held_out: Labelled, *, prototypes=None, cores: int = 1) -> Ridge:
        self.seen.extend([train, held_out])
        return replace(self, strength=0.25)

    def fit(self, labelled: Labelled, *, prototypes=None, unlabelled=None, cores: int = 1) -> Fit:
        assert unlabelled is None
        self.seen.append(labelled)
        vectors = labelled.vectors.astype(np.float64)
        coded = np.eye(labelled.classes)[labelled.labels]
        centre, mean = vectors.mean(axis=0), coded.mean(axis=0)
        left = (vectors - centre).T @ (vectors - centre) + self.strength * np.eye(labelled.dim)
        weights = np.linalg.solve(left, (vectors - centre).T @ (coded - mean)).T
        return Fit(LinearHead(weights, mean - weights @ centre, labelled.known), {"strength": self.strength})


def units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def draw(
    seed: int,
    images: int,
    *,
    dim: int = 24,
    classes: int = 5,
    shift: float = 0.0,
    twist: float = 0.0,
    noise: float = 0.6,
) -> Labelled:
    """Unit vectors around class centres that all seeds share, after a shift and a map near the identity."""
    fixed, rng = np.random.default_rng(7), np.random.default_rng(seed)
    centres, way, turn = fixed.normal(size=(classes, dim)), fixed.normal(size=dim), fixed.normal(size=(dim, dim))
    labels = np.sort(rng.integers(0, classes, images))
    labels[:classes] = np.arange(classes)
    vectors = centres[labels] + noise * rng.normal(size=(images, dim)) * np.geomspace(3, 0.3, dim)
    return Labelled(units(vectors @ (np.eye(dim) + twist * turn / np.sqrt(dim)) + shift * way), labels, classes)


def texts(dim: int = 24, classes: int = 5) -> np.ndarray:
    fixed = np.random.default_rng(7)
    return units(fixed.normal(size=(classes, dim)) + 0.3 * np.random.default_rng(8).normal(size=(classes, dim)))


def method(name: str) -> Method:
    made = METHODS[name](Ridge())
    # The default, 30, would keep all of the 24 numbers that vectors have here.
    return replace(made, components=8) if isinstance(made, (SubspaceAlignment, TransferComponents)) else made


def fit_head(name: str, source: Labelled, target: Unlabelled, cores: int = 1) -> LinearHead:
    prototypes = texts(source.dim, source.classes)
    return method(name).fit(source, prototypes=prototypes, unlabelled=target, cores=cores).head


def right(head: LinearHead, target: Labelled) -> float:
    return float(np.mean(predicted(head, target.vectors, 1) == target.labels))


def angle(first: np.ndarray, second: np.ndarray) -> float:
    """The sine of the greatest principal angle between two subspaces."""
    one, other = np.linalg.qr(first)[0], np.linalg.qr(second)[0]
    return float(np.linalg.norm(other - one @ (one.T @ other), 2))
