"""Head files: a head with everything that says what it is, as a file that proves itself."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np

from fastclip.errors import IntegrityError, UserError
from fastclip.faults import steadily
from fastclip.files import digest, write_whole
from fastclip.heads.facts import HeadFacts
from fastclip.heads.linear import LinearHead
from fastclip.heads.neighbours import NeighboursHead
from fastclip.heads.scores import Head
from fastclip.heads.tip import TipHead
from fastclip.sealed import seal, unseal
from fastclip.store.recipes import Recipe, differences, parse_recipe
from fastclip.store.training import TrainingSet

FORMAT = "fastclip.head/1"
FIT_AGAIN = "Fit the head again with fastclip probe, or name another file."

KINDS: Mapping[str, type] = {"linear": LinearHead, "neighbours": NeighboursHead, "tip": TipHead}
"""The heads that a file can hold. Its tensors and numbers are called as the fields of the record are."""

TENSORS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "weights": ("f", ("classes", "dim")),
    "bias": ("f", ("classes",)),
    "known": ("b", ("classes",)),
    "vectors": ("f", ("images", "dim")),
    "labels": ("i", ("images",)),
    "means": ("f", ("classes", "dim")),
    "prototypes": ("f", ("classes", "dim")),
    "keys": ("f", ("images", "dim")),
}
"""NumPy's kind of type and the axes of each tensor; axes of the same name are equally long."""


def describe_numpy() -> str:
    """NumPy, its BLAS and the instructions that they use here."""
    config: Any = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    instructions = config.get("SIMD Extensions", {}).get("found") or ["baseline"]
    return f"numpy {np.__version__}, {blas['name']} {blas.get('version')}, {platform.machine()} {instructions[-1]}"


def save_head(path: Path, head: Head, facts: HeadFacts) -> str:
    """Write a head's file, in place of any that was there. Returns the SHA-256 of its bytes: the head's digest."""
    data = seal_head(head, facts)
    write_whole(path, data)
    return digest(data)


def load_head(path: Path) -> tuple[Head, HeadFacts]:
    """The head in a file, with its facts. Raises `UserError` for no head, `IntegrityError` for a damaged one."""
    return unseal_head(read_head(path), str(path))


def read_head(path: Path) -> bytes:
    """The bytes of a head's file. Raises `UserError` for what cannot be one, `MachineError` for a failing disk."""
    try:
        return steadily(path.read_bytes, path)
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"Cannot read the head {path}: {error.strerror}.", fix=FIT_AGAIN) from error


def seal_head(head: Head, facts: HeadFacts) -> bytes:
    """The bytes of a head's file. Equal heads with equal facts have equal bytes."""
    kind = next(name for name, made in KINDS.items() if isinstance(head, made))
    values = {field.name: getattr(head, field.name) for field in fields(KINDS[kind]) if field.init}
    tensors = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
    document = {"format": FORMAT, "kind": kind, "numbers": numbers, **facts.to_document()}
    return seal(tensors, document)


def unseal_head(data: bytes, name: str) -> tuple[Head, HeadFacts]:
    """The head in the bytes of the file called `name`, with its facts. Raises as `load_head` does."""
    try:
        tensors, document = unseal(data, name)
    except IntegrityError as error:
        if b"fastclip.head/" not in data:
            raise UserError(f"{name} is no head of fastclip's.", fix=FIT_AGAIN) from error
        raise IntegrityError(str(error), fix=FIT_AGAIN) from error
    if document.get("format") != FORMAT:
        raise UserError(f"{name} is {document.get('format', 'another file')}, not {FORMAT}.", fix=FIT_AGAIN)
    try:
        facts = _facts(document)
        values = {**tensors, **document["numbers"]}
        made = _check(document["kind"], values, len(facts.classes))
        head: Head = made(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{name} holds no whole head: {error}.", fix=FIT_AGAIN) from error
    return head, facts


def check_head(facts: HeadFacts, recipe: Recipe, classes: Sequence[str]) -> None:
    """Raise `UserError` unless a head is for embeddings by `recipe` and for these classes, in their order."""
    ours = facts.recipe
    if ours.backbone != recipe.backbone:
        raise UserError(f"The head is for {ours.backbone}, not for {recipe.backbone}.", fix=f"-b {ours.backbone}")
    if ours.weights != recipe.weights:
        raise UserError(
            f"The head is for {ours.backbone} with weights {ours.weights[:12]}; these are {recipe.weights[:12]}.",
            fix=f"--weights {ours.backbone}=FILE with the file that the head was trained on, or fit it again.",
        )
    if ours != recipe:
        raise UserError(
            f"The head is for other embeddings of {ours.backbone}: {'; '.join(differences(ours, recipe))}.",
            fix=f"--recipe {ours.id[:12]}, or fit the head again on these.",
        )
    if facts.classes != tuple(classes):
        raise UserError(
            f"The head has other classes than the dataset: {_first_difference(facts.classes, classes)}.",
            fix="Score a dataset with the same class folders, or fit the head again on this one.",
        )


def _facts(document: Mapping[str, Any]) -> HeadFacts:
    values = {field.name: document[field.name] for field in fields(HeadFacts)}
    return HeadFacts(
        **{
            **values,
            "settings": {name: float(value) for name, value in document["settings"].items()},
            "figures": {name: float(value) for name, value in document["figures"].items()},
            "recipe": parse_recipe(document["recipe"]),
            "templates": tuple(document["templates"]),
            "classes": tuple(document["classes"]),
            "training": tuple(TrainingSet(**each) for each in document["training"]),
        }
    )


def _check(kind: str, values: Mapping[str, Any], classes: int) -> type:
    """The record of a kind. Raises `ValueError` unless `values` are its fields, with types and shapes that fit."""
    if kind not in KINDS:
        raise ValueError(f"{kind} is no kind of head that this version of fastclip knows")
    needed = [field.name for field in fields(KINDS[kind]) if field.init and field.default is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"it has no {missing[0]}")
    lengths = {"classes": classes}
    for name, tensor in values.items():
        if isinstance(tensor, np.ndarray):
            letter, axes = TENSORS[name]
            found = dict(zip(axes, tensor.shape, strict=False))
            fits = all(lengths.setdefault(axis, length) == length for axis, length in found.items())
            if tensor.dtype.kind != letter or tensor.ndim != len(axes) or not fits:
                raise ValueError(f"its {name} are {tensor.dtype} of shape {tensor.shape}")
    return KINDS[kind]


def _first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    for place, (here, there) in enumerate(zip(ours, theirs, strict=False)):
        if here != there:
            return f"class {place} is {here} in the head and {there} in the dataset"
    longer, name = (ours, "the head") if len(ours) > len(theirs) else (theirs, "the dataset")
    return f"only {name} has {longer[min(len(ours), len(theirs))]}"
