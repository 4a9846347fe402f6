"""Prototypes: one unit text vector a class, computed once and kept for all machines.

    STORE/prototypes/QUESTION/RECIPE.safetensors

QUESTION is a digest of weights, architecture, templates and classes. RECIPE is a digest of the machine and libraries
that answered it. Two answers differ in last bits at most, and every reader takes the same one.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from fastclip.errors import GO_ON, IncompleteError, IntegrityError, UserError
from fastclip.faults import named
from fastclip.files import canonical_json, digest, read_file
from fastclip.sealed import read_facts, seal, unseal
from fastclip.text.directions import class_sums, unit_rows
from fastclip.text.kept import NO_FILE, copy_sealed, keep
from fastclip.text.prompt_sets import PromptSet

if TYPE_CHECKING:
    import torch

    from fastclip.models.tower import TextTower

VERSION = 7
"""Raised by hand when a change of this code moves a bit of a prototype. Up to 6 it was that of images' numerics."""

WITHDRAWN: frozenset[int] = frozenset()
"""Versions whose prototypes and text vectors are wrong: they are not read."""

MOST_QUESTION_BYTES = 90_000_000
"""Of a question, in the header of a file of prototypes: safetensors reads headers of up to 100 MB."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Everything that defines the wanted prototypes. `classes` are (folder, readable name) pairs in label order.

    The architecture is there for the tokenizer, which open_clip chooses by it. Either all classes share `templates`, or
    each has its own of the `texts`, in the same order.
    """

    weights: str
    architecture: str
    templates: tuple[str, ...]
    classes: tuple[tuple[str, str], ...]
    texts: tuple[tuple[str, ...], ...] = ()

    def to_document(self) -> dict[str, Any]:
        """The question as JSON has it."""
        document = asdict(self)
        if not self.texts:  # questions of templates keep the names that they had before there were texts
            del document["texts"]
        return document

    @cached_property
    def id(self) -> str:
        """SHA-256 of the question: the name of its folder."""
        return digest(canonical_json(self.to_document()))


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """Everything but the question that can move a bit of a prototype. Text towers always compute in fp32."""

    libraries: str
    machine: str
    switches: tuple[str, ...]
    numerics: int

    @property
    def id(self) -> str:
        """SHA-256 of the recipe: the name of its file."""
        return digest(canonical_json(asdict(self)))


def text_recipe(device: torch.device) -> TextRecipe:
    """The recipe of prototypes and text vectors that this machine computes on `device`."""
    from fastclip.models.numerics import describe_libraries, describe_machine, find_switches

    return TextRecipe(
        libraries=describe_libraries(), machine=describe_machine(device), switches=find_switches(), numerics=VERSION
    )


def find_prototypes(folder: Path, question: Question) -> Float32[np.ndarray, "classes dim"] | None:
    """The kept answer to `question`, the same for every reader; None if there is none that can be read.

    `folder` is the prototypes' folder of a store.
    """
    found = []
    try:
        for path in _answers(folder / question.id):
            with suppress(IntegrityError, *NO_FILE, KeyError, TypeError):
                numerics = read_facts(path)["recipe"]["numerics"]
                if numerics not in WITHDRAWN:
                    found.append((-numerics, path.name, path))
        for _, _, path in sorted(found):
            with suppress(IntegrityError, *NO_FILE):
                return _read(path, question)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ELOOP, errno.ENOTDIR):
            raise IncompleteError(f"Cannot read the prototypes in {folder}: {error}.", fix=GO_ON) from error
    return None


def keep_prototypes(
    folder: Path, question: Question, recipe: TextRecipe, prototypes: Float32[np.ndarray, "classes dim"]
) -> None:
    """Keep an answer for later. It replaces a damaged one."""
    data = seal({"prototypes": prototypes}, _facts(question, recipe))
    keep(folder / question.id / f"{recipe.id}.safetensors", data, lambda path: _is_whole(path, question))


def copy_prototypes(source: Path, target: Path, weights: str) -> int:
    """Copy every answer by `weights` from one store's folder of prototypes to another's, and prove each on the way.

    Returns how many of them the target has now. A damaged one is left out.
    """
    files = (path for each in source.glob("*") for path in _answers(each))
    return copy_sealed(files, target, lambda facts: facts.get("question", {}).get("weights") == weights)


def check_question(question: Question, name: str) -> None:
    """Raise `UserError` for a question whose answer no file can hold: it stands in the file's header, beside it."""
    size = len(json.dumps(canonical_json(question.to_document()).decode(), ensure_ascii=False).encode())
    if size > MOST_QUESTION_BYTES:
        raise UserError(
            f"The classes of {name} and their prompts take {size / 1e6:,.0f} MB; prototypes are kept with up to "
            f"{MOST_QUESTION_BYTES / 1e6:,.0f} MB.",
            fix="Give the classes shorter names in a card (shards/README.md), and shard again.",
        )


def compute_prototypes(
    tower: TextTower, prompts: PromptSet, classes: Sequence[tuple[str, str]], workers: int
) -> Float32[np.ndarray, "classes dim"]:
    """The direction of each class's unit prompt vectors together. The number of threads, `workers`, changes no bit."""
    of_classes = [prompts.prompts(folder, readable) for folder, readable in classes]
    vectors = tower([text for texts in of_classes for text in texts], workers).numpy()
    prototypes = unit_rows(class_sums(vectors, list(map(len, of_classes))))
    if not np.isfinite(prototypes).all():
        bad = [classes[row][0] for row in np.flatnonzero(~np.isfinite(prototypes).all(axis=1)).tolist()]
        raise IntegrityError(
            f"The text tower gives no finite prototype for {', '.join(bad[:5])}.", fix="Check the weights file."
        )
    return prototypes


def _answers(folder: Path) -> list[Path]:
    """The files of answers in a question's folder; files beside them, such as a synchroniser's copies, are none."""
    if not re.fullmatch("[0-9a-f]{64}", folder.name):
        return []
    return [path for path in folder.glob("*") if re.fullmatch(r"[0-9a-f]{64}\.safetensors", path.name)]


def _facts(question: Question, recipe: TextRecipe) -> Mapping[str, Any]:
    return {"question": question.to_document(), "recipe": asdict(recipe)}


def _read(path: Path, question: Question) -> Float32[np.ndarray, "classes dim"]:
    tensors, facts = unseal(read_file(path), str(path))
    prototypes = tensors.get("prototypes")
    if canonical_json(facts.get("question")) != canonical_json(question.to_document()) or prototypes is None:
        raise IntegrityError(f"{path} holds prototypes of other classes, prompts or weights.", fix="Delete it.")
    return prototypes


def _is_whole(path: Path, question: Question) -> bool:
    try:
        with named(path):
            _read(path, question)
    except (IntegrityError, OSError):
        return False
    return True
