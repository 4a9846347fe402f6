"""The one interface of everything that is fitted: heads, few-shot methods and adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.scores import Head


@dataclass(frozen=True)
class Fit:
    """A fitted head and the figures that a reader may ask for, such as iterations and the size of the gradient."""

    head: Head
    facts: Mapping[str, float]
    others: Mapping[str, Head] = field(default_factory=dict)
    """Heads beside it, by a word each, such as the points of a curve."""


@runtime_checkable
class Method(Protocol):
    """A way to fit a head, with its settings: a frozen record.

    `cores` is how many threads may work at once; it changes no bit.
    """

    @property
    def name(self) -> str:
        """The name on the command line, such as `logistic`."""

    @property
    def settings(self) -> Mapping[str, float]:
        """The settings that `choose` chooses, by name; printed, and kept with the head."""

    def choose(
        self,
        train: Labelled,
        held_out: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        cores: int = 1,
    ) -> Method:
        """The method with the settings that classify `held_out`, images of the source, best after a fit on `train`."""

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """Fit on `labelled`. Only adaptation takes `unlabelled`, the target's images. Raises `UserError`."""
