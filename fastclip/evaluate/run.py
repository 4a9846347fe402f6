"""Embeds what is missing and scores: the same for the command line and for a notebook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fastclip.errors import FastclipError
from fastclip.evaluate.given_heads import GivenHead, heads_by_domain
from fastclip.evaluate.score import score
from fastclip.evaluate.setup import Setup
from fastclip.results.answers import ShardAnswers
from fastclip.results.cells import Evaluation


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The counts of an evaluation, the answers behind them, and why shards could not be embedded."""

    setup: Setup
    """As it was in the end."""
    evaluation: Evaluation
    answers: Sequence[ShardAnswers]
    failures: Sequence[FastclipError]


def score_all(setup: Setup, heads: Sequence[GivenHead] = ()) -> tuple[Evaluation, list[ShardAnswers]]:
    """The counts of zero-shot and of given heads, and the answers behind them."""
    fitted, used = heads_by_domain(setup, heads)
    evaluation, answers = score(setup, fitted)
    return replace(evaluation, heads=used), answers


def embed_and_score(
    setup: Setup,
    embed: Callable[[Setup], Sequence[FastclipError]],
    score: Callable[[Setup], tuple[Evaluation, list[ShardAnswers]]],
    resolve: Callable[[], Setup],
) -> Scored:
    """Embed what `setup` owes, and score all of it. `embed` returns why shards could not be embedded.

    Where a part turns out to be damaged, it was moved aside, and is made again as `resolve` says then.
    """
    for _ in range(2):
        failures = embed(setup) if setup.units else ()
        evaluation, answers = score(setup)
        if evaluation.complete or failures:
            break
        if not setup.units:  # a process that has begun to embed keeps its recipes
            setup = resolve()
    return Scored(setup=setup, evaluation=evaluation, answers=answers, failures=failures)
