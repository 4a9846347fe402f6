"""Optimal transport (Courty, Flamary, Tuia and Rakotomamonjy, 2017), by skada: an extra, fastclip[adapt]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64

from fastclip.adapt.base import WithClassifier, check_domains
from fastclip.adapt.moments import moments_of
from fastclip.errors import UserError
from fastclip.heads.labelled import Labelled, Unlabelled
from fastclip.heads.method import Fit

TOLERANCE = 1e-6
"""How far, in all, the images' shares of an entropic plan may be from equal ones."""
MATRICES = 9
"""Matrices of fp64, images by images, that skada holds at once: measured, 5.2 for `ot` and 8.4 for `ot-entropic`."""
MOST_GIB = 16


@dataclass(frozen=True, kw_only=True)
class Transport(WithClassifier):
    """The classifier learns on images of the source that moved to where a plan of transport sends them.

    The plan carries the source to the target at the least mean squared distance; that of `ot-entropic` is blurred by
    an entropy. An image moves to the mean of the target's images that it is sent to.
    """

    name: Literal["ot", "ot-entropic"]
    entropy: float = 0.1
    """Weight of the entropy against the cost, as a part of the mean squared distance between images of the domains."""

    def __post_init__(self) -> None:
        if not 0 < self.entropy < np.inf:
            raise UserError(f"The entropy of {self.name} is positive, not {self.entropy:g}.", fix="entropy=0.1")

    def fit(
        self,
        labelled: Labelled,
        *,
        prototypes: Float[np.ndarray, "classes dim"] | None = None,
        unlabelled: Unlabelled | None = None,
        cores: int = 1,
    ) -> Fit:
        """Fit on the moved source. Raises `UserError` without skada, for too many images and for an unfinished plan.

        `distance` is the mean squared distance between images of the two domains.
        """
        target = check_domains(self.name, labelled, unlabelled)
        check_size(self.name, len(labelled), len(target))
        source, wanted = moments_of(labelled.vectors, cores), moments_of(target.vectors, cores)
        gap = source.mean - wanted.mean
        distance = float(np.trace(source.covariance) + np.trace(wanted.covariance) + gap @ gap)
        moved = self._moved(labelled, target, distance)
        fit = self.classifier.fit(
            Labelled(moved, labelled.labels, labelled.classes), prototypes=prototypes, cores=cores
        )
        return Fit(fit.head, {**fit.facts, "distance": distance})

    def _moved(self, source: Unlabelled, target: Unlabelled, distance: float) -> Float64[np.ndarray, "images dim"]:
        """The source's vectors after the plan."""
        skada, config_context = _skada()
        adapter = skada.OTMappingAdapter(max_iter=10**8)
        if self.name == "ot-entropic":
            adapter = skada.EntropicOTMappingAdapter(reg_e=self.entropy * distance, max_iter=10**4, tol=TOLERANCE)
        vectors = np.vstack([each.vectors.astype(np.float64) for each in (source, target)])
        domains = np.repeat([1, -2], [len(source), len(target)])  # skada's marks of a source and of a target
        with config_context(enable_metadata_routing=True):
            moved = adapter.fit_transform(vectors, sample_domain=domains)
        shares = adapter.ot_transport_.coupling_.sum(axis=0)
        if not np.abs(shares * len(target) - 1).sum() < len(target) * 100 * TOLERANCE:
            raise UserError(
                f"{self.name} found no plan from {len(source):,} images to {len(target):,}.",
                fix="--method coral",
            )
        return np.asarray(moved[: len(source)], np.float64)


def check_size(name: str, sources: int, targets: int) -> None:
    """Raise `UserError` where matrices of images by images would not fit into memory."""
    if (gib := MATRICES * 8 * sources * targets / 2**30) > MOST_GIB:
        raise UserError(
            f"{name} from {sources:,} images to {targets:,} would take {gib:,.0f} GiB of memory; the limit is "
            f"{MOST_GIB} GiB.",
            fix="--method coral; it takes no matrix of images by images.",
        )


def _skada() -> tuple[Any, Any]:
    """skada, and scikit-learn's context for settings.

    Importing skada switches a setting of scikit-learn on, metadata routing, in the thread that imports it. The context
    puts it back; it is needed again only while an adapter works.
    """
    try:
        from sklearn import config_context

        with config_context():
            import skada
    except ImportError as error:
        raise UserError(f"Optimal transport needs skada: {error}.", fix="pip install 'fastclip[adapt]'") from error
    return skada, config_context
