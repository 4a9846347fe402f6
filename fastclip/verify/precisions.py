"""The embeddings and answers of every precision against those of fp32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int32

from fastclip.errors import IntegrityError
from fastclip.evaluate.embedding import embed
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.score import score
from fastclip.evaluate.setup import resolve
from fastclip.results.answers import joined
from fastclip.store.parts import part_name
from fastclip.store.recipes import PRECISIONS
from fastclip.verify.check import Check

COSINES = "as in fp32"

LEAST_COSINE = 0.99
"""The farthest that an embedding may turn away from fp32's. bf16 stays above 0.999 on photos; a broken kernel does
not."""


@dataclass(frozen=True)
class Answers:
    """The embeddings and predictions of one backbone: a row for every readable image and prompt set."""

    embeddings: Float[np.ndarray, "answers dim"]
    predicted: Int32[np.ndarray, " answers"]
    margin: Float[np.ndarray, " answers"]


def check_precisions(options: EvalOptions, on_step: Callable[[str], None]) -> Iterator[Check]:
    """Every precision against fp32, backbone by backbone. `options` are the sample's."""
    found: dict[str, dict[str, Answers]] = {}
    for precision in PRECISIONS:
        on_step(f"embedding in {precision}")
        try:
            found[precision] = embed_and_score(replace(options, precision=precision))
        except IntegrityError as error:
            yield Check(COSINES, f"every backbone in {precision}", "no finite embedding", False, (str(error),))
    for precision, answers in found.items():
        for backbone, of_backbone in answers.items():
            if "fp32" in found:
                yield precision_check(f"{backbone} in {precision}", of_backbone, found["fp32"][backbone])


def embed_and_score(options: EvalOptions) -> dict[str, Answers]:
    """The answers of every backbone. Raises `IntegrityError` if an embedding is not finite."""
    setup = resolve(options)
    for failure in embed(setup).failures:
        raise failure
    _, answers = score(setup)
    found = {}
    for backbone in setup.backbones:
        mine = [answer for answer in answers if answer.column.backbone == backbone]
        parts = [setup.store.read(setup.recipes[a.folder.name, backbone].id, part_name(a.shard)) for a in mine]
        rows = [each.rows[each.answers.classified] for each in mine]
        there = joined(mine)
        found[backbone] = Answers(
            np.concatenate([part.embeddings[each] for each, part in zip(rows, parts, strict=True) if part]),
            there.predicted[there.classified],
            there.margin[there.classified],
        )
    return found


def precision_check(name: str, answers: Answers, reference: Answers) -> Check:
    """How far `answers` are from the `reference`. Only what is broken does not hold: a flipped tie is no fault."""
    if not np.isfinite(answers.embeddings).all():
        return Check(COSINES, name, "no finite embedding", False, (f"{name}: an embedding is not finite",))
    ours, theirs = _unit(answers.embeddings), _unit(reference.embeddings)
    cosine = float((ours * theirs).sum(axis=1).min())
    flipped = answers.predicted != reference.predicted
    lead = float(reference.margin[flipped].max()) if flipped.any() else None
    leads = "" if lead is None else f", leads ≤ {lead:.1g}"
    # Rounded down, for it says "at least", but not by the last bit of a sum.
    figure = f"cosine ≥ {math.floor(cosine * 1e5 + 1e-6) / 1e5:.5f}, {flipped.sum()} of {len(flipped)} flipped{leads}"
    details = () if cosine >= LEAST_COSINE else (f"{name}: a cosine with fp32 is below {LEAST_COSINE}",)
    return Check(COSINES, name, figure, not details, details, lead)


def _unit(rows: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    exact = rows.astype(np.float64)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True)
