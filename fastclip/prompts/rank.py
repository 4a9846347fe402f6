"""Rankings of candidates on one dataset by one backbone: integer counts, and the ties that exact tests leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import numpy as np
from jaxtyping import UInt8

from fastclip.prompts.candidates import Candidate, Candidates
from fastclip.prompts.scoring import ShardBits, Source, score_sets
from fastclip.prompts.texts import prototypes_of
from fastclip.results.cells import mean
from fastclip.results.comparing.tests import p_of_averages
from fastclip.results.statistics import LEVEL, holm
from fastclip.text.vectors import TextVectors

NEAR, FAR = 1.0, 6.0
"""Standard deviations from the best up to which, and from which on, a test's answer is known without it. However images
weigh, p is at least 3/16 up to the one (arXiv 2104.10005) and at most 4e-8 from the other (Hoeffding 1963). Tests
of 300 candidates in four domains would take three seconds."""
MOST = 0.95
"""The share of controls that a candidate beats if it beats most of them."""


@dataclass(frozen=True)
class Ranked:
    """A candidate with the images that it classifies correctly, by domain."""

    candidate: Candidate
    right: Mapping[str, int]
    average: Fraction
    """The unweighted mean over the domains."""
    tied: bool
    """Whether Holm-corrected exact tests cannot tell it from the best of the given candidates."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The candidates of one dataset and backbone, the best first; of equal ones the first that was given."""

    source: Source
    candidates: Candidates
    images: Mapping[str, int]
    """The readable images of each domain."""
    unreadable: int
    ranked: tuple[Ranked, ...]

    @property
    def given(self) -> tuple[Ranked, ...]:
        """Those that are no control."""
        return tuple(each for each in self.ranked if not each.candidate.control)

    @property
    def controls(self) -> tuple[Ranked, ...]:
        """The drawn ones."""
        return tuple(each for each in self.ranked if each.candidate.control)

    @property
    def tied(self) -> int:
        """Given candidates that cannot be told from the best, the best among them."""
        return sum(each.tied for each in self.given)

    def beat(self, share: float) -> int:
        """Given candidates that are better than at least a `share` of the controls; 1 means all of them."""
        averages = sorted(each.average for each in self.controls)
        bar = averages[max(0, math.ceil(share * len(averages)) - 1)]
        return sum(each.average > bar for each in self.given)


def rank(
    source: Source,
    candidates: Candidates,
    vectors: TextVectors,
    cores: int,
    on_images: Callable[[int], object] = lambda images: None,
) -> Ranking:
    """The candidates in the order of their average accuracy. Each counts what `eval --prompts` counts for it."""
    prototypes = prototypes_of(candidates.each, source.target, vectors)
    found = score_sets(source, prototypes, cores, on_images)
    domains = [each for each in source.target.domains if any(shard.domain == each for shard in found)]
    images = {each: sum(shard.images for shard in found if shard.domain == each) for each in domains}
    domains = [each for each in domains if images[each]]
    bits = {each: np.concatenate([shard.bits for shard in found if shard.domain == each]) for each in domains}
    right = {each: np.bitwise_count(bits[each]).sum(axis=0, dtype=np.int64).tolist() for each in domains}
    averages = [mean([Fraction(right[each][row], images[each]) for each in domains]) for row in range(len(candidates))]
    order = sorted(range(len(candidates)), key=lambda row: -(averages[row] or Fraction(0)))
    given = [row for row in order if not candidates.each[row].control]
    tied = _tied(given, bits, images)
    return Ranking(
        source=source,
        candidates=candidates,
        images={each: images[each] for each in domains},
        unreadable=_unreadable(source, found),
        ranked=tuple(
            Ranked(
                candidate=candidates.each[row],
                right={each: right[each][row] for each in domains},
                average=averages[row] or Fraction(0),
                tied=row in tied,
            )
            for row in order
        ),
    )


def _unreadable(source: Source, found: Sequence[ShardBits]) -> int:
    rejected = sum(each.unreadable for each in source.target.manifest.domains if each.name in source.target.domains)
    return rejected + sum(each.unreadable for each in found)


def _tied(
    order: Sequence[int], bits: Mapping[str, UInt8[np.ndarray, "packed sets"]], images: Mapping[str, int]
) -> set[int]:
    """Those in `order`, the best first, that are the best or cannot be told from it."""
    best, others = order[0], list(order[1:])
    only = {}
    for domain, of_domain in bits.items():
        first = of_domain[:, best, None]
        lost, won = first & ~of_domain, ~first & of_domain
        only[domain] = [np.bitwise_count(each).sum(axis=0, dtype=np.int64).tolist() for each in (lost, won)]
    ps = [_p([(only[each][0][row], only[each][1][row], images[each]) for each in bits]) for row in others]
    return {best, *(row for row, p in zip(others, holm(ps), strict=True) if p > 1 - LEVEL)}


def _p(counts: Sequence[tuple[int, int, int]]) -> float:
    """The p-value of two averages, by an exact test unless they are so near or far apart that none is needed."""
    spread = math.sqrt(math.fsum((a + b) / images**2 for a, b, images in counts))
    far = abs(math.fsum((a - b) / images for a, b, images in counts)) / spread if spread else 0.0
    return p_of_averages(counts) if NEAR < far < FAR else 2 * NormalDist().cdf(-far)
