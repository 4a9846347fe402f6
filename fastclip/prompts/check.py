"""Findings about a prompt set: prompts that eval would refuse, and those that are probably not meant."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from fastclip.data.ids import nameless
from fastclip.data.shards.targets import Target
from fastclip.errors import UserError, printable
from fastclip.text.prompt_sets import PromptSet

WORDNET = re.compile(r"\b[nvars]\d{8}\b")
NEAR = 1e-6
"""Prototypes whose cosine is less than this below 1 are equal for all that scores can tell."""
_SHOWN = 3
_LONGEST = 60


@dataclass(frozen=True)
class Finding:
    """A sentence about a prompt set."""

    text: str
    refused: bool = False
    """Whether eval would refuse the set for it."""


def prompts_by_class(prompts: PromptSet, target: Target | None) -> Mapping[str, Sequence[str]]:
    """Class → its prompts. Without a dataset, the names of texts are the classes, and templates have one.

    Raises `UserError` for texts that do not fit the dataset.
    """
    if target:
        classes = prompts.classes(target.manifest.classes, target.manifest.names)
        return {folder: prompts.prompts(*names) for folder, names in zip(target.manifest.classes, classes, strict=True)}
    return prompts.texts or {"": prompts.templates}


def check_fit(prompts: PromptSet, target: Target) -> Iterator[Finding]:
    """Findings about a set and the classes of a dataset."""
    manifest = target.manifest
    try:
        prompts.classes(manifest.classes, manifest.names)
    except UserError as error:
        yield Finding(str(error), refused=True)
    if prompts.templates and (without := nameless(manifest.classes, manifest.names)):
        yield Finding(f"Classes of {target.name} that have ids for names: {_listed(without)}.", refused=True)


def check_texts(by_class: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Findings about the letters of prompts."""
    again = [text for texts in by_class.values() for text, count in Counter(texts).items() if count > 1]
    if again:
        yield Finding(f"Twice or more in one class, and counted as often: {_texts(again)}.")
    owners: dict[str, list[str]] = {}
    for name, texts in by_class.items():
        for text in dict.fromkeys(texts):
            owners.setdefault(text, []).append(name)
    if shared := [text for text, names in owners.items() if len(names) > 1]:
        where = _listed(owners[shared[0]])
        yield Finding(f"In several classes, which they cannot tell apart: {_texts(shared)}; the first in {where}.")
    every = list(owners)
    for what, found in (
        ("With a WordNet id, which means nothing to CLIP", [text for text in every if WORDNET.search(text)]),
        ("With an underscore", [text for text in every if "_" in text]),
        ("With a newline or another control character", [text for text in every if not text.isprintable()]),
        ("With a blank at an end", [text for text in every if text.isprintable() and text != text.strip()]),
    ):
        if found:
            yield Finding(f"{what}: {_texts(found)}.")


def check_lengths(by_class: Mapping[str, Sequence[str]], tokenizer: Any) -> Iterator[Finding]:
    """A finding about texts of more tokens than fit."""
    if not hasattr(tokenizer, "encode"):
        return
    room = tokenizer.context_length - 2  # start and end tokens
    every = dict.fromkeys(text for texts in by_class.values() for text in texts)
    # A text has at most as many tokens as bytes.
    long = [text for text in every if len(text.encode()) > room and len(tokenizer.encode(text)) > room]
    if long:
        yield Finding(f"Longer than the {room} tokens that fit: {_texts(long)}.", refused=True)


def check_prototypes(names: Sequence[str], prototypes: Float32[np.ndarray, "classes dim"]) -> Iterator[Finding]:
    """A finding about classes whose prototypes are equal or nearly so."""
    near = []
    each = prototypes.astype(np.float64)
    for first in range(0, len(each), 1024):
        close = each[first : first + 1024] @ each.T > 1 - NEAR
        rows, columns = np.nonzero(np.triu(close, k=first + 1))
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        near += [f"{names[first + row]} and {names[column]}" for row, column in pairs]
    if near:
        yield Finding(f"Classes with equal prototypes (cosine above 1 - {NEAR:g}): {_listed(near)}.")


def _texts(found: Sequence[str]) -> str:
    number = "1 prompt" if len(found) == 1 else f"{len(found):,} prompts"
    quoted = ["'" + printable(each) + "'" for each in found]
    return f"{number}: {_listed(quoted)}"


def _listed(found: Sequence[str]) -> str:
    shown = [each if len(each) <= _LONGEST else f"{each[:_LONGEST]}…" for each in found[:_SHOWN]]
    return "; ".join(shown) + (f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else "")
