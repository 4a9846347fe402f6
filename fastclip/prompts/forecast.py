"""How long judging candidates takes: measured on a few shards and one block of scores, before the work begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from fastclip.prompts.hold_out import Part, find_hold_out
from fastclip.prompts.scoring import ROWS, SCORES, ShardImages, Source, chunks, right_sets
from fastclip.prompts.select import similarity_bytes
from fastclip.prompts.selection import SelectOptions
from fastclip.prompts.similarities import KEPT_BYTES, Block, Sums, extended
from fastclip.results.comparing.tests import p_of_averages
from fastclip.threads import threads

LEAST_S = 0.1
"""A measurement takes at least this long; it is repeated until it has."""


@dataclass(frozen=True)
class Rates:
    """Seconds that this machine takes with all its cores at work."""

    read_s: float
    """An image: finding its labels, reading and proving its embedding."""
    score_s: float
    """An image under one set of prototypes."""
    images: int
    """Of the dataset."""

    def seconds(self, sets: int, reads: int = 1) -> float:
        """Scoring all images under so many sets of prototypes, and reading them so often."""
        return self.images * (reads * self.read_s + sets * self.score_s)


def measure(source: Source, sets: int, cores: int) -> Rates:
    """The rates of a dataset under so many sets. The first shard warms up, the next ones are measured."""
    shards = list(islice(source.target.shards, 1 + cores))
    images = sum(each.images for each in source.target.shards)
    if not shards:
        return Rates(0.0, 0.0, 0)
    first = source.read(shards[0])
    timed = shards[1:] or shards
    with threads(cores, "forecast") as pool:
        started = time.perf_counter()
        read = list(pool.map(source.read, timed))
        read_s = (time.perf_counter() - started) / max(1, sum(each.images for each in timed))
        largest = max([first, *read], key=lambda each: len(each.labels))
        if not len(largest.labels) or not sets:
            return Rates(read_s, 0.0, images)
        work, rows = _block(source, largest, sets)
        work()

        def repeated(number: int) -> int:
            until, done = time.perf_counter() + LEAST_S, 0
            while not done or time.perf_counter() < until:
                work()
                done += 1
            return done

        started = time.perf_counter()
        blocks = sum(pool.map(repeated, range(cores)))
        return Rates(read_s, (time.perf_counter() - started) / blocks / rows, images)


def _block(source: Source, images: ShardImages, sets: int) -> tuple[Callable[[], object], int]:
    """One block of scores as work to be done, and how many images times sets are in it."""
    classes = len(source.target.manifest.classes)
    _, at_once = next(chunks(sets, classes))
    drawn = np.random.default_rng(0).normal(size=(classes, at_once, images.vectors.shape[1])).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=-1, keepdims=True)
    vectors, labels = images.vectors[:ROWS], images.labels[:ROWS]
    return lambda: right_sets(vectors, labels, drawn), len(labels) * at_once


def ranking_s(source: Source, rates: Rates, candidates: int) -> float:
    """Seconds that a ranking takes: all scores, and a test for each second candidate, as many as need one mostly."""
    images = [each.images for each in source.target.manifest.domains if each.name in source.target.domains]
    counts = [(each // 20, each // 18, each) for each in images if each >= 20]
    if not counts:
        return rates.seconds(candidates)
    p_of_averages(counts)  # the first one loads a library
    started = time.perf_counter()
    p_of_averages(counts)
    return rates.seconds(candidates) + candidates / 2 * (time.perf_counter() - started)


def selecting_s(source: Source, rates: Rates, candidates: int, options: SelectOptions, cores: int) -> float:
    """Seconds that a selection takes at most: if every fold goes its own way, and to the end."""
    if not options.labels:
        return rates.seconds(candidates, reads=4)
    folds = len(find_hold_out(options.hold_out, source.target.domains, options.seed).folds)
    share = {"domains": 1 - 1 / max(1, folds), "folds": 1 - 1 / max(1, folds), "half": 0.5}[options.hold_out]
    ensembles = 1 + (options.most - 1) * (1 + share * folds if options.hold_out != "half" else 0.5)
    steps = rates.images * candidates * ensembles * _step_s(source, candidates, cores)
    kept = similarity_bytes(source, candidates) <= KEPT_BYTES
    passes = 1 if kept else 1 + ensembles
    return rates.seconds(int(candidates * passes), reads=2 if kept else options.most + 2) + steps


def _step_s(source: Source, candidates: int, cores: int) -> float:
    """Seconds that an image under one candidate takes in a step of an ensemble, its similarities known."""
    classes = len(source.target.manifest.classes)
    many = min(candidates, max(1, SCORES // (ROWS * classes)))
    random = np.random.default_rng(0)
    kept = random.normal(size=(ROWS, classes, many)).astype(np.float32)
    labels = np.sort(random.integers(0, classes, ROWS))
    block = Block(Part("", 0), labels, np.zeros((0, 1), np.float32), kept)
    sums = Sums(np.ones((classes, many, 1), np.float32))
    weights = np.ones((classes, many), np.float32)
    started = time.perf_counter()
    with threads(cores, "forecast") as pool:
        list(pool.map(lambda _: extended(block, sums, (0,), weights), range(cores)))
    return (time.perf_counter() - started) / (cores * ROWS * many)
