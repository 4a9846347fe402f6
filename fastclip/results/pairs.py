"""Two heads on the same images: how often only one of them is right, and the exact test of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A fitted head beside zero-shot on the classified images of one domain."""

    dataset: str
    domain: str
    backbone: str
    head: str
    prompts: str
    """The prompt set of zero-shot."""
    only_head: int
    """Images that only the fitted head classifies correctly."""
    only_zero_shot: int

    @property
    def p(self) -> float:
        """The p-value of McNemar's exact test."""
        return mcnemar_p(self.only_head, self.only_zero_shot)


def mcnemar_p(first: int, second: int) -> float:
    """The two-sided p-value of McNemar's exact test: of so uneven a split of `first` + `second` fair coins."""
    total, least = first + second, min(first, second)
    if first == second:
        return 1.0
    logs: Sequence[float] = [_log_choose(total, each) for each in range(least + 1)]
    largest = max(logs)
    log_tail = largest + math.log(math.fsum(math.exp(each - largest) for each in logs)) - total * math.log(2)
    return min(1.0, 2 * math.exp(log_tail))


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
